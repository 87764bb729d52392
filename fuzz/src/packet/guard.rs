//! What must hold of the node's own traffic where it has a firewall
//! (docs/host-firewall.md), from the lists of rules and from what has passed
//! before; nothing here is shared with the datapath.
//!
//! ```text
//!  packet ─ of the node? ─ always passing? ─ flow: who has opened it? ─ the rules of that end
//!                                             └ nobody knows: any of both may be
//! ```

use std::collections::HashMap;
use std::net::IpAddr;

use axon_abi::{DropReason, EventKind, Hook, PolicySetFlags};
use axon_datapath::Verdict;
use axon_testkit::cases::{POD_A, POD_B};
use axon_testkit::{MemPacket, Outcome, World};

use super::ends::{is_link, is_node, is_own, is_pod, pod, who};
use super::host::{Asked, Held, Policy, Who};
use super::judge::{ETHERNET_LEN, addresses, is_well_formed, tagged};
use super::message::{Message, Packet};
use super::scene::HOST_ID;
use super::served::is_for_service;

/// Identifiers of ICMP below this may make one flow of several queries.
const IDS_CLEAR: u16 = 32;

/// Who has opened a flow, as far as that can be told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    Node,
    Peer,
    /// It may be forgotten, or have been opened anew.
    Either,
    /// Somebody whom the node's stack has lent its address.
    Borrower,
}

/// A flow of the node: its end and the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    protocol: u8,
    near: (IpAddr, u16),
    far: (IpAddr, u16),
}

/// A datagram that came in parts.
type Datagram = (IpAddr, IpAddr, u8, u32);

/// What is expected of a packet.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Pass,
    Drop(DropReason),
    /// Either; `open` says whether it may pass.
    Unclear {
        open: bool,
    },
}

/// One of the node's packets, as it was read.
#[derive(Debug)]
struct Case<'a> {
    hook: Hook,
    /// Whether the node sends it.
    sends: bool,
    /// Whether it was given the node's address only.
    borrowed: bool,
    /// Whether its ends are what they are on this way.
    regular: bool,
    /// The endpoint's device, at one.
    device: Option<u32>,
    far: Who,
    packet: Packet<'a>,
    message: Message,
    policy: &'a Policy,
    /// Whether the second endpoint lets nobody in.
    second_closed: bool,
    /// Whether there may be no room for a flow.
    crowded: bool,
}

/// What is remembered from packet to packet.
#[derive(Debug, Default)]
pub(super) struct Guard {
    flows: HashMap<Flow, Opener>,
    firsts: HashMap<Datagram, Vec<Message>>,
    /// Something has passed that could not be read.
    blind: bool,
}

impl Guard {
    /// Time passes: flows may be forgotten.
    pub(super) fn wait(&mut self) {
        for opener in self.flows.values_mut() {
            if *opener != Opener::Borrower {
                *opener = Opener::Either;
            }
        }
    }

    /// Judges what became of a packet.
    pub(super) fn judge(
        &mut self,
        (hook, packet): (Hook, &MemPacket),
        outcome: &Outcome,
        world: &World,
        policy: &Policy,
    ) {
        if tagged(hook, packet) || hidden(hook, packet, outcome, policy) {
            return;
        }
        let aggregate = packet.gso_size != 0;
        self.remember(&packet.bytes, aggregate);
        self.remember(&outcome.bytes, aggregate);
        let Some(case) = self.read((hook, packet), outcome, world, policy) else {
            return;
        };
        let decided = outcome.decided.expect("it runs natively");
        let expected = self.expect(&case);
        let plain = case.packet.is_plain(aggregate) && is_well_formed(packet);
        match (decided, expected) {
            (Ok(verdict), Expected::Pass | Expected::Unclear { open: true }) => {
                assert_eq!(verdict, Verdict::Pass, "{case:?}");
            }
            (Ok(_), Expected::Drop(_) | Expected::Unclear { open: false }) => {
                panic!("passes, {expected:?}: {case:?}, {self:?}");
            }
            (Err(_), Expected::Unclear { .. }) => {}
            (Err(reason), Expected::Drop(due)) if reason == due => told(outcome, &case),
            (Err(reason), _) => {
                let excused = !plain && !of_policy(reason) || lacks_room(&case, reason);
                assert!(excused, "{reason:?}, {expected:?}: {case:?}, {self:?}");
            }
        }
        self.learn(&case, decided);
    }

