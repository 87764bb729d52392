//! Who the numbers of an event are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::{Direction, Identity};
use axon_model::Rows;

use crate::{Policy, Time};

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointName {
    /// The endpoint's number if it is of this node, else 0.
    pub id: u16,
    /// Namespace of the pod or process.
    pub namespace: Arc<str>,
    /// Name of the pod or process.
    pub pod_name: Arc<str>,
}

/// Resolves the numbers of events. The agent answers from its tables; answers
/// are shared values, nothing is copied.
pub trait Names {
    /// The name of this node.
    fn node(&self) -> Arc<str>;

    /// The labels of an identity (`k8s:app=web`), in order; `None` if it is
    /// not known.
    fn labels(&self, identity: Identity) -> Option<Arc<[String]>>;

    /// Who has an address; `None` if no workload has it.
    fn endpoint(&self, address: IpAddr) -> Option<EndpointName>;

    /// The policy that a rule number comes from.
    fn rule(&self, rule: u32) -> Option<Policy>;

    /// What a rule has told with its verdicts; `None` for nothing.
    fn log(&self, rule: u32) -> Option<Arc<str>>;

    /// The policies of a policy set version that enforce a direction: those
    /// that must allow what is not to be denied.
    fn enforcing(&self, set: u32, direction: Direction) -> Arc<[Policy]>;

    /// The name of a device.
    fn interface(&self, ifindex: u32) -> Option<Arc<str>>;

    /// The wall-clock time of a point of the monotonic clock (nanoseconds).
    fn time(&self, monotonic_ns: u64) -> Time;
}

/// [`Names`] from plain tables. The large ones share their rows with their
/// clones.
#[derive(Clone, Debug, Default)]
pub struct NameTable {
    /// The name of this node.
    pub node: Arc<str>,
    /// Labels by identity.
    pub labels: Rows<Identity, Arc<[String]>>,
    /// Workloads by address.
    pub endpoints: Rows<IpAddr, EndpointName>,
    /// Policies by rule number.
    pub rules: HashMap<u32, Policy>,
    /// What rules have told with their verdicts, by rule number.
    pub logs: HashMap<u32, Arc<str>>,
    /// Policies by set version, those that enforce ingress and those that
    /// enforce egress.
    pub sets: HashMap<u32, [Arc<[Policy]>; 2]>,
    /// Devices by index.
    pub interfaces: HashMap<u32, Arc<str>>,
    /// Nanoseconds since 1970 at the zero of the monotonic clock.
    pub monotonic_zero_ns: u64,
}

impl Names for NameTable {
    fn node(&self) -> Arc<str> {
        Arc::clone(&self.node)
    }

    fn labels(&self, identity: Identity) -> Option<Arc<[String]>> {
        self.labels.get(&identity).map(Arc::clone)
    }

    fn endpoint(&self, address: IpAddr) -> Option<EndpointName> {
        self.endpoints.get(&address).cloned()
    }

    fn rule(&self, rule: u32) -> Option<Policy> {
        self.rules.get(&rule).cloned()
    }

    fn log(&self, rule: u32) -> Option<Arc<str>> {
        self.logs.get(&rule).map(Arc::clone)
    }

    fn enforcing(&self, set: u32, direction: Direction) -> Arc<[Policy]> {
        let of_set = self.sets.get(&set);
        match direction {
            Direction::Ingress => of_set.map(|[ingress, _]| Arc::clone(ingress)),
            Direction::Egress => of_set.map(|[_, egress]| Arc::clone(egress)),
            Direction::Unknown => None,
        }
        .unwrap_or_default()
    }

    fn interface(&self, ifindex: u32) -> Option<Arc<str>> {
        self.interfaces.get(&ifindex).map(Arc::clone)
    }

    fn time(&self, monotonic_ns: u64) -> Time {
        Time(self.monotonic_zero_ns.saturating_add(monotonic_ns))
    }
}
