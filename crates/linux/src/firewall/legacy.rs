//! Tables of ip_tables and ip6_tables, which `iptables-legacy` fills.
//!
//! To ask the kernel for a table makes it, so only those are asked for that are
//! there already.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Instant;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{ChainHook, ClosedChain, DOCKER_USER, Family, Firewall, Tool, covers_endpoints};

/// Names of 32 bytes, and 13 numbers (`struct ipt_getinfo`).
const INFO_LEN: usize = 84;
/// A name, a length, and what aligns the entries (`struct ipt_get_entries`).
const ENTRIES_AT: usize = 40;
/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, the same for both families.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// A table that is larger is not read.
const TABLE_MAX: usize = 16 << 20;
/// Of a standard target: dropped, accepted.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
/// Before a target's own data: its length and its name.
const TARGET_LEN: usize = 32;

/// Where things lie in an entry (`struct ipt_entry`, `struct ip6t_entry`).
struct Layout {
    family: Family,
    names: &'static str,
    domain: AddressFamily,
    level: i32,
    /// Names of the devices in and out, then their masks; 16 bytes each.
    devices: usize,
    inverse: usize,
    target_offset: usize,
    len: usize,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        family: Family::Ipv4,
        names: "/proc/thread-self/net/ip_tables_names",
        domain: AddressFamily::Inet,
        level: libc::SOL_IP,
        devices: 16,
        inverse: 83,
        target_offset: 88,
        len: 112,
    },
    Layout {
        family: Family::Ipv6,
        names: "/proc/thread-self/net/ip6_tables_names",
        domain: AddressFamily::Inet6,
        level: libc::SOL_IPV6,
        devices: 64,
        inverse: 132,
        target_offset: 140,
        len: 168,
    },
];

/// The hooks of the table `filter`, by their numbers.
const HOOKS: [(usize, ChainHook, &str); 3] = [
    (1, ChainHook::Input, "INPUT"),
    (2, ChainHook::Forward, "FORWARD"),
    (3, ChainHook::Output, "OUTPUT"),
];

/// Adds what the calling thread's network namespace has.
pub(super) fn look(firewall: &mut Firewall, until: Instant) -> io::Result<()> {
    for layout in &LAYOUTS {
        // Without the module there is no such file.
        let names = fs::read_to_string(layout.names).unwrap_or_default();
        if names.lines().any(|name| name == "filter") {
            closed(
                layout,
                &read(layout, "filter", until)?,
                &mut firewall.closed,
            );
        }
        if names.lines().any(|name| name == "nat") {
            for chain in read(layout, "nat", until)?.entries(layout) {
                firewall.mapper(|(name, ..)| chain.user_chain.as_deref() == Some(*name));
            }
        }
    }
    Ok(())
}

/// A table as the kernel gives it.
struct Blob {
    /// Where each hook's chain begins, and where its policy is.
    hooks: [u32; 5],
    policies: [u32; 5],
    bytes: Vec<u8>,
}

/// An entry: a rule, a policy, or the name of a chain that follows.
struct Entry {
    at: usize,
    names_endpoints: bool,
    drops: bool,
    accepts: bool,
    has_condition: bool,
    user_chain: Option<String>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(usize::from(u16::from_ne_bytes(*bytes)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[])
}

impl Blob {
    fn entries<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = Entry> + 'a {
        let mut at = 0;
        std::iter::from_fn(move || {
            let bytes = self.bytes.get(at..)?;
            let (entry, len) = entry(layout, bytes, at)?;
            at += len;
            Some(entry)
        })
    }
}

/// The first entry of these bytes, and its length.
fn entry(layout: &Layout, bytes: &[u8], at: usize) -> Option<(Entry, usize)> {
    let target_at = u16_at(bytes, layout.target_offset)?;
    let len = u16_at(bytes, layout.target_offset + 2)?;
    if len < layout.len {
        return None;
    }
    let head = bytes.get(..layout.len)?;
    let target = bytes.get(target_at..len)?;
    let name = text(target.get(2..TARGET_LEN)?);
    let data = target.get(TARGET_LEN..)?;
    let is_inverse = head.get(layout.inverse).is_some_and(|bits| *bits != 0);
    // All before the counters that is no zero asks for something.
    let conditions = head.get(..=layout.inverse)?;
    let verdict = u32_at(data, 0)
        .map(u32::cast_signed)
        .filter(|_| name.is_empty());
    let entry = Entry {
        at,
        names_endpoints: !is_inverse && names_endpoints(head.get(layout.devices..)?),
        drops: name == b"REJECT" || verdict == Some(DROP),
        accepts: verdict == Some(ACCEPT),
        has_condition: target_at > layout.len || conditions.iter().any(|byte| *byte != 0),
        user_chain: (name == b"ERROR").then(|| String::from_utf8_lossy(text(data)).into_owned()),
    };
    Some((entry, len))
}