    /// Remembers a datagram's first part: where the others are from and to.
    fn remember(&mut self, frame: &[u8], aggregate: bool) {
        let Some(packet) = Packet::read(frame, aggregate) else {
            return;
        };
        if let (Some((id, true)), Some(message)) = (packet.part, packet.message()) {
            let datagram = (packet.source, packet.destination, packet.protocol, id);
            self.firsts.entry(datagram).or_default().push(message);
        }
    }

    /// Reads what is the node's; all else is judged elsewhere.
    fn read<'a>(
        &mut self,
        (hook, packet): (Hook, &'a MemPacket),
        outcome: &'a Outcome,
        world: &World,
        policy: &'a Policy,
    ) -> Option<Case<'a>> {
        if matches!(outcome.decided, Some(Ok(Verdict::Reflect { .. }))) {
            return None;
        }
        let incoming = matches!(hook, Hook::FromEndpoint | Hook::FromNetdev);
        if incoming && is_for_service(packet, outcome) {
            return None;
        }
        // What answers an endpoint's translated flow is for the endpoint.
        let frame = match hook {
            Hook::FromNetdev => &outcome.bytes,
            Hook::FromEndpoint | Hook::ToEndpoint | Hook::ToNetdev => &packet.bytes,
        };
        let (source, destination) = addresses(frame)?;
        let uplink = matches!(hook, Hook::FromNetdev | Hook::ToNetdev);
        let sends = match hook {
            Hook::FromEndpoint | Hook::FromNetdev => false,
            Hook::ToNetdev => true,
            Hook::ToEndpoint => is_own(source),
        };
        let (near, far) = if sends {
            (source, destination)
        } else {
            (destination, source)
        };
        let of_node = if uplink {
            policy.holds() && is_node(near)
        } else {
            is_own(near)
        };
        if !of_node {
            return None;
        }
        let passed = match outcome.decided {
            Some(Ok(verdict)) => {
                assert_ne!(verdict, Verdict::Ignore, "past the node's policy");
                true
            }
            _ => false,
        };
        let aggregate = packet.gso_size != 0;
        let read = Packet::read(frame, aggregate).and_then(|read| Some((read, read.message()?)));
        let Some((read, message)) = read else {
            self.blind |= passed;
            return None;
        };
        let closed = PolicySetFlags::DEFAULT_DENY_INGRESS;
        let device = (!uplink).then_some(packet.ifindex);
        // Somebody by another's address is dropped elsewhere.
        let regular = match device {
            Some(device) => {
                let own = pod(device).is_some_and(|(_, own)| own.contains(&far));
                // Endpoints reach no address of the link.
                own && (sends || !is_link(near))
            }
            None => is_own(near) && !is_own(far) && !is_pod(far),
        };
        Some(Case {
            hook,
            sends,
            borrowed: packet.ingress_ifindex > 1,
            regular: regular && sends == matches!(hook, Hook::ToEndpoint | Hook::ToNetdev),
            device,
            far: match device {
                Some(device) => pod(device)?.0,
                None => who(far, policy.partial),
            },
            packet: read,
            message,
            policy,
            second_closed: world
                .sets
                .get(&2)
                .is_some_and(|row| row.flags & closed != 0),
            crowded: world.ct_full.get() || !uplink && world.config.ct_quota != 0,
        })
    }

    fn expect(&self, case: &Case<'_>) -> Expected {
        let unclear = |open| Expected::Unclear { open };
        let near = case.device.is_some();
        match case.message {
            Message::Link | Message::Error if !near => return Expected::Pass,
            Message::Error => return unclear(true),
            // Endpoints have no such thing.
            Message::Link | Message::Turning { .. } | Message::Bare if near => {
                return unclear(false);
            }
            _ => {}
        }
        if case.is_odd() {
            return unclear(true);
        }
        let opener = case.flow().map(|flow| (flow, self.opener(&flow)));
        if case.borrowed {
            return match opener {
                Some((_, Some(_))) => unclear(true),
                _ if !case.regular || case.message == Message::Part => unclear(true),
                _ => Expected::Pass,
            };
        }
        let protocol = case.packet.protocol;
        if case.message == Message::Part {
            return unclear(self.firsts_of(case).any(|first| case.either(first)));
        }
        let new = case.says(case.sends, case.message.asked(protocol));
        let Some(reply) = case.message.replies_to(protocol) else {
            return exactly(new, case.regular);
        };
        let reply = case.says(!case.sends, reply);
        let this = if case.sends {
            Opener::Node
        } else {
            Opener::Peer
        };
        let opens = matches!(case.message, Message::Session { opens: true, .. });
        match opener {
            _ if !case.regular => unclear(new.is_ok() || reply.is_ok()),
            Some((_, None)) => exactly(new, true),
            Some((_, Some(Opener::Borrower))) if !case.sends => unclear(true),
            Some((_, Some(opener @ (Opener::Node | Opener::Peer)))) if opener == this => {
                exactly(new, true)
            }
            Some((_, Some(Opener::Node | Opener::Peer))) if !opens => exactly(reply, true),
            _ => unclear(new.is_ok() || reply.is_ok()),
        }
    }

    /// What was said by the first parts of a datagram.
    fn firsts_of(&self, case: &Case<'_>) -> impl Iterator<Item = Message> {
        let Packet {
            source,
            destination,
            protocol,
            part,
            ..
        } = case.packet;
        let id = part.map_or(0, |(id, _)| id);
        let firsts = self.firsts.get(&(source, destination, protocol, id));
        firsts.into_iter().flatten().copied()
    }

    fn opener(&self, flow: &Flow) -> Option<Opener> {
        let icmp = matches!(flow.protocol, 1 | 58);
        let mixed = icmp && flow.near.1.max(flow.far.1) < IDS_CLEAR;
        let unsure = (self.blind || mixed).then_some(Opener::Either);
        self.flows.get(flow).copied().or(unsure)
    }

    /// Keeps who has opened what.
    fn learn(&mut self, case: &Case<'_>, decided: Result<Verdict, DropReason>) {
        let (this, other) = if case.sends {
            (Opener::Node, Opener::Peer)
        } else {
            (Opener::Peer, Opener::Node)
        };
        let mut flows = Vec::new();
        if case.message == Message::Part {
            flows.extend(self.firsts_of(case).filter_map(|first| case.flow_of(first)));
        }
        let parts = !flows.is_empty();
        let makes = matches!(
            case.message,
            Message::Session { .. } | Message::Query { .. }
        );
        flows.extend(case.flow().filter(|_| makes));
        for flow in flows {
            let known = self.opener(&flow);
            let opener = match (decided, known) {
                (Err(reason), _) if of_policy(reason) => continue,
                (_, Some(Opener::Borrower)) => Opener::Borrower,
                _ if case.borrowed => Opener::Borrower,
                (Err(_), _) => Opener::Either,
                (Ok(_), _) if parts || !case.regular => Opener::Either,
                (Ok(_), None) => this,
                (Ok(_), Some(opener)) if opener == other && reopens(case.message) => Opener::Either,
                (Ok(_), Some(opener)) => opener,
            };
            self.flows.insert(flow, opener);
            if !case.regular {
                let Flow { near, far, .. } = flow;
                let mirrored = Flow {
                    near: far,
                    far: near,
                    ..flow
                };
                self.flows.entry(mirrored).or_insert(Opener::Either);
            }
        }
    }
}

