//! Sockets that name services, and over the deaths of agents.
//!
//! Needs root.

#[expect(dead_code, reason = "a part of it is used here")]
mod bench;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use axon_linux::{cgroup, netns};
use bench::{Bench, agent_process, is_root};
use nix::errno::Errno;

const SERVICE: &str = "10.96.0.10:53";
const BACKENDS: [&str; 2] = ["10.78.0.1", "10.78.0.2"];
/// Of what takes milliseconds on a quiet machine; the agent looks by itself only
/// once a minute.
const SOON: Duration = Duration::from_secs(20);

/// Not a test of its own: the agent of the other, if it says so.
#[test]
fn agent() {
    agent_process();
}

/// A cgroup with this process in it, and with who it starts; until dropped.
struct Group {
    path: PathBuf,
    before: PathBuf,
}

impl Group {
    fn enter() -> Self {
        let mount = cgroup::mount_point().expect("a cgroup2 file system");
        let path = mount.join(format!("axt-agent-{}", std::process::id()));
        let before = mount.join(cgroup::current().expect("a cgroup"));
        cgroup::create(&path).expect("a cgroup");
        cgroup::enter(&path, std::process::id()).expect("entered");
        Self { path, before }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        cgroup::enter(&self.before, std::process::id()).expect("left");
        cgroup::kill(&self.path, Duration::from_secs(30)).expect("nobody is in it");
        cgroup::remove(&self.path).expect("removed");
    }
}

/// The service, and those of its backends that are there.
fn service(backends: &[&str]) -> String {
    let endpoints: String = backends
        .iter()
        .map(|address| format!("- {{addresses: [{address}], nodeName: n2}}\n"))
        .collect();
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: dns, namespace: default}}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{{name: udp, port: 53, protocol: UDP}}, {{name: tcp, port: 53, protocol: TCP}}]
---
apiVersion: v1
kind: Service
metadata: {{name: open, namespace: default}}
spec:
  type: NodePort
  clusterIP: 10.96.0.11
  clusterIPs: [10.96.0.11]
  ports: [{{port: 80, nodePort: 30080, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: dns-1, namespace: default, labels: {{kubernetes.io/service-name: dns}}}}
addressType: IPv4
ports: [{{name: udp, port: 5353, protocol: UDP}}, {{name: tcp, port: 5353, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

/// Has backends in a namespace that say who they are.
fn serve(place: &Path) {
    for address in BACKENDS {
        let netns = format!("--net={}", place.display());
        let mut ip = Command::new("nsenter");
        ip.args([&netns, "ip", "addr", "add", address, "dev", "lo"]);
        assert!(ip.status().expect("ip").success());
        let sockets = netns::within_path(place, || {
            let at = (address, 5353);
            let tcp = TcpListener::bind(at).expect("a listener");
            (UdpSocket::bind(at).expect("a socket"), tcp)
        });
        let (udp, tcp) = sockets.expect("the namespace");
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(address.as_bytes(), from);
            }
        });
        std::thread::spawn(move || tcp.incoming().count());
    }
}

/// A socket that is connected to the service, and its backend.
fn connected() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    socket.connect(SERVICE).expect("connected");
    assert_eq!(socket.peer_addr().expect("a peer").to_string(), SERVICE);
    socket.send(b"who?").expect("sent");
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("an answer");
    let name = String::from_utf8_lossy(&buffer[..length]).into_owned();
    (socket, name)
}

/// What a socket that is connected to the service sends from.
fn own_address() -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(SERVICE).expect("connected");
    socket.local_addr().expect("an address").ip().to_string()
}

/// The pins by name, as files tell them apart: one that is made anew is another.
fn pins(bench: &Bench) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(bench.path("bpf/sockets")).expect("pins");
    files
        .map(|file| {
            let file = file.expect("a pin");
            let name = file.file_name().to_string_lossy().into_owned();
            (name, file.metadata().expect("a pin").ino())
        })
        .collect()
}

