//! The packet path: any frames, in any order, through any hook.
//!
//! ```text
//! bytes ── records (hook, device, time, frame) ──> datapath over the scene
//!                                                     └──> judge: what must hold of each
//! ```
//!
//! An input is a script: of every packet two bytes that say how it comes, two
//! that say how long it is, and its frame. State (flows, translations,
//! fragments) stays from one packet to the next.

mod ends;
mod guard;
mod host;
mod judge;
mod message;
mod scene;
mod served;

use std::collections::HashSet;

use axon_abi::{ConfigFlags, DropReason, EventRecord, Hook, PolicySetFlags, PolicySetRow};
use axon_datapath::{Scratch, Verdict, report_drop};
use axon_testkit::cases::{POD_A, POD_B, POD_HERMIT, UPLINK};
use axon_testkit::{Backend, Case, MemPacket, Native, World};

use guard::Guard;
use host::{OF_CASES, POLICIES, Policy};
use scene::{LOCKED, PICKY};

/// Packets of a script; what follows is passed over.
const PACKETS_MAX: usize = 24;
/// Bytes of a frame.
const FRAME_MAX: usize = 2047;

/// How a packet comes.
#[derive(Clone, Copy)]
struct Head {
    hook: Hook,
    ifindex: u32,
    /// At the uplink: whether another device has brought what leaves.
    brought: bool,
    vlan: bool,
    gso: bool,
    wait: bool,
    /// Changes of the world before it.
    changes: u8,
}

const HOOKS: [Hook; 4] = [
    Hook::FromEndpoint,
    Hook::ToEndpoint,
    Hook::FromNetdev,
    Hook::ToNetdev,
];
/// The last one is nobody's.
const DEVICES: [u32; 8] = [
    POD_A, POD_B, POD_HERMIT, PICKY, LOCKED, UPLINK, POD_A, NOBODYS,
];
const NOBODYS: u32 = 99;

impl Head {
    fn read([how, changes]: [u8; 2]) -> Self {
        let hook = HOOKS[usize::from(how & 3)];
        let uplink = matches!(hook, Hook::FromNetdev | Hook::ToNetdev);
        let device = DEVICES[usize::from(how >> 2 & 7)];
        Self {
            hook,
            ifindex: if uplink { UPLINK } else { device },
            brought: hook == Hook::ToNetdev && device == NOBODYS,
            vlan: how & 0x20 != 0,
            gso: how & 0x40 != 0,
            wait: how & 0x80 != 0,
            changes,
        }
    }

    fn write(self) -> [u8; 2] {
        let place = |ok: Option<usize>| ok.unwrap_or_default() as u8;
        let hook = place(HOOKS.iter().position(|hook| *hook == self.hook));
        let device = if self.brought { NOBODYS } else { self.ifindex };
        let device = place(DEVICES.iter().position(|known| *known == device));
        let flags = u8::from(self.vlan) << 5 | u8::from(self.gso) << 6 | u8::from(self.wait) << 7;
        [hook | device << 2 | flags, self.changes]
    }
}

/// The records of a script.
fn records(mut data: &[u8]) -> impl Iterator<Item = (Head, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = data.split_first_chunk::<4>()?;
        let [how, changes, len @ ..] = *head;
        let len = usize::from(u16::from_le_bytes(len)).min(FRAME_MAX);
        let (frame, rest) = rest.split_at(len.min(rest.len()));
        data = rest;
        Some((Head::read([how, changes]), frame))
    })
    .take(PACKETS_MAX)
}

/// A case of the tables as a script: what the fuzzer starts from.
pub fn script(case: &Case) -> Vec<u8> {
    let held = case.world.config.flags & ConfigFlags::HOST_FIREWALL != 0;
    script_held_to(case, if held { OF_CASES } else { 0 })
}

/// A case as a script, with the node held to one of its policies throughout.
fn script_held_to(case: &Case, policy: usize) -> Vec<u8> {
    let mut script = Vec::new();
    let mut changes = if policy == 0 {
        0
    } else {
        policy_change(policy)
    };
    for step in &case.steps {
        let head = Head {
            hook: step.hook,
            ifindex: step.packet.ifindex,
            brought: step.hook == Hook::ToNetdev && step.packet.ingress_ifindex != 0,
            vlan: step.packet.vlan.is_some(),
            gso: step.packet.gso_size != 0,
            wait: step.after_s != 0,
            changes: std::mem::take(&mut changes),
        };
        script.extend(head.write());
        script.extend((step.packet.bytes.len() as u16).to_le_bytes());
        script.extend(&step.packet.bytes);
    }
    script
}