impl Case<'_> {
    /// The node's end, and the other.
    fn ends(&self) -> (IpAddr, IpAddr) {
        let Packet {
            source,
            destination,
            ..
        } = self.packet;
        if self.sends {
            (source, destination)
        } else {
            (destination, source)
        }
    }

    /// Whether its ends say nothing of whom policy is asked about: the node at both, two
    /// of the link, an endpoint that is sent what is not for it.
    fn is_odd(&self) -> bool {
        let (near, far) = self.ends();
        is_own(far) || !is_own(near) && is_node(far) || self.hook == Hook::ToEndpoint && !self.sends
    }

    fn flow(&self) -> Option<Flow> {
        self.flow_of(self.message)
    }

    /// The flow of a message with these ends.
    fn flow_of(&self, message: Message) -> Option<Flow> {
        let (near, far) = self.ends();
        // Of an echo the other port is none, of another query its type.
        let other = |kind: u8| {
            if matches!(kind, 8 | 128) {
                0
            } else {
                u16::from(kind)
            }
        };
        let (source, destination) = match message {
            Message::Session {
                source,
                destination,
                ..
            } => (source, destination),
            Message::Query { kind, id } => (id, other(kind)),
            Message::Answer { asked, id, .. } => (other(asked), id),
            _ => return None,
        };
        let (near_port, far_port) = if self.sends {
            (source, destination)
        } else {
            (destination, source)
        };
        Some(Flow {
            protocol: self.packet.protocol,
            near: (near, near_port),
            far: (far, far_port),
        })
    }

    /// What the ends' policies say of something that the node opens, or the
    /// other end: first the opener's.
    fn says(&self, by_node: bool, asked: Asked) -> Result<(), DropReason> {
        let host = self.policy.says(by_node, self.far, asked);
        match self.device {
            None => host,
            Some(device) if by_node => host.and(self.pod_says(device, true)),
            Some(device) => self.pod_says(device, false).and(host),
        }
    }

    fn pod_says(&self, device: u32, ingress: bool) -> Result<(), DropReason> {
        let closed = match device {
            POD_A => false,
            POD_B => ingress && self.second_closed,
            _ => true,
        };
        if closed {
            Err(DropReason::PolicyDenied)
        } else {
            Ok(())
        }
    }

    /// Whether a message may pass in any way.
    fn either(&self, message: Message) -> bool {
        if matches!(message, Message::Link | Message::Error) {
            return true;
        }
        let protocol = self.packet.protocol;
        let reply = message.replies_to(protocol);
        self.says(self.sends, message.asked(protocol)).is_ok()
            || reply.is_some_and(|asked| self.says(!self.sends, asked).is_ok())
    }
}

