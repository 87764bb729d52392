//! What is known of the packet in hand.
//!
//! The kernel gives a program 512 bytes of stack for all its nested calls;
//! what is larger than a few words lives here, in memory of the CPU's own.

use axon_abi::{
    Be16, ClassKey, CtEntry, CtKey4, CtKey6, Direction, DropReason, EventRecord, FragmentKey,
    FragmentPorts, Identity, IpKey, LpmKey, NatEntry, NatKey, PolicyKey, ServiceFlow,
    ServiceFlowKey, TraceReason,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::header::protocol;
use crate::policy::{Decision, Question};
use crate::service::{Ask, Asker, Frontend};
use crate::tables::NextHop;
use crate::verdict::Verdict;

/// Two ends and how they talk. ICMP queries have their identifier as the
/// asking side's port, and as the other's 0 if they are echoes, else their
/// type.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Tuple {
    /// Source address.
    pub source: IpKey,
    /// Destination address.
    pub destination: IpKey,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// How a packet relates to the flow it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// It stands for itself: policy decides each time, no entry is made.
    #[default]
    Single = 0,
    /// TCP, UDP, SCTP.
    Session = 1,
    /// An ICMP query.
    Query = 2,
    /// The answer to an ICMP query: without an entry it stands for itself.
    Answer = 3,
    /// An ICMP error about the flow in [`Flow::about`].
    Error = 4,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragmentation {
    /// All of it.
    #[default]
    Whole = 0,
    /// The start, with the transport header.
    First = 1,
    /// A part without transport header.
    Later = 2,
}

/// Whom a packet from the network is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Aim {
    /// The node, or nobody here.
    #[default]
    Elsewhere = 0,
    /// An endpoint of this node.
    Endpoint = 1,
    /// A service, if there is one: it is read.
    Frontend = 2,
    /// The client of a service, from a backend of another node.
    Client = 3,
}

/// What becomes of a packet: [`Verdict`], of which the rest is in the scratch.
///
/// It is kept in memory. In a register a verdict has parts that not each variant
/// sets, and the kernel lets no program pass on what it has not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Way {
    /// [`Verdict::Ignore`].
    #[default]
    Ignore = 0,
    /// [`Verdict::Pass`].
    Pass = 1,
    /// [`Verdict::RedirectPeer`], to [`Scratch::leaves_by`].
    Peer = 2,
    /// [`Verdict::RedirectNeigh`], by [`Scratch::leaves_by`].
    Neigh = 3,
    /// [`Verdict::Reflect`], for [`Scratch::refusal`].
    Reflect = 4,
    /// Its sender is to be told [`Scratch::tells`] for [`Scratch::refusal`], and it
    /// becomes that.
    Tell = 5,
}

/// What was done to a packet's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Translated {
    /// Nothing.
    #[default]
    Not = 0,
    /// Its destination was translated back ([`crate::nat`]).
    Back = 1,
    /// A service has given it others, or is to; those that it came with are in
    /// [`Scratch::before`].
    Served = 2,
    /// It has become its own answer.
    Answered = 3,
    /// A service has, and it is sent on.
    Sent = 4,
}

/// What the parser found.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Who speaks to whom.
    pub tuple: Tuple,
    /// Of an ICMP error: the flow it is about, turned so that the error goes
    /// the way of this tuple.
    pub about: Tuple,
    /// Where the transport header is (of a later fragment: its data).
    pub l4_at: u32,
    /// Bytes of the IP packet.
    pub ip_len: u32,
    /// Bytes of the transport header, options included.
    pub l4_len: u32,
    /// Identification of the datagram, if it is in fragments.
    pub fragment_id: u32,
    /// Of an ICMP error: where the packet it quotes starts.
    pub about_at: u32,
    /// Of an ICMP error: where the transport header it quotes starts.
    pub about_l4_at: u32,
    /// 4, 6, or 0 before the IP header was read.
    pub version: u8,
    /// How the packet relates to its flow.
    pub kind: Kind,
    /// Which part of a datagram it is.
    pub fragmentation: Fragmentation,
    /// IPv4: routers may not cut it. Always so for IPv6.
    pub dont_fragment: bool,
    /// Hops left.
    pub hop_limit: u8,
    /// TCP flags, low byte.
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// ICMP type of the query that the flow consists of, or of the message
    /// itself: what policy is asked about.
    pub policy_type: u8,
    /// Whether policy is asked about an ICMP message.
    pub icmp: bool,
}