/// Of sockets of a service, those of a backend that has gone are ended soon, and the
/// others go on.
fn end_with_their_backend(sockets: &[(UdpSocket, String)], is_gone: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    for (socket, name) in sockets.iter().filter(|(_, name)| is_gone(name)) {
        // What is sent meanwhile is for nobody.
        let error = loop {
            match socket.send(b"who?") {
                Err(error) => break error,
                Ok(_) => assert!(begun.elapsed() < SOON, "{name} has it still"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(error.raw_os_error(), Some(Errno::EDESTADDRREQ as i32));
        let error = socket.recv(&mut [0; 64]).expect_err("it is ended");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    }
    println!("ended after {:?}", begun.elapsed());
    for (socket, name) in sockets.iter().filter(|(_, name)| !is_gone(name)) {
        socket.send(b"who?").expect("it goes on");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..length], name.as_bytes());
    }
}

#[test]
fn sockets_are_led_over_restarts_and_end_with_their_backends() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let group = Group::enter();
    let mut bench = Bench::new("sockets");
    bench.option("kube-proxy-replacement", "true");
    bench.option("cgroup-root", &group.path.display().to_string());
    bench.manifest("base.yaml", &bench.base(&["client"]));
    bench.manifest("services.yaml", &service(&BACKENDS));
    bench.start();
    bench.add("client");
    let (state, text) = bench.status("sockets");
    let told = format!("all, 11 programs at {}", group.path.display());
    assert_eq!((state.as_str(), text), ("Ok", told));
    let places = [bench.node_netns().to_owned(), bench.pod_netns("client")];
    places.iter().for_each(|place| serve(place));
    let within = |place: &Path, count| {
        netns::within_path(place, || {
            (0..count).map(|_| connected()).collect::<Vec<_>>()
        })
        .expect("the namespace")
    };
    let mut sockets: Vec<_> = places.iter().flat_map(|place| within(place, 20)).collect();
    let on_node = |work: &(dyn Fn() -> std::io::Result<()> + Sync)| {
        netns::within_path(&places[0], || work().map_err(|error| error.kind())).expect("the node")
    };
    let bind = || TcpListener::bind("0.0.0.0:30080").map(drop);
    assert_eq!(on_node(&bind), Err(ErrorKind::AddrInUse));

    let before = pins(&bench);
    assert_eq!(before.len(), 11);
    bench.kill();
    sockets.extend(within(&places[0], 5));
    assert_eq!(on_node(&bind), Err(ErrorKind::AddrInUse), "without agent");
    bench.start();
    assert_eq!(pins(&bench), before, "the next agent has the same links");
    assert_eq!(bench.status("sockets").0, "Ok");
    sockets.extend(within(&places[1], 5));

    let is_gone = |name: &str| name == BACKENDS[0];
    let end = |bench: &Bench, sockets: &[(UdpSocket, String)]| {
        let gone = sockets.iter().filter(|(_, name)| is_gone(name)).count();
        assert!(gone > 0 && gone < sockets.len(), "both have some");
        bench.manifest("services.yaml", &service(&BACKENDS[1..]));
        end_with_their_backend(sockets, is_gone);
    };
    end(&bench, &sockets);
    // Once more: whoever starts looks by itself at first.
    bench.manifest("services.yaml", &service(&BACKENDS));
    let begun = Instant::now();
    sockets.retain(|(_, name)| !is_gone(name));
    while !sockets.iter().any(|(_, name)| is_gone(name)) {
        assert!(begun.elapsed() < SOON, "it is back");
        sockets.extend(within(&places[1], 20));
    }
    end(&bench, &sockets);
    for place in &places {
        let again = within(place, 10);
        assert!(again.iter().all(|(_, name)| !is_gone(name)));
    }

    bench.stop();
    bench.option("bpf-lb-sock-hostns-only", "true");
    bench.start();
    let (_, text) = bench.status("sockets");
    assert!(text.starts_with("the node's, 11"), "{text}");
    within(&places[0], 3);
    // Who is led speaks to itself, under the backend's address.
    let own = |place: &Path| netns::within_path(place, own_address).expect("the namespace");
    assert!(BACKENDS.contains(&own(&places[0]).as_str()));
    assert!(!BACKENDS.contains(&own(&places[1]).as_str()));

    bench.stop();
    bench.option("kube-proxy-replacement", "false");
    bench.option("bpf-lb-sock-hostns-only", "false");
    bench.start();
    assert_eq!(bench.status("sockets").0, "Disabled");
    assert!(!bench.exists("bpf/sockets/sock4_connect"));
    on_node(&bind).expect("kube-proxy would bind to it");
    bench.stop();
}
