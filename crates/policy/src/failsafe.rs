//! What is never denied to the node itself, so that no policy locks it out.

use std::collections::BTreeMap;

use axon_abi::{Direction, PolicyKey, PolicySetFlags};
use axon_model::{Action, Auth, Entity, Peer, Peers, PortRule, Ports, RuleEntry};

use crate::compile::{Compiler, Does, SubjectTraits, compile};
use crate::order::Order;
use crate::rows::Shape;
use crate::select::stand_ins;
use crate::version::Version;
use crate::{Enforcement, NamedPorts, Numbers, PolicyConfig, PolicySet};

/// The ports of the node that stay open, and those of others that it may always
/// call, whatever its policy says; none by default. A node that may always call
/// some may also call the API server, where that is known by its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failsafe {
    /// Ports of the node.
    pub ingress: Vec<PortRule>,
    /// Ports of others.
    pub egress: Vec<PortRule>,
}

impl Failsafe {
    fn entries(&self, direction: Direction) -> Vec<RuleEntry> {
        let entry = |peers, ports| RuleEntry {
            direction,
            action: Action::Allow,
            peers,
            ports,
            l7: None,
            auth: Auth::Unsaid,
        };
        let ports = match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress | Direction::Unknown => &self.ingress,
        };
        if ports.is_empty() {
            return Vec::new();
        }
        let mut entries = vec![entry(Peers::Any, Ports::List(ports.clone()))];
        if direction == Direction::Egress {
            let api = Peers::List(vec![Peer::Entity(Entity::KubeApiserver)]);
            entries.push(entry(api, Ports::Any));
        }
        entries
    }
}

impl Compiler<'_> {
    /// Adds what is never denied, in directions in which something may be: a set
    /// without entries allows those whom nobody knows too.
    pub(crate) fn add_failsafe(&mut self, failsafe: &Failsafe, flags: u32) {
        for (direction, bit, closed) in [
            (
                Direction::Ingress,
                PolicyKey::INGRESS,
                PolicySetFlags::DEFAULT_DENY_INGRESS,
            ),
            (
                Direction::Egress,
                PolicyKey::EGRESS,
                PolicySetFlags::DEFAULT_DENY_EGRESS,
            ),
        ] {
            let has_terms = self.terms.iter().any(|term| term.direction == bit);
            if flags & closed == 0 && !has_terms {
                continue;
            }
            for entry in failsafe.entries(direction) {
                self.entry(0, &entry, Does::Failsafe, Some(Order::FAILSAFE));
            }
        }
    }
}

impl PolicySet {
    /// The set that allows the node itself nothing but what is never denied.
    pub fn lockdown_of_host(config: &PolicyConfig, numbers: &mut Numbers) -> Self {
        let config = PolicyConfig {
            enforcement: Enforcement::Always,
            allow_localhost: false,
            ..config.clone()
        };
        let traits = SubjectTraits {
            is_host: true,
            ..SubjectTraits::default()
        };
        let compiled = compile(&config, &traits, &[], &NamedPorts::new());
        let selected = |(scope, id, info)| {
            let whos = compiled.whos.iter().enumerate();
            let meant = whos.filter(|(_, who)| who.selects(id, &info));
            (scope, meant.map(|(n, _)| n).collect())
        };
        let defaults = stand_ins(&config).into_iter().map(selected).collect();
        let shape = Shape::new(compiled.clone(), defaults);
        Version::build(&shape, config.class_bits, &BTreeMap::new(), numbers).set()
    }
}
