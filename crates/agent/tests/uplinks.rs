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

const OUTSIDE: &str = "192.0.2.100";

impl Outside {
    fn new() -> Self {
        let name = format!("axt-beyond-{}", std::process::id());
        let netns = netns::create(&name).expect("a namespace");
        Self { name, netns }
    }

    /// Takes the other end of the uplink.
    fn connect(&self, bench: &Bench) {
        bench.ip(&["link", "set", "up1", "netns", &self.name]);
        let address = format!("{OUTSIDE}/24");
        for args in [
            &["addr", "add", &address, "dev", "up1"][..],
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
    fn sees(&self, pod: &Path) -> Option<IpAddr> {
        let at = |netns: &Path, address: &'static str| {
            let socket = netns::within_path(netns, || UdpSocket::bind((address, 0)));
            socket.expect("entered").expect("a socket")
        };
        let (server, client) = (at(&self.netns, OUTSIDE), at(pod, "0.0.0.0"));
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
    outside.connect(&bench);
    let base = bench.base(&["a"]);
    bench.manifest("base.yaml", &base);
    bench.start();
    bench.add("a");
    let pod = bench.pod_netns("a");
    let leaves_by = |bench: &mut Bench, address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        bench.until(&format!("pods leave by {address}"), |_| {
            outside.sees(&pod) == Some(address)
        });
    };
    leaves_by(&mut bench, "192.0.2.1");

    // Of a prefix of its own, or it would go with the first.
    bench.ip(&["addr", "add", "192.0.2.9/25", "dev", "up0"]);
    bench.ip(&["addr", "del", "192.0.2.1/24", "dev", "up0"]);
    leaves_by(&mut bench, "192.0.2.9");
    bench.until("status tells the Node's address that is gone", |bench| {
        let (state, text) = bench.status("devices");
        state == "Warning" && text.contains("192.0.2.1, which no device has")
    });
    let renumbered = base.replace("address: 192.0.2.1}", "address: 192.0.2.9}");
    bench.manifest("base.yaml", &renumbered);
    bench.until("the Node says what is", |bench| {
        bench.status("devices").0 == "Ok"
    });
    leaves_by(&mut bench, "192.0.2.9");

    bench.ip(&["link", "del", "up0"]);
    bench.until("status names the uplink", |bench| {
        bench.status("devices").1.contains("up0")
    });
    bench.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    bench.ip(&["addr", "add", "192.0.2.9/24", "dev", "up0"]);
    bench.ip(&["link", "set", "up0", "up"]);
    outside.connect(&bench);
    leaves_by(&mut bench, "192.0.2.9");
    bench.stop();
}
