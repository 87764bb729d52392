//! The nouns of Axoneme: labels, selectors, identities, endpoints, nodes,
//! policy rules; and the tables that hold them.
//!
//! ```text
//! sources ──> observed (what is asked for) ──> control, policy ──> desired (what the kernel shall hold)
//! ```
//!
//! Invariants: values are immutable once in a table; nothing here knows a
//! foreign format (Kubernetes, CNI, protobuf), a clock, or how a row is
//! brought about.
#![forbid(unsafe_code)]

mod desired;
mod endpoint;
mod evaluate;
mod group;
mod l7;
mod label;
mod node;
mod observed;
mod policy;
mod selector;
mod service;
mod strictness;

pub use desired::{Desired, DesiredServices, PolicyRows, Route, RowDiff, Rows};
pub use endpoint::{Endpoint, EndpointState, Mac, MacError};
pub use evaluate::{Lookup, Packet, Verdict, evaluate};
pub use group::{CidrGroup, EndpointSlice, GroupKey, GroupRef, Service};
pub use l7::{
    HeaderRule, HeaderValue, HttpRule, KafkaRule, L7, L7Rules, Listener, Mismatch, NamePattern,
    NamePatternError, Pattern, PatternError, SecretRef, TlsContext,
};
pub use label::{Label, LabelError, Labels, keys, source};
pub use node::{Namespace, Node, NodeAddress, NodeAddressKind, Pod, PodPort};
pub use observed::{CiliumEndpoint, IdentityRecord, NameAnswer, NameKey, ObjectKey, Observed};
pub use policy::{
    Action, Auth, Entity, EntityError, Origin, Peer, Peers, PolicyKind, PolicyObject, PortMatch,
    PortRule, Ports, Protocol, ProtocolError, Rule, RuleEntry, Subject, Tier,
};
pub use selector::{Operator, Requirement, Selector};
pub use service::{
    Algorithm, Distribution, Exposed, Fault, Forwarding, LocalRedirect, RedirectFrontend,
    RedirectPort, ServiceKind, ServicePort, ServiceSpec, SliceEndpoint, SlicePort, TargetPort,
    Written,
};
pub use strictness::{Newcomers, at_least_as_strict};
