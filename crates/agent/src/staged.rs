//! Staged policies: what they would have said, beside what was.
//!
//! ```text
//! Controller ──(after a pass)──> StagedSets ── policy verdict of the kernel ──> Flow::staged, counts
//! ```
//!
//! The kernel knows nothing of them: whoever reads its events asks the same
//! look-up over other rows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use axon_abi::{DropReason, EventRecord};
use axon_evaluate::{StagedSets, StagedVerdict};
use axon_hubble::{Flow, Policy, TrafficDirection, Verdict};
use axon_model::Origin;

use crate::node::lock;

/// What is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StagedCount {
    pub(crate) origin: Origin,
    pub(crate) direction: &'static str,
    /// What would become of the connection.
    pub(crate) action: &'static str,
    /// What has become of it.
    pub(crate) enforced: &'static str,
}

/// Staged policies, and how often each would have decided.
#[derive(Debug, Default)]
pub(crate) struct Rehearsed {
    /// `None` while nothing is staged: then an event costs one look.
    sets: ArcSwapOption<StagedSets>,
    counts: Mutex<BTreeMap<StagedCount, u64>>,
}

impl Rehearsed {
    /// Takes over what staged policies would have in force now. What is counted of
    /// one that is gone goes with it.
    pub(crate) fn follow(&self, staged: &axon_policy::Staged) {
        let sets = (!staged.policies.is_empty()).then(|| Arc::new(StagedSets::new(staged)));
        self.sets.store(sets);
        let is_staged = |count: &StagedCount| staged.policies.contains(&count.origin);
        lock(&self.counts).retain(|count, _| is_staged(count));
    }

    /// Whether nothing is staged.
    pub(crate) fn is_idle(&self) -> bool {
        self.sets.load().is_none()
    }

    /// Adds what staged policies say to the flow of an event, and counts it.
    pub(crate) fn judge(&self, record: &EventRecord, flow: &mut Flow) {
        let sets = self.sets.load();
        let Some(said) = sets.as_ref().and_then(|sets| sets.judge(record)) else {
            return;
        };
        self.count(&said, flow);
        let verdict = match said.drop {
            Some(_) => Verdict::Dropped,
            None => Verdict::Forwarded,
        };
        flow.staged = Some(Box::new(axon_hubble::Staged {
            verdict,
            drop_reason_desc: said.drop.map_or("", DropReason::name).into(),
            policies: said.by.iter().map(Policy::from).collect(),
        }));
    }

    fn count(&self, said: &StagedVerdict<'_>, flow: &Flow) {
        if said.by.is_empty() {
            return;
        }
        let mut counts = lock(&self.counts);
        for origin in said.by {
            let count = StagedCount {
                origin: origin.clone(),
                direction: match flow.traffic_direction {
                    TrafficDirection::Ingress => "ingress",
                    TrafficDirection::Egress => "egress",
                    TrafficDirection::Unknown => "unknown",
                },
                action: if said.drop.is_some() {
                    "dropped"
                } else {
                    "forwarded"
                },
                enforced: match flow.verdict {
                    Verdict::Dropped => "dropped",
                    Verdict::Audit => "audit",
                    _ => "forwarded",
                },
            };
            *counts.entry(count).or_default() += 1;
        }
    }

    /// How often each staged policy would have decided.
    pub(crate) fn counts(&self) -> BTreeMap<StagedCount, u64> {
        lock(&self.counts).clone()
    }
}

#[cfg(test)]
mod tests {
    use axon_abi::{Be16, Direction, DropReason, EventKind, EventRecord, Identity};
    use axon_hubble::{Flow, NameTable, Response, Style, decode, line};
    use axon_model::{
        Action, Auth, Label, Labels, Origin, Peer, Peers, PolicyKind, PolicyObject, PortMatch,
        PortRule, Ports, Protocol, Requirement, Rule, RuleEntry, Selector, Subject, Tier,
    };
    use axon_policy::{Engine, IdentityInfo, Numbers, PolicyConfig, Rehearsal};

