//! Topologies whose packets are carried by programs that do the least.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{HashMap, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

const PROGRAM: &str = "floor_full";
/// As much as pods of ours get.
const BIG_LEN: u32 = 196_608;

/// The programs on the devices of two pods; gone when dropped.
pub(crate) struct Floor {
    _ebpf: Ebpf,
}

impl Floor {
    /// Attaches the programs of an object to `ha` and `hb` of a namespace.
    pub(crate) fn attach(object: &Path, host: &str) -> Result<Self> {
        let bytes = std::fs::read(object)
            .with_context(|| format!("the floor's object {}", object.display()))?;
        within(host, || {
            let mut loader = EbpfLoader::new();
            loader.btf(None);
            let mut ebpf = loader.load(&bytes)?;
            for (device, n) in [("ha", 1), ("hb", 2)] {
                fill(&mut ebpf, host, device, n)?;
            }
            let mut rules: HashMap<&mut MapData, [u8; 8], u64> = map(&mut ebpf, "floor_rule")?;
            rules.insert([0; 8], 1, 0)?;
            let program: &mut SchedClassifier = ebpf
                .program_mut(PROGRAM)
                .with_context(|| format!("the object has no {PROGRAM}"))?
                .try_into()?;
            program.load()?;
            for device in ["ha", "hb"] {
                program.attach(device, TcAttachType::Ingress)?;
            }
            Ok(Self { _ebpf: ebpf })
        })
    }
}

fn map<'a, K, V>(ebpf: &'a mut Ebpf, name: &str) -> Result<HashMap<&'a mut MapData, K, V>>
where
    K: aya::Pod,
    V: aya::Pod,
{
    let map = ebpf
        .map_mut(name)
        .with_context(|| format!("the object has no {name}"))?;
    Ok(map.try_into()?)
}

/// Writes the rows of the pod behind a device.
fn fill(ebpf: &mut Ebpf, host: &str, device: &str, n: u8) -> Result<()> {
    let pod = host
        .strip_suffix("-h")
        .map(|prefix| format!("{prefix}-{}", if n == 1 { "a" } else { "b" }))
        .context("a host's namespace ends in -h")?;
    let addr = u32::from_ne_bytes(Ipv4Addr::new(10, 201, n, 2).octets());
    let mut place = [0; 16];
    let (index, rest) = place.split_at_mut(4);
    index.copy_from_slice(&if_nametoindex(device)?.to_ne_bytes());
    let (mac, gateway) = rest.split_at_mut(6);
    mac.copy_from_slice(&mac_of(&pod, "eth0")?);
    gateway.copy_from_slice(&mac_of(host, device)?);
    map::<u32, [u8; 16]>(ebpf, "floor_place")?.insert(addr, place, 0)?;
    map::<u32, u32>(ebpf, "floor_identity")?.insert(addr, 1000 + u32::from(n), 0)?;
    Ok(())
}

/// The MAC address of a device.
fn mac_of(netns: &str, device: &str) -> Result<[u8; 6]> {
    let output = Command::new("nsenter")
        .arg(format!("--net={netns}"))
        .args(["ip", "-j", "link", "show", "dev", device])
        .output()
        .context("running ip")?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let text = links[0]["address"]
        .as_str()
        .with_context(|| format!("{device} has no address"))?;
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes
        .try_into()
        .map_err(|_| anyhow!("{text} is no MAC address"))
}

/// Runs something in a network namespace, on a thread of its own.
fn within<R: Send>(netns: &str, run: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            let file = File::open(netns).with_context(|| format!("opening {netns}"))?;
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {netns}"))?;
            run()
        });
        entered.join().map_err(|_| anyhow!("the thread panicked"))?
    })
}

/// Lets a device carry aggregates beyond 64 KiB, IPv4 too.
pub(crate) fn raise_aggregates(netns: &str, device: &str) -> Result<()> {
    within(netns, || {
        let mut link = LinkMessage::default();
        link.header.index = if_nametoindex(device)?;
        link.attributes = vec![
            LinkAttribute::GsoMaxSize(BIG_LEN),
            LinkAttribute::GroMaxSize(BIG_LEN),
            LinkAttribute::GsoIpv4MaxSize(BIG_LEN),
            LinkAttribute::GroIpv4MaxSize(BIG_LEN),
        ];
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&bytes, 0)?;
        let (answer, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
            other => bail!("the kernel refuses aggregates of {BIG_LEN} bytes: {other:?}"),
        }
    })
}
