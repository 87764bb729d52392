//! Keys and rows in words.

use std::net::IpAddr;

use axon_abi::{
    Be16, CtEntry, CtFlags, CtState, DropReason, EndpointRow, HOST_DEVICE, Identity, IpKey,
    IpcacheRow, LpmKey, PolicyEntry, PolicyEntryFlags, PolicyKey, PolicySetFlags, PolicySetRow,
    Scope, class,
};
use axon_model::{Auth, Label, Protocol, source};

use crate::node::Node;

/// How labels begin that follow from where a pod is, and say nothing of what it
/// was labelled with.
const DERIVED: [&str; 2] = ["io.cilium.k8s.", "io.kubernetes.pod."];

impl Node {
    /// A device by its name.
    pub(crate) fn device(&self, ifindex: u32) -> String {
        match self.interfaces.get(&ifindex) {
            _ if ifindex == HOST_DEVICE => "the node itself".to_owned(),
            Some(name) => name.clone(),
            None => format!("device {ifindex}"),
        }
    }

    /// An address with the name of who has it.
    pub(crate) fn address(&self, addr: &IpKey) -> String {
        let addr = IpAddr::from(*addr);
        match self.name_of(addr) {
            Some(name) => format!("{addr} ({name})"),
            None => addr.to_string(),
        }
    }

    /// The name of who has an address.
    pub(crate) fn name_of(&self, addr: IpAddr) -> Option<String> {
        if let Some(workload) = self.workloads.get(&addr) {
            return Some(format!("{}/{}", workload.namespace, workload.name));
        }
        if let Some(node) = self.nodes.get(&addr) {
            return Some(format!("node {node}"));
        }
        self.services.owner_of(&addr.into())
    }

    /// The name of an endpoint of this node.
    pub(crate) fn endpoint_name(&self, row: &EndpointRow) -> String {
        if row.ifindex == HOST_DEVICE {
            return format!("node {}", self.name);
        }
        let v4 = IpAddr::from(row.ipv4);
        let v6 = IpAddr::from(row.ipv6);
        let name = self.name_of(v4).or_else(|| self.name_of(v6));
        name.unwrap_or_else(|| format!("endpoint {}", row.id))
    }

    /// An identity with the labels that its author has given it.
    pub(crate) fn identity(&self, id: Identity) -> String {
        if let Some(name) = id.reserved_name() {
            return format!("{} ({name})", id.0);
        }
        let Some(info) = self.infos.get(&id) else {
            return format!("{} (not known)", id.0);
        };
        let given = info.labels.iter();
        let given = given.filter(|(_, key, _)| !DERIVED.iter().any(|of| key.starts_with(of)));
        let labels: Vec<String> = given
            .map(|(of, key, value)| match of {
                source::K8S => format!("{key}={value}"),
                of => Label::new(of, key, value).to_string(),
            })
            .collect();
        format!("{} ({})", id.0, labels.join(" "))
    }

    /// Every label of an identity.
    pub(crate) fn labels(&self, id: Identity) -> Vec<String> {
        let info = self.infos.get(&id);
        let labels = info.into_iter().flat_map(|info| info.labels.iter());
        labels
            .map(|(of, key, value)| Label::new(of, key, value).to_string())
            .collect()
    }

    pub(crate) fn endpoint_row(&self, row: &EndpointRow) -> String {
        format!(
            "{}: endpoint {}, identity {}, set {}",
            self.endpoint_name(row),
            row.id,
            row.identity.0,
            row.policy_set
        )
    }

    pub(crate) fn ipcache_row(&self, row: &IpcacheRow) -> String {
        let identity = self.identity(row.identity);
        if row.node == IpKey::UNSPECIFIED {
            return format!("identity {identity}");
        }
        format!("identity {identity}, by {}", self.address(&row.node))
    }

    /// A policy entry, with the policy that it comes from.
    pub(crate) fn entry(&self, entry: &PolicyEntry) -> String {
        let says = if Auth::of_flags(entry.flags).demands() {
            "for who is authenticated, and nobody is: deny"
        } else if entry.flags & PolicyEntryFlags::REDIRECT != 0 {
            match entry.flags & PolicyEntryFlags::DENY {
                0 => "to the proxy",
                _ => "for the proxy, which is not there: deny",
            }
        } else if entry.flags & PolicyEntryFlags::DENY != 0 {
            "deny"
        } else {
            "allow"
        };
        let from = match self.rules.get(&entry.rule) {
            Some((origin, _)) => format!(" by {origin}"),
            None => String::new(),
        };
        let (rule, precedence) = (entry.rule, entry.precedence);
        format!("{says}{from}, rule {rule}, precedence {precedence}")
    }
}

pub(crate) fn prefix(key: &LpmKey) -> String {
    let addr = IpAddr::from(key.addr);
    let bits = match addr {
        IpAddr::V4(_) => key.prefix_bits.saturating_sub(96),
        IpAddr::V6(_) => key.prefix_bits,
    };
    format!("{addr}/{bits}")
}

pub(crate) fn set_row(row: &PolicySetRow) -> String {
    let default = |flag: u32| match row.flags & flag {
        0 => "allow",
        _ => "deny",
    };
    format!(
        "by default ingress {}, egress {}",
        default(PolicySetFlags::DEFAULT_DENY_INGRESS),
        default(PolicySetFlags::DEFAULT_DENY_EGRESS)
    )
}

pub(crate) fn class_name(number: u32) -> String {
    if number == class::ANY {
        return "anyone".to_owned();
    }
    let scope = Scope::ALL
        .into_iter()
        .find(|scope| class::default_of(*scope) == number);
    match scope {
        Some(scope) => format!("rest of {}", format!("{scope:?}").to_lowercase()),
        None => format!("class {number}"),
    }
}

pub(crate) fn policy_key(key: &PolicyKey) -> String {
    let egress = key.direction_prefix & PolicyKey::EGRESS != 0;
    let bits = key.direction_prefix & PolicyKey::PREFIX_MASK;
    let direction = if egress { "egress" } else { "ingress" };
    let noun = match key.protocol {
        1 | 58 => "type",
        _ => "port",
    };
    let port = match bits {
        0 => format!("any {noun}"),
        16 => format!("{noun} {}", key.port.get()),
        bits => format!("{noun}s {}/{bits}", key.port.get()),
    };
    let protocol = match key.protocol {
        0 => "any protocol".to_owned(),
        n => Protocol(n).to_string(),
    };
    let class = class_name(key.class);
    format!("set {} {direction} {class} {protocol} {port}", key.set)
}

pub(crate) fn ports(low: Be16, high: Be16, protocol: u8) -> String {
    format!("{} {} {}", Protocol(protocol), low.get(), high.get())
}

pub(crate) fn ct_entry(entry: &CtEntry, now_s: u32) -> String {
    let state = match CtState::from_u8(entry.state) {
        Some(state) => format!("{state:?}").to_lowercase(),
        None => format!("state {}", entry.state),
    };
    let left = match entry.expires_s.checked_sub(now_s) {
        Some(left) if left > 0 => format!("{left} s left"),
        _ => "expired".to_owned(),
    };
    let denied = match DropReason::from_u8(entry.denied) {
        Some(reason) if entry.flags & CtFlags::DENIED_INGRESS != 0 => {
            format!(", ingress since denied: {reason}")
        }
        Some(reason) => format!(", egress since denied: {reason}"),
        None => String::new(),
    };
    format!(
        "{state}, {left}, identities {} to {}, decided by rule {} under epoch {}{denied}",
        entry.source_identity.0, entry.destination_identity.0, entry.rule, entry.epoch
    )
}
