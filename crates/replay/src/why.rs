//! Which rule decided, and where it is written; of a deny by default, which
//! rules come closest.

use std::net::IpAddr;

use axon_abi::{Direction, Identity, IpKey, PolicyEntry, PolicyEntryFlags};
use axon_api::manifest::{line_of, policy_leaves};
use axon_api::state::PolicyRow;
use axon_model::{Action, Auth, Origin, Protocol, Rule, RuleEntry, Tier};
use axon_policy::{
    Connection, Fit, IdentityInfo, Request, fit, is_about, passes, peers_words, ports_words,
};
use serde::Serialize;

use crate::node::Node;
use crate::record::Judgement;

/// Rules that are told of as the closest.
const CLOSEST: usize = 3;
/// How much farther a rule is that would demand authentication: as another port.
const DEMANDING: usize = 2;
/// The last line that a manifest can have; a state may say otherwise.
const LINE_MAX: usize = 4 << 20;

/// What the policy of one end says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// The packet may pass.
    Allowed,
    /// It may not.
    Denied,
    /// It may not, but policy is only audited.
    Audited,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedBy {
    /// A rule.
    Rule,
    /// No rule: what is done by default.
    Default,
    /// What the node keeps open by itself, whatever rules say.
    Node,
}

/// A place in a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlaceView {
    /// The policy's kind.
    pub kind: String,
    /// `namespace/name`, or the name of a clusterwide one.
    pub policy: String,
    /// Which of its rules, from 0.
    pub rule: usize,
    /// The path in its document; empty if the document is not at hand.
    pub path: String,
    /// The file; empty if that is not known.
    pub file: String,
    /// The line of the file, from 1; 0 if that is not known.
    pub line: usize,
}

/// A rule that almost allows the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Closest {
    /// Where it is written.
    #[serde(flatten)]
    pub place: PlaceView,
    /// What it allows, and what is lacking.
    pub lacking: String,
}

/// What the policy of one end says, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JudgementView {
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Whose policy it is.
    pub subject: String,
    /// The far side.
    pub remote: String,
    /// Its identity.
    pub remote_identity: u32,
    /// The labels of that.
    pub remote_labels: Vec<String>,
    /// What it says.
    pub said: Said,
    /// Who decided.
    pub decided_by: DecidedBy,
    /// What decided, in words.
    pub words: String,
    /// The policy set version.
    pub set: u32,
    /// The number of the rule; 0 if none.
    pub rule_number: u32,
    /// Where the rule is written.
    pub place: Option<PlaceView>,
    /// What is said on the connection is asked about.
    pub asks: bool,
    /// Whether a proxy would let the request pass, if one was given.
    pub request_passes: Option<bool>,
    /// Policies by which everything is denied that none allows.
    pub enforcing: Vec<String>,
    /// The allowing rules that come closest, the closest first.
    pub closest: Vec<Closest>,
}

/// A question to the policy of one end.
struct Asked<'a> {
    node: &'a Node,
    direction: Direction,
    subject: Identity,
    subject_info: IdentityInfo,
    remote: Identity,
    remote_info: IdentityInfo,
    protocol: u8,
    port: u16,
}

