//! Living with others: a firewall that forwards nothing, the bridge of another
//! container engine, other programs on the same device.

mod common;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use axon_abi::{
    ConfigFlags, DropReason, Identity, IpKey, IpcacheFlags, IpcacheRow, PolicySetFlags,
};
use axon_linux::process::{self, Place};
use axon_linux::{Datapath, Features, KernelReconciler, netns, read_metrics};
use axon_model::{Desired, PolicyRows};
use common::{Node, Pod, attached, desired, reconciler, root};
use nix::libc;

/// How long is waited for what is to come, and for what is not.
const PATIENCE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_millis(500);
/// Addresses of the node.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The same on the bridge of the other engine.
const BRIDGE: [&str; 2] = ["172.30.0.1", "fd30::1"];

fn ip(node: &Node, commands: &[&str]) {
    for command in commands {
        let args: Vec<&str> = command.split(' ').collect();
        let output = node.exec("ip", &args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {command}: {error}");
    }
}

/// Whether a program is there; says what the test needs if not.
fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: needs {program}");
    }
    found
}

/// Puts rules of nftables in force on a node.
fn nft(node: &Node, rules: &str) {
    let mut command = Command::new("nft");
    command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let place = Place {
        netns: Some(netns::path(&node.netns)),
        ..Place::default()
    };
    let mut child = process::spawn(command, &place).expect("nft starts");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(rules.as_bytes()).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("nft ends");
    assert!(output.status.success(), "{output:?}");
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Somebody who talks: a pod, or a whole node.
trait Somewhere {
    fn netns(&self) -> File;
}

impl Somewhere for Pod {
    fn netns(&self) -> File {
        self.netns.try_clone().expect("a descriptor")
    }
}

impl Somewhere for Node {
    fn netns(&self) -> File {
        File::open(netns::path(&self.netns)).expect("the namespace")
    }
}

/// A connection and a datagram to an address of somebody, both answered; who
/// came, as they see it.
fn talk(
    from: &impl Somewhere,
    to: &impl Somewhere,
    addr: &str,
    wait: Duration,
) -> io::Result<[IpAddr; 2]> {
    talk_by(from, to, [addr, addr], wait)
}

/// The same, by an address that somebody on the way translates.
fn talk_by(
    from: &impl Somewhere,
    to: &impl Somewhere,
    [asked, addr]: [&str; 2],
    wait: Duration,
) -> io::Result<[IpAddr; 2]> {
    let (from, to) = (from.netns(), to.netns());
    let within = |at: &File, run: &(dyn Fn() -> io::Result<OwnedFd> + Sync)| {
        netns::within(at.as_fd(), run).expect("entered")
    };
    let (asked, addr) = (address(asked), address(addr));
    let listener = TcpListener::from(within(&to, &|| Ok(TcpListener::bind((addr, 0))?.into()))?);
    let target = SocketAddr::new(asked, listener.local_addr()?.port());
    let mut client = TcpStream::from(within(&from, &|| {
        Ok(TcpStream::connect_timeout(&target, wait)?.into())
    })?);
    let (mut server, came) = listener.accept()?;
    let mut buffer = [0; 4];
    for (one, other) in [(&mut client, &mut server)] {
        for stream in [&mut *one, &mut *other] {
            stream.set_read_timeout(Some(wait))?;
        }
        one.write_all(b"ping")?;
        other.read_exact(&mut buffer)?;
        other.write_all(b"pong")?;
        one.read_exact(&mut buffer)?;
    }
    let server = UdpSocket::from(within(&to, &|| Ok(UdpSocket::bind((addr, 0))?.into()))?);
    let target = SocketAddr::new(asked, server.local_addr()?.port());
    let any: IpAddr = if addr.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        [0_u16; 8].into()
    };
    let client = UdpSocket::from(within(&from, &|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        Ok(socket.into())
    })?);
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(wait))?;
    }
    client.send(b"ping")?;
    let (_, sender) = server.recv_from(&mut buffer)?;
    server.send_to(b"pong", sender)?;
    // Connected, it takes the answer only from whom it asked.
    client.recv(&mut buffer)?;
    Ok([came.ip(), sender.ip()])
}