    use super::Rehearsed;

    const WEB: Identity = Identity(300);
    const CLIENT: Identity = Identity(301);
    const OTHER: Identity = Identity(302);

    fn app(app: &str) -> Selector {
        Selector::new(vec![Requirement::equals("k8s", "app", app)])
    }

    fn info(app: &str) -> IdentityInfo {
        let labels: Labels = [Label::new("k8s", "app", app)].into_iter().collect();
        IdentityInfo::labelled(labels)
    }

    /// A policy that closes ingress to web but for clients on a port.
    fn allow(name: &str, port: u16, staged: bool) -> PolicyObject {
        let entry = RuleEntry {
            direction: Direction::Ingress,
            action: Action::Allow,
            peers: Peers::List(vec![Peer::Endpoints(app("client"))]),
            ports: Ports::List(vec![PortRule {
                protocol: Protocol::TCP,
                port: PortMatch::Range(port, port),
            }]),
            l7: None,
            auth: Auth::Unsaid,
        };
        PolicyObject {
            origin: Origin {
                kind: PolicyKind::CiliumNetworkPolicy,
                namespace: "shop".into(),
                name: name.into(),
            },
            uid: String::new(),
            staged,
            rules: vec![Rule {
                subject: Subject::Endpoints(app("web")),
                tier: Tier::Normal,
                default_deny_ingress: true,
                default_deny_egress: false,
                entries: vec![entry],
                description: String::new(),
                labels: Vec::new(),
                log: String::new(),
            }],
        }
    }

    fn deny_other(name: &str) -> PolicyObject {
        let mut policy = allow(name, 80, true);
        for rule in &mut policy.rules {
            rule.default_deny_ingress = false;
            for entry in &mut rule.entries {
                entry.action = Action::Deny;
                entry.peers = Peers::List(vec![Peer::Endpoints(app("other"))]);
            }
        }
        policy
    }

    fn engine(policies: Vec<PolicyObject>) -> Engine {
        let mut engine = Engine::new(PolicyConfig::default());
        for (id, name) in [(WEB, "web"), (CLIENT, "client"), (OTHER, "other")] {
            engine.upsert_identity(id, info(name));
        }
        engine.set_subjects([WEB, CLIENT].into());
        for policy in policies {
            engine.upsert_policy(policy);
        }
        engine
    }

    /// The verdict of web's endpoint on a connection, as the kernel tells it.
    fn verdict(from: Identity, port: u16, reason: u8) -> EventRecord {
        EventRecord {
            kind: EventKind::PolicyVerdict as u8,
            reason,
            direction: Direction::Ingress as u8,
            ip_version: 4,
            protocol: 6,
            endpoint: 7,
            source_identity: from,
            destination_identity: WEB,
            policy_set: 1,
            source_port: Be16::new(40000),
            destination_port: Be16::new(port),
            ..EventRecord::default()
        }
    }

    fn judged(rehearsed: &Rehearsed, record: &EventRecord) -> Flow {
        let mut flow = decode(record, &NameTable::default());
        rehearsed.judge(record, &mut flow);
        flow
    }

    fn said(rehearsed: &Rehearsed, record: &EventRecord) -> String {
        let flow = judged(rehearsed, record);
        let text = line(&Response::flow(flow.into()), Style::default());
        let staged = text.split_once("; staged: ");
        staged
            .map(|(_, staged)| staged.to_owned())
            .unwrap_or_default()
    }