impl Flow {
    /// Whether the packet itself is an ICMP message.
    #[inline(always)]
    pub(crate) fn icmp_message(&self) -> bool {
        matches!(self.tuple.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    /// The flow that conntrack knows the packet by.
    #[inline(always)]
    pub fn tracked(&self) -> &Tuple {
        match self.kind {
            Kind::Error => &self.about,
            Kind::Single | Kind::Session | Kind::Query | Kind::Answer => &self.tuple,
        }
    }
}

/// Room for what does not fit on the stack, and the facts that travel between
/// the steps. Dirty at the start of a packet.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// What the parser found.
    pub flow: Flow,
    /// The event being written.
    pub event: EventRecord,
    /// The neighbour of [`crate::Verdict::RedirectNeigh`].
    pub next_hop: NextHop,
    /// Source address before masquerading; unspecified if it stands.
    pub source_before_nat: IpKey,
    /// Identity of the packet's sender, where known.
    pub source_identity: Identity,
    /// Identity of its receiver, where known.
    pub destination_identity: Identity,
    /// What conntrack says of the packet.
    pub seen: Option<TraceReason>,
    /// Whether the packet is worth a trace event.
    pub report: bool,
    /// Whether the packet came from the network.
    pub from_outside: bool,
    /// Whether the side that opened the flow has an address that does not say
    /// who it is: it is [`Scratch::borrower`].
    pub(crate) borrowed: bool,
    /// [`axon_abi::CtFlags`] of the flow, or those that a new one is to have.
    pub(crate) flow_flags: u8,
    /// Who has borrowed the address.
    pub(crate) borrower: Identity,
    /// Whether the endpoint that was asked last only audits.
    pub audit: bool,
    /// Whether the packet that leaves by an uplink is the node's own.
    pub(crate) of_node: bool,
    /// Whether the packet is the node's own, or for it, and held to its policy.
    pub(crate) of_host: bool,
    /// Whether an endpoint's policy was asked about this packet.
    pub(crate) judged: bool,
    /// Type and code of the ICMP error that the packet is to become, and the word
    /// after its checksum.
    pub(crate) tells: ([u8; 2], u32),
    /// Why there is no more to what is answered than the answer.
    pub(crate) refusal: Option<DropReason>,
    /// Whom the packet from the network is for.
    pub(crate) aim: Aim,
    /// What becomes of the packet, unless it is dropped.
    pub(crate) way: Way,
    /// What was done to the packet's addresses.
    pub(crate) translated: Translated,
    /// The device whose endpoint is the sender (egress) or the receiver
    /// (ingress), whatever the addresses say; 0 if the addresses say it.
    pub(crate) device: u32,
    /// Number of the endpoint at whose device the packet is; 0 for the node.
    pub endpoint: u16,
    /// The packet's way as that endpoint sees it.
    pub direction: Direction,
    /// Whether the packet's source is the lesser side of its conntrack key.
    pub(crate) low: bool,
    /// Whether there is an entry that is void by now.
    pub(crate) replaces: bool,
    /// Whether the packet goes the way of the one that opened its flow.
    pub(crate) forward: bool,
    /// Number of the endpoint whose policy was asked last.
    pub(crate) judge: u16,
    /// What both ends' policy came to.
    pub(crate) agreed: Agreed,
    /// What policy is asked.
    pub question: Question,
    /// What it said last.
    pub decision: Decision,
    pub(crate) ct4: CtKey4,
    pub(crate) ct6: CtKey6,
    pub(crate) entry: CtEntry,
    /// Who asks for which address, and the frontend that was found there.
    pub(crate) ask: Ask,
    pub(crate) frontend: Frontend,
    pub(crate) service_key: ServiceFlowKey,
    pub(crate) service_partner: ServiceFlowKey,
    pub(crate) service_flow: ServiceFlow,
    pub(crate) service_back: ServiceFlow,
    /// The tracked tuple before a service has translated it.
    pub(crate) before: Tuple,
    /// The device that the packet leaves by, or behind which its receiver is.
    pub(crate) leaves_by: u32,
    /// Whether a new flow's client gets a port of the node.
    pub(crate) lends: bool,
    /// Whether the packet opens a flow of a service.
    pub(crate) opens: bool,
    pub(crate) nat_key: NatKey,
    pub(crate) nat_back: NatKey,
    pub(crate) nat_entry: NatEntry,
    pub(crate) lpm: LpmKey,
    /// The remote's class.
    pub(crate) class: u32,
    pub(crate) class_key: ClassKey,
    pub(crate) policy_key: PolicyKey,
    pub(crate) fragment_key: FragmentKey,
    pub(crate) fragment_ports: FragmentPorts,
}

/// Whose policy is asked at one end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Judge {
    /// The policy set version; 0 if the end is no endpoint of this node.
    pub(crate) set: u32,
    /// Number of the endpoint; 0 if it is none of this node.
    pub(crate) endpoint: u16,
    /// Whether the policy is only audited.
    pub(crate) audits: bool,
    /// Whether nothing is asked.
    pub(crate) silent: bool,
}

/// Who the ends are and what their policy came to, in the flow's forward
/// orientation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Agreed {
    pub(crate) source: Identity,
    pub(crate) destination: Identity,
    pub(crate) egress: Judge,
    pub(crate) ingress: Judge,
    pub(crate) epoch: u32,
    pub(crate) rule: u32,
    pub(crate) match_type: u8,
}