/// Every case under every policy of the node.
pub fn scripts(case: &Case) -> impl Iterator<Item = Vec<u8>> {
    (0..POLICIES.len()).map(|policy| script_held_to(case, policy))
}

/// Runs a script.
///
/// # Panics
/// If anything that must hold of every packet does not.
pub fn run(data: &[u8]) {
    let mut native = Native {
        world: scene::world(),
    };
    // What earlier packets have left in it; the other one is poisoned anew.
    let mut dirty = Scratch::default();
    let mut guard = Guard::default();
    let mut heard = HashSet::new();
    let mut policy = &POLICIES[0];
    for (head, frame) in records(data) {
        change(&mut native, head, &mut policy);
        if head.wait {
            guard.wait();
        }
        let packet = MemPacket {
            bytes: frame.to_vec(),
            ifindex: head.ifindex,
            ingress_ifindex: if head.brought { NOBODYS } else { 0 },
            gso_size: if head.gso { 1000 } else { 0 },
            // A VLAN, or a priority alone.
            vlan: head.vlan.then_some((frame.len() & 1) as u16),
            served: false,
        };
        let twin = native.world.clone();
        let told = again(head.hook, &packet, &twin, &mut dirty);
        let before = counted(&native.world);
        let outcome = native.run(head.hook, &packet);
        let packets = counted(&native.world) - before;
        judge::accounted(&outcome, packets);
        judge::same(&outcome, &told, &native.world, &twin);
        judge::just((head.hook, &packet), &outcome, &native.world, policy);
        served::judge(head.hook, &packet, &outcome);
        judge::martians((head.hook, &packet), &outcome, &mut heard);
        guard.judge((head.hook, &packet), &outcome, &native.world, policy);
    }
}

/// What a packet came to, for comparison.
struct Told {
    decided: Result<Verdict, DropReason>,
    bytes: Vec<u8>,
    events: Vec<EventRecord>,
}

/// The same packet with a scratch that is dirty in another way.
fn again(hook: Hook, packet: &MemPacket, world: &World, scratch: &mut Scratch) -> Told {
    let mut packet = packet.clone();
    world.events.borrow_mut().clear();
    let decided = match hook {
        Hook::FromEndpoint => axon_datapath::from_endpoint(&mut packet, world, scratch),
        Hook::ToEndpoint => axon_datapath::to_endpoint(&mut packet, world, scratch),
        Hook::FromNetdev => axon_datapath::from_netdev(&mut packet, world, scratch),
        Hook::ToNetdev => axon_datapath::to_netdev(&mut packet, world, scratch),
    };
    if let Err(reason) = decided {
        report_drop(&packet, world, scratch, reason);
    }
    let events = world.events.borrow().clone();
    Told {
        decided,
        bytes: packet.bytes,
        events,
    }
}

fn counted(world: &World) -> u64 {
    world.counts.borrow().values().sum()
}

/// What may change between two packets.
fn change(native: &mut Native, head: Head, policy: &mut &'static Policy) {
    if head.wait {
        native.wait_s([1, 11, 31, 61][usize::from(head.changes & 3)]);
    }
    let world = &mut native.world;
    if head.changes & 0x04 != 0 {
        world.ct_full.set(!world.ct_full.get());
    }
    if head.changes & 0x08 != 0 {
        world.config.epoch = world.config.epoch.wrapping_add(1);
    }
    if head.changes & 0x10 != 0 {
        let row = world.sets.entry(2).or_default();
        *row = PolicySetRow {
            flags: row.flags ^ PolicySetFlags::DEFAULT_DENY_INGRESS,
            ..*row
        };
        world.config.epoch = world.config.epoch.wrapping_add(1);
    }
    if head.changes & 0x20 != 0 {
        world.config.ct_quota = if world.config.ct_quota == 0 { 2 } else { 0 };
    }
    if let Some(number) = policy_of(head.changes) {
        *policy = &POLICIES[number];
        scene::hold(world, number);
    }
}

/// The policy that the node is held to from now on, if that changes.
fn policy_of(changes: u8) -> Option<usize> {
    let row = usize::from(changes >> 6).checked_sub(1)?;
    Some(row * 4 + usize::from(changes & 3))
}

/// The change to a policy.
fn policy_change(number: usize) -> u8 {
    (((number / 4 + 1) << 6) | (number % 4)) as u8
}

const _: () = assert!(POLICIES.len() == 12, "three rows of four");