fn exactly(said: Result<(), DropReason>, clear: bool) -> Expected {
    match said {
        _ if !clear => Expected::Unclear { open: said.is_ok() },
        Ok(()) => Expected::Pass,
        Err(reason) => Expected::Drop(reason),
    }
}

/// What the kernel would take off before the node sees what is behind it.
fn hidden(hook: Hook, packet: &MemPacket, outcome: &Outcome, policy: &Policy) -> bool {
    let tag = matches!(
        packet.bytes.get(12..ETHERNET_LEN),
        Some([0x81, 0x00] | [0x88, 0xa8])
    );
    let hidden = tag && hook == Hook::FromNetdev && policy.held != Held::Off;
    if hidden {
        assert_eq!(outcome.decided, Some(Err(DropReason::VlanFiltered)));
    }
    hidden
}

/// A drop by the node's policy names the node.
fn told(outcome: &Outcome, case: &Case<'_>) {
    let mut drops = outcome
        .events
        .iter()
        .filter(|event| event.kind == EventKind::Drop as u8);
    let told = drops.next().map(|event| event.endpoint);
    if case.device.is_none() {
        assert_eq!(told, Some(HOST_ID), "{case:?}");
    }
}

fn of_policy(reason: DropReason) -> bool {
    reason.is_policy()
}

/// Whether there was no room for the flow or its translation.
fn lacks_room(case: &Case<'_>, reason: DropReason) -> bool {
    match reason {
        DropReason::CtMapInsertionFailed => case.crowded,
        DropReason::NoNatMapping => case.hook == Hook::ToNetdev,
        _ => false,
    }
}

fn reopens(message: Message) -> bool {
    matches!(
        message,
        Message::Session { opens: true, .. } | Message::Query { .. }
    )
}

/// Whether a packet from the network is among what no policy closes: then also
/// by whom it says that it is from is nobody's matter.
pub(super) fn always_passes(packet: &MemPacket, policy: &Policy) -> bool {
    let read = Packet::read(&packet.bytes, packet.gso_size != 0);
    let message = read.and_then(|read| read.message());
    policy.holds() && matches!(message, Some(Message::Link | Message::Error))
}
