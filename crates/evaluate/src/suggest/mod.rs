//! Policies that allow what was seen, and nothing else.
//!
//! ```text
//! lines ──> sight (passed, denied, answers?) ──> who: workload, entity, address
//!              └──> seen: by ends, protocol, port ──> rules by peers and ports ──> policies
//! ```
//!
//! Invariants: between workloads that policies are suggested for, a connection
//! is allowed just if the record holds it; whatever the lines are in the record,
//! the same ones give the same text; what is left out is told by its line.

mod notes;
mod party;
mod policy;
mod record;
mod rules;
mod selector;
mod sight;
mod yaml;

use std::collections::BTreeSet;

pub use record::Record;

use serde_json::{Value, json};

use policy::Policy;

/// How parts of the world are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beyond {
    /// By their names, where flows have names, else by address.
    #[default]
    Names,
    /// By address.
    Addresses,
    /// Not at all.
    World,
}

/// What is suggested.
#[derive(Clone, Debug)]
pub struct Options {
    /// For workloads of these namespaces; empty: of all.
    pub namespaces: BTreeSet<String>,
    /// How the world is told apart.
    pub beyond: Beyond,
    /// What policy denied shall be allowed too.
    pub denied: bool,
    /// Rules about what comes in.
    pub ingress: bool,
    /// Rules about what goes out.
    pub egress: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespaces: BTreeSet::new(),
            beyond: Beyond::default(),
            denied: false,
            ingress: true,
            egress: true,
        }
    }
}

/// Policies that allow what was seen.
#[derive(Clone, Debug, Default)]
pub struct Suggestion {
    policies: Vec<Policy>,
    /// What was left out, and what is not known.
    pub notes: Vec<String>,
    /// Flows that the policies rest upon.
    pub flows: u64,
}

impl Suggestion {
    /// How many policies.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// As a manifest, with what each rule rests upon in comments.
    pub fn yaml(&self) -> String {
        yaml::manifest(self)
    }

    /// As a List of Kubernetes.
    pub fn list(&self) -> Value {
        let items: Vec<Value> = self.policies.iter().map(Policy::object).collect();
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }
}