fn reaches(from: &impl Somewhere, to: &impl Somewhere, addr: &str) -> [IpAddr; 2] {
    talk(from, to, addr, PATIENCE).unwrap_or_else(|error| panic!("{addr}: {error}"))
}

fn silent(from: &impl Somewhere, to: &impl Somewhere, addr: &str) {
    let came = talk(from, to, addr, SILENCE);
    assert!(came.is_err(), "{addr}: {came:?}");
}

/// A node with two pods, all allowed, that forwards and whose addresses are
/// known.
struct Stage {
    desired: Desired,
    reconciler: KernelReconciler,
    datapath: Datapath,
    pods: [Pod; 2],
    // Last: it can be cleaned when nobody holds its datapath.
    node: Node,
}

fn stage(name: &str) -> Stage {
    let node = Node::new(name);
    node.run(|| {
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{switch}"), "1").expect(switch);
        }
    });
    let pods = [1, 2].map(|n| Pod::create(&node, n));
    ip(
        &node,
        &[
            "link set lo up",
            "addr add 192.0.2.1/32 dev lo",
            "-6 addr add 2001:db8::1/128 dev lo nodad",
        ],
    );
    let datapath = attached(&node, &node.config(), &pods);
    let desired = desired(&[&pods[0], &pods[1]]);
    desired.ipcache.write(|txn| {
        for addr in [NODE, BRIDGE].concat() {
            let row = IpcacheRow {
                identity: Identity::HOST,
                flags: IpcacheFlags::LOCAL_HOST,
                ..IpcacheRow::default()
            };
            txn.insert(IpKey::from(address(addr)), row);
        }
    });
    let mut reconciler = reconciler(&node, datapath.maps());
    let report = reconciler.sync(0, &desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    Stage {
        node,
        pods,
        datapath,
        desired,
        reconciler,
    }
}

impl Stage {
    fn drops(&self, reason: DropReason) -> u64 {
        let metrics = read_metrics(self.datapath.maps()).expect("metrics");
        let rows = metrics.iter().filter(|row| row.reason == reason as u8);
        rows.map(|row| row.packets).sum()
    }

    /// Closes the first pod to all but its node.
    fn close(&mut self) {
        let mut closed = PolicyRows::default();
        closed.set.flags = PolicySetFlags::DEFAULT_DENY_INGRESS;
        self.desired.policy_sets.write(|txn| txn.insert(2, closed));
        let pod = &self.pods[0];
        self.desired
            .endpoints
            .write(|txn| txn.insert(pod.ifindex, pod.row(1000, 2)));
        let report = self.reconciler.sync(1, &self.desired);
        assert_eq!(report.failing_rows(), 0, "{report:?}");
    }
}

/// The bridge of another engine on the node, with a container.
fn bridge(node: &Node, container: &Node) {
    node.run(|| common::veth::add("ct0", 0, "ct1", 1500));
    ip(
        node,
        &[
            "link add br0 type bridge",
            &format!("link set ct1 netns {}", container.netns),
            "link set ct0 master br0",
            "link set ct0 up",
            "link set br0 up",
            "addr add 172.30.0.1/24 dev br0",
            "-6 addr add fd30::1/64 dev br0 nodad",
        ],
    );
    ip(
        container,
        &[
            "link set ct1 up",
            "addr add 172.30.0.2/24 dev ct1",
            "-6 addr add fd30::2/64 dev ct1 nodad",
            "route add default via 172.30.0.1",
            "-6 route add default via fd30::1",
        ],
    );
}

/// As Docker and podman have it.
const ENGINE: &str = r#"
table inet engine {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "br0" accept
        iifname "lxc*" oifname "br0" accept
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        ip saddr 172.30.0.0/24 oifname != "br0" masquerade
        ip6 saddr fd30::/64 oifname != "br0" masquerade
    }
}
"#;

