//! The node's uplink changes its address, and is replaced: pods go on leaving
//! the node by what is there.

#[expect(dead_code, reason = "a part of it is used here")]
mod bench;

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axon_linux::netns;
use bench::{Bench, agent_process, is_root};

/// Not a test of its own: the agent of the other, if it says so.
#[test]
fn agent() {
    agent_process();
}

/// Somebody at the other end of the uplink.
struct Outside {
    name: String,
    netns: PathBuf,
}

/// A family: who is outside, the node at first, and the node later.
struct Family {
    outside: &'static str,
    first: &'static str,
    later: &'static str,
    /// Length of the network's prefix.
    network: u8,
    /// A pod's address of it.
    any: &'static str,
}

const V4: Family = Family {
    outside: "192.0.2.100",
    first: "192.0.2.1",
    later: "192.0.2.9",
    network: 24,
    any: "0.0.0.0",
};
const V6: Family = Family {
    outside: "2001:db8:2::100",
    first: "2001:db8:2::1",
    later: "2001:db8:2::9",
    network: 64,
    any: "::",
};

impl Outside {
    fn new() -> Self {
        let name = format!("axt-beyond-{}", std::process::id());
        let netns = netns::create(&name).expect("a namespace");
        Self { name, netns }
    }

    /// Takes the other end of the uplink.
    fn connect(&self, bench: &Bench) {
        bench.ip(&["link", "set", "up1", "netns", &self.name]);
        let [v4, v6] = [V4, V6].map(|family| format!("{}/{}", family.outside, family.network));
        for args in [
            &["addr", "add", &v4, "dev", "up1"][..],
            &["addr", "add", &v6, "dev", "up1", "nodad"],
            &["link", "set", "up1", "up"],
        ] {
            let done = std::process::Command::new("ip")
                .args(["-n", &self.name])
                .args(args)
                .status();
            assert!(done.expect("ip runs").success(), "{args:?}");
        }
    }

    /// Who sends, as it is seen here, when a pod does.
    fn sees(&self, pod: &Path, family: &Family) -> Option<IpAddr> {
        let at = |netns: &Path, address: &'static str| {
            let socket = netns::within_path(netns, || UdpSocket::bind((address, 0)));
            socket.expect("entered").expect("a socket")
        };
        let (server, client) = (at(&self.netns, family.outside), at(pod, family.any));
        let wait = Some(Duration::from_secs(1));
        for socket in [&server, &client] {
            socket.set_read_timeout(wait).expect("a timeout");
        }
        let mut buffer = [0; 4];
        client
            .send_to(b"ping", server.local_addr().expect("its address"))
            .ok()?;
        let (_, from) = server.recv_from(&mut buffer).ok()?;
        // The answer finds its way back too.
        server.send_to(b"pong", from).ok()?;
        client.recv_from(&mut buffer).ok()?;
        Some(from.ip())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = netns::delete(&self.name);
    }
}

#[test]
fn pods_leave_by_the_address_that_is_there() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let outside = Outside::new();
    let mut bench = Bench::new("uplink");
    bench.ip(&["addr", "add", "2001:db8:2::1/64", "dev", "up0", "nodad"]);
    outside.connect(&bench);
    let base = bench.base(&["a"]).replace(
        "address: 192.0.2.1}",
        "address: 192.0.2.1}, {type: InternalIP, address: '2001:db8:2::1'}",
    );
    bench.manifest("base.yaml", &base);
    bench.start();
    bench.add("a");
    let pod = bench.pod_netns("a");
    let leaves_by = |bench: &mut Bench, family: &Family, address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        bench.until(&format!("pods leave by {address}"), |_| {
            outside.sees(&pod, family) == Some(address)
        });
    };
    for family in [V4, V6] {
        leaves_by(&mut bench, &family, family.first);
    }

    // Of prefixes of their own, or they would go with the first.
    bench.ip(&["addr", "add", "192.0.2.9/25", "dev", "up0"]);
    bench.ip(&["addr", "add", "2001:db8:2::9/65", "dev", "up0", "nodad"]);
    bench.ip(&["addr", "del", "192.0.2.1/24", "dev", "up0"]);
    bench.ip(&["addr", "del", "2001:db8:2::1/64", "dev", "up0"]);
    for family in [V4, V6] {
        leaves_by(&mut bench, &family, family.later);
    }
    bench.until("status tells the Node's addresses that are gone", |bench| {
        let (state, text) = bench.status("devices");
        let gone = "192.0.2.1, 2001:db8:2::1, which no device has";
        state == "Warning" && text.contains(gone)
    });
    let renumbered = base
        .replace("address: 192.0.2.1}", "address: 192.0.2.9}")
        .replace("'2001:db8:2::1'", "'2001:db8:2::9'");
    bench.manifest("base.yaml", &renumbered);
    bench.until("the Node says what is", |bench| {
        bench.status("devices").0 == "Ok"
    });
    for family in [V4, V6] {
        leaves_by(&mut bench, &family, family.later);
    }

    bench.ip(&["link", "del", "up0"]);
    bench.until("status names the uplink", |bench| {
        bench.status("devices").1.contains("up0")
    });
    bench.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    bench.ip(&["addr", "add", "192.0.2.9/24", "dev", "up0"]);
    bench.ip(&["addr", "add", "2001:db8:2::9/64", "dev", "up0", "nodad"]);
    bench.ip(&["link", "set", "up0", "up"]);
    outside.connect(&bench);
    for family in [V4, V6] {
        leaves_by(&mut bench, &family, family.later);
    }
    bench.stop();
}
