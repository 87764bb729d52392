//! What the controller is told once, at start.

use axon_abi::Timeouts;
use axon_policy::{Enforcement, Failsafe, Numbers, PolicyConfig, PolicySet, RowCount};
use ipnet::IpNet;

use crate::labels::LabelFilter;
use crate::services::ServicesConfig;

/// Who numbers identities, as Cilium's `identity-allocation-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityMode {
    /// This node, for itself.
    #[default]
    Local,
    /// The cluster, by CiliumIdentity objects.
    Crd,
}

/// How many rows the kernel's maps hold; [`axon_abi::MAPS`] by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `axon_policy_set_v1`.
    pub policy_sets: usize,
    /// `axon_class_v1`.
    pub classes: usize,
    /// `axon_policy_v1`.
    pub entries: usize,
    /// `axon_identity_v1`.
    pub identities: usize,
    /// `axon_ipcache_v1`.
    pub ipcache: usize,
    /// `axon_ipcache_cidr_v1`.
    pub ipcache_cidrs: usize,
}

impl Capacity {
    /// What is left of it for policy. Where it is enforced on the node itself there is
    /// always room for the set that leaves open what is never denied.
    pub(crate) fn for_policy(config: &Config) -> Self {
        let lockdown = || {
            let set = PolicySet::lockdown_of_host(&config.policy(), &mut Numbers::default());
            RowCount::of(&set.rows)
        };
        let kept = config.host_firewall.then(lockdown).unwrap_or_default();
        let all = &config.capacity;
        Self {
            policy_sets: all.policy_sets.saturating_sub(kept.sets),
            classes: all.classes.saturating_sub(kept.classes),
            entries: all.entries.saturating_sub(kept.entries),
            ..*all
        }
    }
}

impl Default for Capacity {
    fn default() -> Self {
        let of = |name: &str| {
            axon_abi::MAPS
                .iter()
                .find(|map| map.name == name)
                .map_or(0, |map| map.max_entries as usize)
        };
        Self {
            policy_sets: of("axon_policy_set_v1"),
            classes: of("axon_class_v1"),
            entries: of("axon_policy_v1"),
            identities: of("axon_identity_v1"),
            ipcache: of("axon_ipcache_v1"),
            ipcache_cidrs: of("axon_ipcache_cidr_v1"),
        }
    }
}