/// Says why the policy of one end says what it does.
pub(crate) fn why(node: &Node, judgement: &Judgement, request: Option<&Request>) -> JudgementView {
    let event = &judgement.event;
    let direction = Direction::from_u8(event.direction);
    let ingress = direction == Direction::Ingress;
    let (remote, remote_addr) = if ingress {
        (event.source_identity, event.source)
    } else {
        (event.destination_identity, event.destination)
    };
    let subject = node
        .identity_of(event.endpoint)
        .unwrap_or(Identity::UNKNOWN);
    let icmp = [1, 58].contains(&event.protocol);
    let asked = Asked {
        node,
        direction,
        subject,
        subject_info: node.info(subject),
        remote,
        remote_info: node.info(remote),
        protocol: event.protocol,
        port: if icmp {
            u16::from(event.source_port.to_bytes()[0])
        } else {
            event.destination_port.get()
        },
    };
    let row = node.endpoints.values().find(|row| row.id == event.endpoint);
    let said = match (event.reason, event.flags & axon_abi::EventFlags::AUDIT) {
        (0, _) => Said::Allowed,
        (_, 0) => Said::Denied,
        _ => Said::Audited,
    };
    let mut view = JudgementView {
        direction: if ingress { "ingress" } else { "egress" },
        subject: row.map_or_else(
            || format!("endpoint {}", event.endpoint),
            |row| node.endpoint_name(row),
        ),
        remote: asked.remote_words(remote_addr),
        remote_identity: remote.0,
        remote_labels: node.labels(remote),
        said,
        decided_by: DecidedBy::Default,
        words: String::new(),
        set: event.policy_set,
        rule_number: event.rule,
        place: None,
        asks: false,
        request_passes: None,
        enforcing: asked.enforcing(),
        closest: Vec::new(),
    };
    match judgement.entry {
        Some((_, entry)) if entry.flags & PolicyEntryFlags::DEFAULT == 0 => {
            asked.by_entry(&entry, &mut view);
        }
        Some(_) | None => asked.by_default(&mut view),
    }
    if let Some(request) = request.filter(|_| view.asks) {
        view.request_passes = Some(asked.passes(request));
    }
    view
}