impl Scratch {
    /// Forgets the last packet.
    #[inline(always)]
    pub(crate) fn begin(&mut self, endpoint: u16, direction: Direction) {
        self.flow.version = 0;
        self.source_identity = Identity::UNKNOWN;
        self.destination_identity = Identity::UNKNOWN;
        self.source_before_nat = IpKey::UNSPECIFIED;
        self.seen = None;
        self.report = false;
        self.from_outside = false;
        self.borrowed = false;
        self.flow_flags = 0;
        self.audit = false;
        self.of_host = false;
        self.judged = false;
        self.translated = Translated::Not;
        self.device = 0;
        self.endpoint = endpoint;
        self.direction = direction;
    }

    /// Keeps that the packet has become its own answer, and what is counted against
    /// what it was.
    #[inline(always)]
    pub(crate) fn reflect(&mut self, dropped: Option<DropReason>) {
        self.refusal = dropped;
        self.way = Way::Reflect;
    }

    /// What becomes of the packet.
    #[inline(always)]
    pub(crate) fn verdict(&self) -> Verdict {
        let ifindex = self.leaves_by;
        match self.way {
            Way::Ignore => Verdict::Ignore,
            Way::Pass => Verdict::Pass,
            Way::Peer => Verdict::RedirectPeer { ifindex },
            Way::Neigh => Verdict::RedirectNeigh { ifindex },
            Way::Reflect | Way::Tell => Verdict::Reflect {
                dropped: self.refusal,
            },
        }
    }

    /// A scratch as another packet may have left it: every byte that a hook
    /// might read without having set it is wrong.
    #[must_use]
    pub fn poisoned() -> Self {
        let addr = IpKey([0xa5; 16]);
        let tuple = Tuple {
            source: addr,
            destination: addr,
            source_port: Be16::new(0xa5a5),
            destination_port: Be16::new(0x5a5a),
            protocol: 0xa5,
            pad: [0xa5; 3],
        };
        let identity = Identity(0xa5a5);
        Self {
            flow: Flow {
                tuple,
                about: tuple,
                l4_at: 0xa5a5,
                ip_len: 0xa5a5,
                l4_len: 0xa5,
                fragment_id: 0xa5a5,
                about_at: 0xa5a5,
                about_l4_at: 0xa5a5,
                version: 0xa5,
                kind: Kind::Error,
                fragmentation: Fragmentation::Later,
                dont_fragment: true,
                hop_limit: 0xa5,
                tcp_flags: 0xa5,
                icmp_type: 0xa5,
                icmp_code: 0xa5,
                policy_type: 0xa5,
                icmp: true,
            },
            event: filled(),
            next_hop: NextHop { addr },
            source_before_nat: addr,
            source_identity: identity,
            destination_identity: identity,
            seen: Some(TraceReason::Related),
            report: true,
            from_outside: true,
            borrowed: true,
            borrower: identity,
            flow_flags: 0xa5,
            audit: true,
            of_node: true,
            of_host: true,
            judged: true,
            tells: ([0xa5; 2], 0xa5a5),
            refusal: Some(DropReason::PolicyDeny),
            aim: Aim::Client,
            way: Way::Peer,
            translated: Translated::Sent,
            device: 0xa5a5,
            endpoint: 0xa5a5,
            direction: Direction::Unknown,
            low: true,
            replaces: true,
            forward: true,
            judge: 0xa5a5,
            agreed: Agreed {
                source: identity,
                destination: identity,
                egress: Judge {
                    set: 0xa5a5,
                    endpoint: 0xa5,
                    audits: true,
                    silent: true,
                },
                ingress: Judge {
                    set: 0xa5a5,
                    endpoint: 0xa5,
                    audits: true,
                    silent: true,
                },
                epoch: 0xa5a5,
                rule: 0xa5a5,
                match_type: 0xa5,
            },
            question: Question::default(),
            decision: Decision::default(),
            ct4: filled(),
            ct6: filled(),
            entry: filled(),
            ask: Ask {
                asker: Asker::Node,
                addr,
                port: Be16::new(0xa5a5),
                protocol: 0xa5,
                client: addr,
                source: addr,
                source_port: Be16::new(0xa5a5),
            },
            frontend: Frontend {
                entry: filled(),
                list: filled(),
                is_external: true,
                pad: filled(),
            },
            service_key: filled(),
            service_partner: filled(),
            service_flow: filled(),
            service_back: filled(),
            before: tuple,
            leaves_by: 0xa5a5,
            lends: true,
            opens: true,
            nat_key: filled(),
            nat_back: filled(),
            nat_entry: filled(),
            lpm: filled(),
            class: 0xa5a5,
            class_key: filled(),
            policy_key: filled(),
            fragment_key: filled(),
            fragment_ports: filled(),
        }
    }
}

fn filled<T: FromBytes + IntoBytes>() -> T {
    let mut value = T::new_zeroed();
    value.as_mut_bytes().fill(0xa5);
    value
}