    #[test]
    fn flows_tell_what_staged_policies_would_do() {
        let denied = DropReason::PolicyDenied as u8;
        for (what, policies, record, expected) in [
            (
                "nothing is staged",
                vec![allow("a", 80, false)],
                verdict(CLIENT, 80, 0),
                "",
            ),
            (
                "a staged allow",
                vec![allow("a", 80, true)],
                verdict(CLIENT, 80, 0),
                "shop/a would allow it",
            ),
            (
                "a staged default deny",
                vec![allow("a", 80, true)],
                verdict(CLIENT, 81, 0),
                "no rule of shop/a would allow it",
            ),
            (
                "one that is enforced allows it",
                vec![allow("a", 80, false), allow("b", 81, true)],
                verdict(CLIENT, 80, 0),
                "would be allowed",
            ),
            (
                "a staged allow beside what is denied now",
                vec![allow("a", 80, false), allow("b", 81, true)],
                verdict(CLIENT, 81, denied),
                "shop/b would allow it",
            ),
            (
                "a staged deny",
                vec![deny_other("a")],
                verdict(OTHER, 80, 0),
                "shop/a would deny it",
            ),
            (
                "an end that no staged policy is about",
                vec![allow("a", 80, true)],
                EventRecord {
                    direction: Direction::Egress as u8,
                    ..verdict(CLIENT, 81, 0)
                },
                "",
            ),
            (
                "no verdict",
                vec![allow("a", 80, true)],
                EventRecord {
                    kind: EventKind::Drop as u8,
                    ..verdict(CLIENT, 81, denied)
                },
                "",
            ),
        ] {
            let rehearsed = Rehearsed::default();
            rehearsed.follow(&Rehearsal::new(&engine(policies)).staged());
            assert_eq!(said(&rehearsed, &record), expected, "{what}");
        }
    }

    #[test]
    fn enforcement_is_as_if_it_were_not_there() {
        let sets = |policies| {
            let mut numbers = Numbers::default();
            let resolution = engine(policies).resolution(&mut numbers).clone();
            (resolution, numbers)
        };
        let without = sets(vec![allow("a", 80, false)]);
        let with = sets(vec![
            allow("a", 80, false),
            allow("b", 81, true),
            deny_other("c"),
        ]);
        assert_eq!(with, without);
    }

    #[test]
    fn what_it_would_decide_is_counted_until_it_is_gone() {
        let rehearsed = Rehearsed::default();
        let engine = engine(vec![allow("a", 80, true)]);
        let mut rehearsal = Rehearsal::new(&engine);
        rehearsed.follow(&rehearsal.staged());
        for port in [80, 81, 81] {
            judged(&rehearsed, &verdict(CLIENT, port, 0));
        }
        let counts = rehearsed.counts();
        let counted: Vec<_> = counts
            .iter()
            .map(|(c, n)| (c.action, c.enforced, *n))
            .collect();
        let expected = [("dropped", "forwarded", 2), ("forwarded", "forwarded", 1)];
        assert_eq!(counted, expected);
        rehearsed.follow(&axon_policy::Staged::default());
        assert!(rehearsed.counts().is_empty());
        assert_eq!(judged(&rehearsed, &verdict(CLIENT, 81, 0)).staged, None);
    }

    #[test]
    fn clients_of_hubble_find_it_among_the_extensions() {
        let rehearsed = Rehearsed::default();
        rehearsed.follow(&Rehearsal::new(&engine(vec![allow("a", 80, true)])).staged());
        let flow = judged(&rehearsed, &verdict(CLIENT, 81, 0));
        let json = serde_json::to_value(&flow).expect("json");
        let expected = serde_json::json!({
            "@type": "type.googleapis.com/google.protobuf.Struct",
            "value": {"staged": {
                "verdict": "DROPPED",
                "drop_reason_desc": "POLICY_DENIED",
                "policies": [{"name": "a", "namespace": "shop", "kind": "CiliumNetworkPolicy"}],
            }},
        });
        assert_eq!(json["extensions"], expected);
        assert_eq!(serde_json::from_value::<Flow>(json).expect("flow"), flow);
        let foreign = serde_json::json!({"extensions": {"@type": "x/y", "value": 3}});
        assert_eq!(
            serde_json::from_value::<Flow>(foreign)
                .expect("flow")
                .staged,
            None
        );
    }
}