impl Asked<'_> {
    fn connection(&self) -> Connection<'_> {
        Connection {
            direction: self.direction,
            remote: (self.remote, &self.remote_info),
            receiver: match self.direction {
                Direction::Ingress => &self.subject_info,
                Direction::Egress | Direction::Unknown => &self.remote_info,
            },
            protocol: self.protocol,
            port: self.port,
            server_name: None,
        }
    }

    fn remote_words(&self, addr: IpKey) -> String {
        let name = self.node.name_of(IpAddr::from(addr));
        name.unwrap_or_else(|| IpAddr::from(addr).to_string())
    }

    /// What is asked for, as rules are put.
    fn port_words(&self) -> String {
        match self.protocol {
            1 | 58 => format!("type {} of {}", self.port, Protocol(self.protocol)),
            6 | 17 | 132 => format!("{}/{}", self.port, Protocol(self.protocol)),
            _ => format!("protocol {}", Protocol(self.protocol)),
        }
    }

    /// The far side's part.
    fn far(&self) -> &'static str {
        match self.direction {
            Direction::Ingress => "sender",
            Direction::Egress | Direction::Unknown => "receiver",
        }
    }

    /// The rules that are about the subject, with their policies.
    fn rules(&self) -> impl Iterator<Item = (&PolicyRow, usize, &Rule)> {
        let labels = match self.subject {
            Identity::HOST => &self.node.node_labels,
            _ => &self.subject_info.labels,
        };
        let policies = self.node.policies.values();
        let policies = policies.filter(|policy| !policy.object.staged);
        let rules = policies.flat_map(|policy| {
            let rules = policy.object.rules.iter().enumerate();
            rules.map(move |(index, rule)| (policy, index, rule))
        });
        rules.filter(move |(_, _, rule)| is_about(rule, self.subject, labels))
    }

    fn enforcing(&self) -> Vec<String> {
        let enforces = |rule: &Rule| match self.direction {
            Direction::Ingress => rule.default_deny_ingress,
            Direction::Egress => rule.default_deny_egress,
            Direction::Unknown => false,
        };
        let rules = self.rules().filter(|(_, _, rule)| enforces(rule));
        let mut names: Vec<String> = rules
            .map(|(policy, _, _)| policy.object.origin.to_string())
            .collect();
        names.dedup();
        names
    }

    fn by_entry(&self, entry: &PolicyEntry, view: &mut JudgementView) {
        view.asks = entry.flags & PolicyEntryFlags::REDIRECT != 0;
        let Some((origin, index)) = self.node.rules.get(&entry.rule) else {
            view.decided_by = DecidedBy::Node;
            view.words = match (entry.rule, self.subject) {
                (0, Identity::HOST) => "the node keeps this open, so that nobody is locked out \
                                        (host-firewall-failsafe)"
                    .to_owned(),
                (0, _) => "the node may reach its endpoints (allow-localhost)".to_owned(),
                (number, _) => format!("rule {number}, of which the state does not tell"),
            };
            return;
        };
        view.decided_by = DecidedBy::Rule;
        let deny = entry.flags & PolicyEntryFlags::DENY != 0;
        let auth = Auth::of_flags(entry.flags);
        let asks = view.asks;
        let action = if deny && !asks && !auth.demands() {
            Action::Deny
        } else {
            Action::Allow
        };
        let says = |of: &RuleEntry| match auth.demands() {
            // Whether a proxy is asked too comes after that.
            true => of.auth == auth,
            false => of.l7.is_some() == asks,
        };
        let decides = |of: &RuleEntry, fit: &Fit| of.action == action && says(of) && fit.is_whole();
        let mut place = PlaceView {
            kind: origin.kind.to_string(),
            policy: origin.to_string(),
            rule: *index,
            ..PlaceView::default()
        };
        let found = self.node.policies.get(origin).and_then(|policy| {
            place.file.clone_from(&policy.file);
            let of = |rule| rule == *index;
            let pieces = self.pieces(policy, of).into_iter();
            // What has not been told apart is among the entries all the same.
            let pieces = pieces.chain(self.entries(policy, of));
            let deciding = pieces.filter(|piece| decides(&piece.entry, &piece.fit));
            // Of those that allow it, the first that demands nothing.
            deciding.min_by_key(|piece| piece.entry.auth.demands() && !auth.demands())
        });
        view.words = match &found {
            Some(piece) => {
                let verb = match (action, asks) {
                    (Action::Deny, _) => "denies",
                    (Action::Allow, _) if auth.demands() => "demands authentication on",
                    (Action::Allow, false) => "allows",
                    (Action::Allow, true) => "asks what is said on",
                    (Action::Pass, _) => "passes on",
                };
                let ports = ports_words(&piece.entry.ports);
                let of = match self.direction {
                    Direction::Ingress => "from",
                    Direction::Egress | Direction::Unknown => "to",
                };
                let peers = peers_words(&piece.entry.peers);
                format!("{verb} {ports} {of} {peers}")
            }
            None => "the rule's text has changed since".to_owned(),
        };
        view.words.push_str(match auth {
            Auth::Required => "; nobody is there to authenticate with, so it is dropped",
            Auth::AlwaysFail => ", which always fails (test-always-fail)",
            Auth::Unsaid | Auth::Disabled if asks && deny => {
                "; no proxy is there to ask, so it is dropped"
            }
            Auth::Unsaid | Auth::Disabled => "",
        });
        if let Some(piece) = found {
            place = piece.place;
        }
        view.place = Some(self.with_line(origin, place));
    }

    fn by_default(&self, view: &mut JudgementView) {
        if view.said == Said::Allowed {
            view.words = "no rule that is about it restricts this direction".to_owned();
            return;
        }
        view.words = if view.enforcing.is_empty() {
            "no rule allows it, and what none allows is denied here".to_owned()
        } else {
            format!(
                "no rule allows it, and {} denies what none allows",
                view.enforcing.join(", ")
            )
        };
        view.closest = self.closest();
    }

    fn closest(&self) -> Vec<Closest> {
        let mut about: Vec<(&PolicyRow, Vec<usize>)> = Vec::new();
        for (policy, index, _) in self.rules() {
            match about.last_mut() {
                Some((last, rules)) if last.object.origin == policy.object.origin => {
                    rules.push(index);
                }
                _ => about.push((policy, vec![index])),
            }
        }
        let mut pieces: Vec<Piece<'_>> = about
            .iter()
            .flat_map(|(policy, rules)| self.pieces(policy, |rule| rules.contains(&rule)))
            .filter(|piece| piece.entry.action == Action::Allow)
            .collect();
        // A stable sort: of two as close the one that is written first.
        pieces.sort_by_key(|piece| {
            piece.fit.distance() + DEMANDING * usize::from(piece.entry.auth.demands())
        });
        let told = pieces.into_iter().take(CLOSEST);
        told.map(|piece| Closest {
            lacking: self.lacking(&piece),
            place: self.with_line(piece.origin, piece.place),
        })
        .collect()
    }

    fn lacking(&self, piece: &Piece<'_>) -> String {
        let (far, asked) = (self.far(), self.port_words());
        let ports = ports_words(&piece.entry.ports);
        let peers = peers_words(&piece.entry.peers);
        let lacks = piece.fit.lacks.join(" and ");
        let mut words = match (piece.fit.lacks.is_empty(), piece.fit.port) {
            (true, false) => format!("the {far} is allowed on {ports}, not on {asked}"),
            (false, true) => format!("{asked} is allowed for {peers}; the {far} {lacks}"),
            (false, false) => {
                format!("{ports} is allowed for {peers}; the {far} {lacks}, and asks for {asked}")
            }
            // The state has been taken between a policy's change and its rows.
            (true, true) => "it allows this: the rows are about to change".to_owned(),
        };
        if piece.entry.auth.demands() {
            words.push_str("; and it demands authentication");
        }
        words
    }

    /// The pieces of some rules of a policy that are about this direction; its
    /// entries if it is not known where they are written.
    fn pieces<'a>(&self, policy: &'a PolicyRow, of: impl Fn(usize) -> bool) -> Vec<Piece<'a>> {
        let leaves = policy_leaves(&policy.text, &policy.object.origin);
        if leaves.is_empty() {
            return self.entries(policy, of);
        }
        let meant = leaves.into_iter();
        let meant = meant.filter(|leaf| of(leaf.rule) && leaf.entry.direction == self.direction);
        meant
            .map(|leaf| self.piece(policy, (leaf.rule, leaf.path), leaf.entry))
            .collect()
    }

    /// The entries of some rules of a policy that are about this direction.
    fn entries<'a>(&self, policy: &'a PolicyRow, of: impl Fn(usize) -> bool) -> Vec<Piece<'a>> {
        let rules = policy.object.rules.iter().enumerate();
        rules
            .filter(|(n, _)| of(*n))
            .flat_map(|(n, rule)| rule.entries.iter().map(move |entry| (n, entry)))
            .filter(|(_, entry)| entry.direction == self.direction)
            .map(|(n, entry)| self.piece(policy, (n, String::new()), entry.clone()))
            .collect()
    }

    fn piece<'a>(
        &self,
        policy: &'a PolicyRow,
        (rule, path): (usize, String),
        entry: RuleEntry,
    ) -> Piece<'a> {
        let origin = &policy.object.origin;
        Piece {
            origin,
            fit: fit(&entry, &self.connection()),
            place: PlaceView {
                kind: origin.kind.to_string(),
                policy: origin.to_string(),
                rule,
                path,
                file: policy.file.clone(),
                line: 0,
            },
            entry,
        }
    }

    /// A place with its line: where its path is written, or the document.
    fn with_line(&self, origin: &Origin, mut place: PlaceView) -> PlaceView {
        if let Some(policy) = self.node.policies.get(origin) {
            let first = policy.line.min(LINE_MAX);
            place.line = match (policy.text.as_str(), first) {
                ("", _) | (_, 0) => first,
                (text, first) => line_of(text, first, &place.path),
            };
        }
        place
    }

    fn passes(&self, request: &Request) -> bool {
        let normal = self
            .rules()
            .filter(|(_, _, rule)| rule.tier == Tier::Normal);
        let entries = normal.flat_map(|(_, _, rule)| &rule.entries);
        passes(&self.node.reading, entries, &self.connection(), request)
    }
}

/// A piece of a policy beside the packet.
struct Piece<'a> {
    origin: &'a Origin,
    place: PlaceView,
    entry: RuleEntry,
    fit: Fit,
}

impl std::fmt::Display for PlaceView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.policy)?;
        match self.path.as_str() {
            "" => write!(f, " rule {}", self.rule)?,
            path => write!(f, " {path}")?,
        }
        match (self.file.as_str(), self.line) {
            ("", _) => Ok(()),
            (file, 0) => write!(f, " ({file})"),
            (file, line) => write!(f, " ({file}:{line})"),
        }
    }
}