#[test]
fn containers_of_another_engine_and_pods_reach_each_other() {
    let Some(()) = root() else { return };
    if !has("nft") {
        return;
    }
    let container = Node::new("container");
    let mut stage = stage("engine");
    bridge(&stage.node, &container);
    nft(&stage.node, ENGINE);
    for (pod, container_addr) in [("10.7.0.1", "172.30.0.2"), ("fd07::1", "fd30::2")] {
        let came = reaches(&container, &stage.pods[0], pod);
        let own = [NODE, BRIDGE].concat();
        for came in came {
            assert!(
                own.contains(&came.to_string().as_str()),
                "translated: {came}"
            );
        }
        // Untranslated, and the answers too, which their firewall has to know.
        let came = reaches(&stage.pods[0], &container, container_addr);
        assert_eq!(came, [address(pod); 2]);
    }
    assert_eq!(stage.drops(DropReason::InvalidSourceIp), 0);
    stage.close();
    for (pod, own) in [("10.7.0.1", NODE[0]), ("fd07::1", NODE[1])] {
        silent(&container, &stage.pods[0], pod);
        let came = reaches(&stage.node, &stage.pods[0], pod);
        assert!(came.iter().all(|c| c.is_ipv4() == address(own).is_ipv4()));
    }
    assert!(stage.drops(DropReason::PolicyDenied) > 0);
}

/// As kube-proxy has a port of the node: here all of them lead to the first pod.
const MAPPED: &str = r#"
table inet mapped {
    chain prerouting {
        type nat hook prerouting priority -100;
        iifname "lxc*" ip daddr 192.0.2.1 dnat ip to 10.7.0.1
        iifname "lxc*" ip6 daddr 2001:db8::1 dnat ip6 to fd07::1
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        iifname "lxc*" oifname "lxc*" masquerade
    }
}
"#;

#[test]
fn who_comes_by_a_port_of_the_node_is_not_the_node() {
    let Some(()) = root() else { return };
    if !has("nft") {
        return;
    }
    let mut stage = stage("mapped");
    nft(&stage.node, MAPPED);
    let ways = [(NODE[0], "10.7.0.1"), (NODE[1], "fd07::1")];
    for way in ways.map(<[&str; 2]>::from) {
        let [a, b] = &stage.pods;
        let came = talk_by(b, a, way, PATIENCE).unwrap_or_else(|error| panic!("{way:?}: {error}"));
        assert!(!came.contains(&address("10.7.0.2")), "translated: {came:?}");
        assert!(!came.contains(&address("fd07::2")), "translated: {came:?}");
    }
    stage.close();
    for way in ways.map(<[&str; 2]>::from) {
        let [a, b] = &stage.pods;
        let came = talk_by(b, a, way, SILENCE);
        assert!(came.is_err(), "{way:?}: {came:?}");
        reaches(&stage.node, a, way[1]);
    }
    assert!(stage.drops(DropReason::PolicyDenied) > 0);
}

/// Nothing is forwarded, and nothing comes in but what neighbours need.
const CLOSED: &str = r#"
table inet firewall {
    chain forward { type filter hook forward priority 0; policy drop; }
    chain input {
        type filter hook input priority 0; policy drop;
        meta l4proto ipv6-icmp accept
    }
}
"#;

