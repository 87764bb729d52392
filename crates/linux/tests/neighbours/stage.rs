//! A node with two pods, and who talks to whom.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axon_abi::{DropReason, Identity, IpKey, IpcacheFlags, IpcacheRow, PolicySetFlags};
use axon_linux::firewall::Firewall;
use axon_linux::process::{self, Place};
use axon_linux::{Datapath, DatapathConfig, KernelReconciler, netns, read_metrics};
use axon_model::{Desired, PolicyRows};

use crate::common::{Node, Pod, attached, desired, reconciler};

/// How long is waited for what is to come, and for what is not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const SILENCE: Duration = Duration::from_millis(500);
/// Addresses of the node.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The same on the bridge of the other engine.
pub(crate) const BRIDGE: [&str; 2] = ["172.30.0.1", "fd30::1"];

pub(crate) fn ip(node: &Node, commands: &[&str]) {
    for command in commands {
        let args: Vec<&str> = command.split(' ').collect();
        let output = node.exec("ip", &args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {command}: {error}");
    }
}

/// Whether a program is there; says what the test needs if not.
pub(crate) fn has(program: &str) -> bool {
    // What `tc` knows, and no other.
    let ask = if program == "tc" { "-V" } else { "--version" };
    let found = Command::new(program)
        .arg(ask)
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: needs {program}");
    }
    found
}

/// Puts rules of nftables in force on a node.
pub(crate) fn nft(node: &Node, rules: &str) {
    feed(node, &["nft", "-f", "-"], rules);
}

/// Runs a program in the node's namespace that reads something.
pub(crate) fn feed(node: &Node, program: &[&str], text: &str) {
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let place = Place {
        netns: Some(netns::path(&node.netns)),
        ..Place::default()
    };
    let mut child = process::spawn(command, &place).expect("it starts");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program:?}: {output:?}");
}

/// Runs a program in the node's namespace that must do its work.
pub(crate) fn must(node: &Node, program: &[&str]) {
    let output = node.exec(program[0], &program[1..]);
    assert!(output.status.success(), "{program:?}: {output:?}");
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Somebody who talks: a pod, or a whole node.
pub(crate) trait Somewhere {
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

/// Opens a socket at somebody's.
fn within(at: &File, run: impl Fn() -> io::Result<OwnedFd> + Sync) -> io::Result<OwnedFd> {
    netns::within(at.as_fd(), &run).expect("entered")
}

/// A connection and a datagram to an address of somebody, both answered; who
/// came, as they see it.
pub(crate) fn talk(
    from: &impl Somewhere,
    to: &impl Somewhere,
    addr: &str,
    wait: Duration,
) -> io::Result<[IpAddr; 2]> {
    talk_by(from, to, [addr, addr], wait)
}

/// The same, by an address that somebody on the way translates.
pub(crate) fn talk_by(
    from: &impl Somewhere,
    to: &impl Somewhere,
    ways: [&str; 2],
    wait: Duration,
) -> io::Result<[IpAddr; 2]> {
    let ways = ways.map(|addr| SocketAddr::new(address(addr), 0));
    let came = connect(from, to, ways, wait)?;
    Ok([came, datagram(from, to, ways, wait)?])
}

/// A connection that is answered; who came. A port of 0 that is asked for is
/// the one that is listened at.
pub(crate) fn connect(
    from: &impl Somewhere,
    to: &impl Somewhere,
    [mut asked, at]: [SocketAddr; 2],
    wait: Duration,
) -> io::Result<IpAddr> {
    let (from, to) = (from.netns(), to.netns());
    let listener = TcpListener::from(within(&to, || Ok(TcpListener::bind(at)?.into()))?);
    if asked.port() == 0 {
        asked.set_port(listener.local_addr()?.port());
    }
    let mut client = TcpStream::from(within(&from, || {
        Ok(TcpStream::connect_timeout(&asked, wait)?.into())
    })?);
    let (mut server, came) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(wait))?;
    }
    let mut buffer = [0; 4];
    client.write_all(b"ping")?;
    server.read_exact(&mut buffer)?;
    server.write_all(b"pong")?;
    client.read_exact(&mut buffer)?;
    Ok(came.ip())
}

/// The same with a datagram.
fn datagram(
    from: &impl Somewhere,
    to: &impl Somewhere,
    [mut asked, at]: [SocketAddr; 2],
    wait: Duration,
) -> io::Result<IpAddr> {
    let (from, to) = (from.netns(), to.netns());
    let server = UdpSocket::from(within(&to, || Ok(UdpSocket::bind(at)?.into()))?);
    asked.set_port(server.local_addr()?.port());
    let any: IpAddr = if at.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        [0_u16; 8].into()
    };
    let client = UdpSocket::from(within(&from, || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(asked)?;
        Ok(socket.into())
    })?);
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(wait))?;
    }
    let mut buffer = [0; 4];
    client.send(b"ping")?;
    let (_, sender) = server.recv_from(&mut buffer)?;
    server.send_to(b"pong", sender)?;
    // Connected, it takes the answer only from whom it asked.
    client.recv(&mut buffer)?;
    Ok(sender.ip())
}

pub(crate) fn reaches(from: &impl Somewhere, to: &impl Somewhere, addr: &str) -> [IpAddr; 2] {
    talk(from, to, addr, PATIENCE).unwrap_or_else(|error| panic!("{addr}: {error}"))
}

pub(crate) fn silent(from: &impl Somewhere, to: &impl Somewhere, addr: &str) {
    let came = talk(from, to, addr, SILENCE);
    assert!(came.is_err(), "{addr}: {came:?}");
}

/// A node with two pods, all allowed, that forwards and whose addresses are
/// known.
pub(crate) struct Stage {
    pub(crate) desired: Desired,
    pub(crate) reconciler: KernelReconciler,
    pub(crate) datapath: Datapath,
    pub(crate) pods: [Pod; 2],
    // Last: it can be cleaned when nobody holds its datapath.
    pub(crate) node: Node,
}

pub(crate) fn stage(name: &str) -> Stage {
    stage_with(name, |_| {})
}

/// The same, with a datapath that is configured otherwise.
pub(crate) fn stage_with(name: &str, configure: impl FnOnce(&mut DatapathConfig)) -> Stage {
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
    let mut config = node.config();
    configure(&mut config);
    let datapath = attached(&node, &config, &pods);
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
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        let metrics = read_metrics(self.datapath.maps()).expect("metrics");
        let rows = metrics.iter().filter(|row| row.reason == reason as u8);
        rows.map(|row| row.packets).sum()
    }

    /// What firewalls the node has.
    pub(crate) fn firewall(&self) -> Firewall {
        let until = Instant::now() + PATIENCE;
        self.node.run(|| {
            let mut all = Firewall::nf_tables(until).expect("nf_tables");
            let legacy = Firewall::ip_tables(until).expect("ip_tables");
            all.closed.extend(legacy.closed);
            all.mappers.extend(legacy.mappers);
            all
        })
    }

    /// Closes the first pod to all but its node.
    pub(crate) fn close(&mut self) {
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