/// Whether a device's name is matched up to where endpoints' devices differ.
fn names_endpoints(devices: &[u8]) -> bool {
    let (names, masks) = (devices.chunks_exact(16), devices.chunks_exact(16).skip(2));
    names.zip(masks).take(2).any(|(name, mask)| {
        let len = mask.iter().take_while(|byte| **byte == 0xff).count();
        name.get(..len).is_some_and(covers_endpoints)
    })
}

fn closed(layout: &Layout, table: &Blob, found: &mut Vec<ClosedChain>) {
    let entries: Vec<Entry> = table.entries(layout).collect();
    let docker = |e: &&Entry| e.user_chain.as_deref() == Some(DOCKER_USER);
    let docker = entries.iter().find(docker);
    // Chains of users follow those of hooks; what the table has no chain for is -1.
    let policies = table.policies.iter().filter(|at| **at != u32::MAX);
    let hooks_end = policies.max().map_or(0, |at| *at as usize);
    for (number, hook, chain) in HOOKS {
        let (Some(start), Some(policy)) = (table.hooks.get(number), table.policies.get(number))
        else {
            continue;
        };
        let (start, policy) = (*start as usize, *policy as usize);
        let by_policy = entries.iter().any(|e| e.at == policy && e.drops);
        let rules = || entries.iter().filter(|e| (start..policy).contains(&e.at));
        let is_open = rules().any(|e| e.accepts && !e.has_condition);
        let by_rule = rules()
            .next_back()
            .is_some_and(|e| e.drops && !e.has_condition);
        if is_open || !by_policy && !by_rule {
            continue;
        }
        let of_users = entries.iter().filter(|e| e.at > hooks_end);
        found.push(ClosedChain {
            family: layout.family,
            table: "filter".to_owned(),
            chain: chain.to_owned(),
            hook,
            devices: Vec::new(),
            tool: Tool::IptablesLegacy,
            by_rule: !by_policy,
            names_endpoints: rules().chain(of_users).any(|e| e.names_endpoints),
            rules_go_to: docker
                .filter(|_| hook == ChainHook::Forward)
                .and_then(|entry| entry.user_chain.clone()),
        });
    }
}

/// Reads a table, if there is time left. That takes two calls, which cannot be
/// cut short, and is bounded by [`TABLE_MAX`].
fn read(layout: &Layout, table: &str, until: Instant) -> io::Result<Blob> {
    if Instant::now() >= until {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // The table is a matter of the family; the kind of socket does not matter.
    let socket = socket(
        layout.domain,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut info = vec![0; INFO_LEN];
    name(&mut info, table);
    get(socket.as_fd(), layout.level, GET_INFO, &mut info)?;
    let numbers =
        |at: usize| -> [u32; 5] { std::array::from_fn(|n| u32_at(&info, at + n * 4).unwrap_or(0)) };
    let size = u32_at(&info, INFO_LEN - 4).unwrap_or(0);
    let len = size as usize;
    if len > TABLE_MAX {
        return Err(io::Error::other("too many rules to be read"));
    }
    let mut bytes = vec![0; ENTRIES_AT + len];
    name(&mut bytes, table);
    if let Some(place) = bytes.get_mut(32..36) {
        place.copy_from_slice(&size.to_ne_bytes());
    }
    // Says EAGAIN of a table that has become another size meanwhile.
    get(socket.as_fd(), layout.level, GET_ENTRIES, &mut bytes)?;
    Ok(Blob {
        hooks: numbers(36),
        policies: numbers(56),
        bytes: bytes.split_off(ENTRIES_AT),
    })
}

fn name(buffer: &mut [u8], table: &str) {
    for (to, from) in buffer.iter_mut().zip(table.bytes()) {
        *to = from;
    }
}

fn get(socket: BorrowedFd<'_>, level: i32, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(buffer.len()).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes into the buffer, which is as long, and the
    // length back.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
