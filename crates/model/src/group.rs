//! Groups: sets of peers that have a name outside the rules which refer to
//! them. A group changes without its rules.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Fault, Labels, ObjectKey, Selector, ServiceSpec, SliceEndpoint, SlicePort};

/// Which group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GroupKey {
    /// A CiliumCIDRGroup, by its name.
    CidrGroup(String),
    /// A service, by namespace and name.
    Service(ObjectKey),
}

/// The groups that a rule means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GroupRef {
    /// The CiliumCIDRGroup of this name.
    CidrGroup(String),
    /// CiliumCIDRGroups with these labels.
    CidrGroups(Selector),
    /// The services of this name; of every namespace if that is empty.
    Service(ObjectKey),
    /// Services with these labels.
    Services {
        /// Their namespace; every one if it is empty.
        namespace: String,
        /// Their labels.
        selector: Selector,
    },
}

impl GroupRef {
    /// Whether a group with these labels is meant.
    pub fn matches(&self, key: &GroupKey, labels: &Labels) -> bool {
        let within = |wanted: &str, namespace: &str| wanted.is_empty() || wanted == namespace;
        match (self, key) {
            (Self::CidrGroup(wanted), GroupKey::CidrGroup(name)) => wanted == name,
            (Self::CidrGroups(selector), GroupKey::CidrGroup(_)) => selector.matches(labels),
            (Self::Service(wanted), GroupKey::Service(key)) => {
                wanted.name == key.name && within(&wanted.namespace, &key.namespace)
            }
            (
                Self::Services {
                    namespace,
                    selector,
                },
                GroupKey::Service(key),
            ) => within(namespace, &key.namespace) && selector.matches(labels),
            _ => false,
        }
    }

    /// The one group that can be meant, if there is only one.
    pub fn only(&self) -> Option<GroupKey> {
        match self {
            Self::CidrGroup(name) => Some(GroupKey::CidrGroup(name.clone())),
            Self::Service(key) if !key.namespace.is_empty() => Some(GroupKey::Service(key.clone())),
            Self::Service(_) | Self::CidrGroups(_) | Self::Services { .. } => None,
        }
    }
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CidrGroup(name) => write!(f, "cidrgroup {name}"),
            Self::CidrGroups(selector) => write!(f, "cidrgroups {selector}"),
            Self::Service(key) => write!(f, "service {key}"),
            Self::Services {
                namespace,
                selector,
            } if namespace.is_empty() => write!(f, "services {selector}"),
            Self::Services {
                namespace,
                selector,
            } => write!(f, "services {namespace}/{selector}"),
        }
    }
}

/// A CiliumCIDRGroup: prefixes outside the cluster under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrGroup {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The prefixes, without host bits.
    pub cidrs: Vec<IpNet>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The labels of its pods; empty if its endpoints are told by slices alone.
    pub selector: BTreeMap<String, String>,
    /// What else it asks for.
    #[serde(default)]
    pub spec: ServiceSpec,
}

/// A slice of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// The service, in the slice's namespace; empty if it names none.
    pub service: String,
    /// Addresses of endpoints that are ready.
    pub addresses: Vec<IpAddr>,
    /// The endpoints with all that is told of them.
    #[serde(default)]
    pub endpoints: Vec<SliceEndpoint>,
    /// Their ports.
    #[serde(default)]
    pub ports: Vec<SlicePort>,
    /// How much of what comes each endpoint takes, beside those of other slices.
    #[serde(default)]
    pub weight: Option<u16>,
    /// What is wrong with it.
    #[serde(default)]
    pub faults: Vec<Fault>,
}