/// The controller's configuration; unchangeable after start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node_name: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// IPv4 is carried.
    pub ipv4: bool,
    /// IPv6 is carried.
    pub ipv6: bool,
    /// Who is enforced upon (`enable-policy`).
    pub enforcement: Enforcement,
    /// Policy is reported but nothing is dropped by it (`policy-audit-mode`).
    pub audit: bool,
    /// Endpoints are told by ICMP what their policy does not let out
    /// (`policy-deny-response: icmp`).
    pub deny_response: bool,
    /// The node reaches its endpoints unless a rule denies it
    /// (`allow-localhost: always`).
    pub allow_localhost: bool,
    /// Policy is enforced on the node itself too (`enable-host-firewall`).
    pub host_firewall: bool,
    /// The node's number among the endpoints, where policy is enforced on it.
    pub host_id: u16,
    /// What is never denied to it.
    pub failsafe: Failsafe,
    /// Rules may mean other nodes by their labels
    /// (`enable-node-selector-labels`).
    pub node_labels: bool,
    /// Rules may name protocols without ports
    /// (`enable-extended-ip-protocols`).
    pub extended_protocols: bool,
    /// Prefixes that policy names select nodes too, by their addresses
    /// (`policy-cidr-match-mode: nodes`).
    pub cidr_selects_nodes: bool,
    /// They select workloads too (`policy-cidr-match-mode: pods`).
    pub cidr_selects_pods: bool,
    /// IPv4 of pods that leaves the cluster takes the node's address.
    pub masquerade_ipv4: bool,
    /// IPv6 of pods that leaves the cluster takes the node's address.
    pub masquerade_ipv6: bool,
    /// Destinations that are routed natively: no masquerading towards them.
    pub native_routing_cidrs: Vec<IpNet>,
    /// Routes to other nodes' pods are made (`auto-direct-node-routes`).
    pub direct_node_routes: bool,
    /// Who numbers identities.
    pub identity_mode: IdentityMode,
    /// Which labels make an identity.
    pub label_filter: LabelFilter,
    /// Bytes of an IP packet that the underlay carries.
    pub mtu: u32,
    /// Seconds between two trace events of an established flow.
    pub trace_interval_s: u32,
    /// TCP flags whose first sight in a flow is reported.
    pub trace_tcp_flags: u32,
    /// Conntrack entries that one endpoint may own; 0 is no limit.
    pub ct_quota: u32,
    /// How services are read.
    pub services: ServicesConfig,
    /// Slices are made here of selectors and pods, because nobody else does.
    pub makes_slices: bool,
    /// First port of masquerading.
    pub nat_port_min: u16,
    /// Last port of masquerading.
    pub nat_port_max: u16,
    /// How long flows live.
    pub timeouts: Timeouts,
    /// Policy verdicts of new flows are reported.
    pub event_verdict: bool,
    /// Forwarded packets are reported, aggregated.
    pub event_trace: bool,
    /// Packets are reported where they are received too, each of them.
    pub event_received: bool,
    /// Drops are reported.
    pub event_drop: bool,
    /// Rows that the kernel's maps hold.
    pub capacity: Capacity,
    /// How long a policy set version stays after the last endpoint has left
    /// it, so that packets in flight still find its rows.
    pub retire_after_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            cluster_name: "default".to_owned(),
            ipv4: true,
            ipv6: true,
            enforcement: Enforcement::Default,
            audit: false,
            deny_response: false,
            allow_localhost: true,
            host_firewall: false,
            host_id: 0,
            failsafe: Failsafe::default(),
            node_labels: false,
            extended_protocols: false,
            cidr_selects_nodes: false,
            cidr_selects_pods: false,
            masquerade_ipv4: true,
            masquerade_ipv6: true,
            native_routing_cidrs: Vec::new(),
            direct_node_routes: true,
            identity_mode: IdentityMode::Local,
            label_filter: LabelFilter::default(),
            mtu: 1500,
            trace_interval_s: 5,
            // FIN, SYN, RST: as Cilium's `monitor-aggregation-flags`.
            trace_tcp_flags: 0x07,
            ct_quota: 0,
            services: ServicesConfig::default(),
            makes_slices: false,
            nat_port_min: 32768,
            nat_port_max: 65535,
            timeouts: Timeouts {
                tcp_opening_s: 60,
                tcp_established_s: 8000,
                tcp_closing_s: 10,
                one_way_s: 30,
                two_way_s: 60,
                fragment_s: 30,
            },
            event_verdict: true,
            event_trace: true,
            event_received: false,
            event_drop: true,
            capacity: Capacity::default(),
            retire_after_ms: 5_000,
        }
    }
}

impl Config {
    /// Whether addresses of a family are anybody's: of those that are carried, and
    /// where the node itself is held to policy of both, as it has both whatever
    /// its pods have.
    pub fn knows(&self, v6: bool) -> bool {
        let carried = if v6 { self.ipv6 } else { self.ipv4 };
        carried || self.host_firewall
    }

    /// How policy is read on this node.
    pub fn policy(&self) -> PolicyConfig {
        PolicyConfig {
            enforcement: self.enforcement,
            cluster_name: self.cluster_name.clone(),
            ipv4: self.knows(false),
            ipv6: self.knows(true),
            allow_localhost: self.allow_localhost,
            cidr_selects_pods: self.cidr_selects_pods,
            failsafe: self.failsafe.clone(),
            node_labels: self.node_labels,
            extended_protocols: self.extended_protocols,
            ..PolicyConfig::default()
        }
    }
}
