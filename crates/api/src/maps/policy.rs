//! Policy sets.

use axon_abi::{PolicyEntry, PolicyEntryFlags, PolicyKey, Scope, class};
use axon_model::Auth;
use serde::{Deserialize, Serialize};

use super::protocol_name;

/// A policy set version as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyMapSet {
    /// Its number.
    pub set: u32,
    /// Endpoints that have it.
    pub endpoints: Vec<u16>,
    /// Ingress that no entry allows is denied.
    pub default_deny_ingress: bool,
    /// Egress that no entry allows is denied.
    pub default_deny_egress: bool,
    /// Its entries.
    pub entries: Vec<PolicyMapEntry>,
}

/// One entry of a policy set version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyMapEntry {
    /// `ingress` or `egress`.
    pub direction: String,
    /// `any`, or the rest of a scope (`cluster`, `world`, …), or `identities`.
    pub remote: String,
    /// The identities, if `remote` says so.
    pub identities: Vec<u32>,
    /// `any`, `tcp`, `udp`, … or the number.
    pub protocol: String,
    /// `any`, `80`, `80-95`; of ICMP the type.
    pub port: String,
    /// `allow` or `deny`.
    pub action: String,
    /// The mode of the authentication that is lacking where it denies what a rule
    /// allows; empty if none is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// The higher wins.
    pub precedence: u32,
    /// Number of the rule.
    pub rule: u32,
    /// The policy it comes from; empty if not known.
    pub policy: String,
}

impl PolicyMapEntry {
    /// The entry; `identities` are those of its class.
    pub fn new(key: &PolicyKey, entry: &PolicyEntry, identities: &[u32]) -> Self {
        let remote = match key.class {
            class::ANY => "any".to_owned(),
            rest if rest < class::FIRST => Scope::ALL
                .into_iter()
                .find(|scope| class::default_of(*scope) == rest)
                .map_or_else(|| format!("class {rest}"), |s| scope_name(s).to_owned()),
            _ => "identities".to_owned(),
        };
        Self {
            direction: if key.direction_prefix & PolicyKey::EGRESS == 0 {
                "ingress".to_owned()
            } else {
                "egress".to_owned()
            },
            remote,
            identities: identities.to_vec(),
            protocol: match key.protocol {
                0 => "any".to_owned(),
                number => protocol_name(number),
            },
            port: port_range(
                key.port.get(),
                key.direction_prefix & PolicyKey::PREFIX_MASK,
            ),
            action: if entry.flags & PolicyEntryFlags::DENY == 0 {
                "allow".to_owned()
            } else {
                "deny".to_owned()
            },
            auth: Auth::of_flags(entry.flags).mode().to_owned(),
            precedence: entry.precedence,
            rule: entry.rule,
            policy: String::new(),
        }
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Unknown => "unknown",
        Scope::Host => "host",
        Scope::World => "world",
        Scope::Unmanaged => "unmanaged",
        Scope::Health => "health",
        Scope::Init => "init",
        Scope::RemoteNode => "remote-node",
        Scope::KubeApiserver => "kube-apiserver",
        Scope::Ingress => "ingress",
        Scope::Cluster => "cluster",
    }
}

/// The ports that share `bits` leading bits with `port`.
fn port_range(port: u16, bits: u8) -> String {
    match bits {
        0 => "any".to_owned(),
        1..=15 => {
            let last = port | (u16::MAX >> bits);
            format!("{port}-{last}")
        }
        _ => port.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::PolicyMapEntry;
    use axon_abi::{PolicyEntry, PolicyEntryFlags, PolicyKey, Scope, class};

    #[test]
    fn entries_are_spelt_out() {
        let entry = |class, port: u16, protocol, direction_prefix, flags| {
            let key = PolicyKey {
                set: 1,
                class,
                port: port.into(),
                protocol,
                direction_prefix,
            };
            let entry = PolicyEntry {
                flags,
                ..PolicyEntry::default()
            };
            let e = PolicyMapEntry::new(&key, &entry, &[7]);
            [e.direction, e.remote, e.protocol, e.port, e.action, e.auth].join(" ")
        };
        let cluster = class::default_of(Scope::Cluster);
        for (got, expected) in [
            (entry(class::ANY, 0, 0, 0, 0), "ingress any any any allow "),
            (
                entry(
                    class::ANY,
                    80,
                    6,
                    16,
                    PolicyEntryFlags::DENY | PolicyEntryFlags::AUTH,
                ),
                "ingress any tcp 80 deny required",
            ),
            (
                entry(class::FIRST, 80, 6, 16, 0),
                "ingress identities tcp 80 allow ",
            ),
            (
                entry(
                    cluster,
                    8080,
                    17,
                    PolicyKey::EGRESS | 12,
                    PolicyEntryFlags::DENY,
                ),
                "egress cluster udp 8080-8095 deny ",
            ),
            (
                entry(class::FIRST - 1, 0, 47, 1, 0),
                "ingress class 15 47 0-32767 allow ",
            ),
        ] {
            assert_eq!(got, expected);
        }
    }
}