#[test]
fn a_firewall_that_forwards_nothing_stops_no_pod() {
    let Some(()) = root() else { return };
    let outside = Node::new("outside");
    let mut stage = stage("firewall");
    stage.node.run(|| common::veth::add("up0", 0, "up1", 1500));
    ip(
        &stage.node,
        &[
            &format!("link set up1 netns {}", outside.netns),
            "link set up0 up",
            "addr add 192.0.2.1/24 dev up0",
            "-6 addr add 2001:db8::1/64 dev up0 nodad",
        ],
    );
    ip(
        &outside,
        &[
            "link set up1 up",
            "addr add 192.0.2.254/24 dev up1",
            "-6 addr add 2001:db8::fe/64 dev up1 nodad",
        ],
    );
    let Stage { node, datapath, .. } = &mut stage;
    node.run(|| datapath.set_uplinks(&["up0".to_owned()]))
        .expect("an uplink");
    stage.desired.config.write(|txn| {
        if let Some(config) = txn.get(&0).map(|config| **config) {
            let masquerade = ConfigFlags::MASQUERADE_IPV4 | ConfigFlags::MASQUERADE_IPV6;
            let config = axon_abi::RuntimeConfig {
                flags: config.flags | masquerade,
                node_ipv6: IpKey::from(address(NODE[1])),
                ..config
            };
            txn.insert(0, config);
        }
    });
    let report = stage.reconciler.sync(1, &stage.desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let goes_on = |by: &str| {
        let [a, b] = &stage.pods;
        for (one, other, out, own) in [
            ("10.7.0.1", "10.7.0.2", "192.0.2.254", NODE[0]),
            ("fd07::1", "fd07::2", "2001:db8::fe", NODE[1]),
        ] {
            assert_eq!(reaches(a, b, other), [address(one); 2], "{by}");
            assert_eq!(reaches(a, &outside, out), [address(own); 2], "{by}");
            silent(&outside, &stage.node, own);
        }
    };
    if has("nft") {
        nft(&stage.node, CLOSED);
        goes_on("nftables");
        nft(&stage.node, "flush ruleset");
    }
    if has("iptables") && has("ip6tables") {
        for (program, icmp) in [("iptables", "icmp"), ("ip6tables", "ipv6-icmp")] {
            for args in [
                &["-P", "FORWARD", "DROP"][..],
                &["-P", "INPUT", "DROP"],
                &["-A", "INPUT", "-p", icmp, "-j", "ACCEPT"],
            ] {
                let output = stage.node.exec(program, args);
                assert!(output.status.success(), "{program} {args:?}: {output:?}");
            }
        }
        goes_on("iptables");
    }
}

/// A tc program that always says the same.
struct Other(OwnedFd);

/// What it may say, at a tcx hook.
const NEXT: i32 = -1;
const DROP: i32 = 2;
/// The hooks of a device.
const INGRESS: u32 = 46;
const EGRESS: u32 = 47;

fn bpf(command: libc::c_long, attr: &mut [u32; 32]) -> OwnedFd {
    let len = size_of_val(attr);
    // SAFETY: `attr` is writable for `len` bytes, and what it points to lives on.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), len) };
    assert!(fd >= 0, "bpf {command}: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just given this descriptor to us.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) }
}

impl Other {
    /// Puts it in front of what is on the device, or behind.
    fn attach(ifindex: u32, hook: u32, says: i32, front: bool) -> Self {
        // r0 = says; exit.
        let code: [u64; 2] = [0xb7 | u64::from(says as u32) << 32, 0x95];
        let halves = |address: u64| [address as u32, (address >> 32) as u32];
        let mut load = [0; 32];
        load[..2].copy_from_slice(&[3, 2]);
        load[2..4].copy_from_slice(&halves(code.as_ptr() as u64));
        load[4..6].copy_from_slice(&halves(c"GPL".as_ptr() as u64));
        let program = bpf(5, &mut load);
        let place = if front { 1 << 3 } else { 1 << 4 };
        let mut link = [0; 32];
        link[..4].copy_from_slice(&[program.as_raw_fd() as u32, ifindex, hook, place]);
        Self(bpf(28, &mut link))
    }
}

#[test]
fn other_programs_on_a_device_have_their_say_and_ours_keeps_its_own() {
    let Some(()) = root() else { return };
    if !Features::probe().has(Features::TCX) {
        eprintln!("skipped: needs a kernel with tcx");
        return;
    }
    let mut stage = stage("tcx");
    let device = stage.pods[0].ifindex;
    let attach = |hook, says, front| {
        let other = stage.node.run(|| Other::attach(device, hook, says, front));
        assert!(other.0.as_raw_fd() >= 0);
        other
    };
    let [a, b] = &stage.pods;
    for hook in [INGRESS, EGRESS] {
        let around = [true, false].map(|front| attach(hook, NEXT, front));
        reaches(a, b, "10.7.0.2");
        reaches(a, &stage.node, NODE[0]);
        reaches(&stage.node, a, "fd07::1");
        drop(around);
        for front in [true, false] {
            let drops = attach(hook, DROP, front);
            silent(a, &stage.node, NODE[0]);
            drop(drops);
            reaches(a, &stage.node, NODE[0]);
        }
    }
    let behind = [INGRESS, EGRESS].map(|hook| attach(hook, NEXT, false));
    let front = [INGRESS, EGRESS].map(|hook| attach(hook, NEXT, true));
    stage.close();
    let [a, b] = &stage.pods;
    silent(b, a, "10.7.0.1");
    reaches(&stage.node, a, "10.7.0.1");
    drop((behind, front));
}
