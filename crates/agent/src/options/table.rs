//! Every option, once: its name, its default, what it is for. It is long because it
//! is one table, in the order of `--help`; there is nothing in it to cut by.

/// How an option's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; as a flag alone it is `true`.
    Bool,
    /// A whole number.
    Number,
    /// A duration as Go writes it: `5s`, `2h13m20s`.
    Duration,
    /// A path.
    Path,
    /// Several paths.
    Paths,
    /// Text.
    Text,
    /// Several texts.
    List,
}

impl Kind {
    pub(super) const fn value_name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Number => "NUMBER",
            Self::Duration => "DURATION",
            Self::Path | Self::Paths => "PATH",
            Self::Text => "TEXT",
            Self::List => "LIST",
        }
    }

    /// Whether several values may be given.
    pub(super) const fn is_list(self) -> bool {
        matches!(self, Self::List | Self::Paths)
    }
}

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name: the flag without dashes, the file in the config directory.
    pub name: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// Its value where nobody says otherwise; empty is none.
    pub default: &'static str,
    /// What it is for.
    pub help: &'static str,
}

const fn option(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Spec {
    Spec {
        name,
        kind,
        default,
        help,
    }
}

use Kind::{Bool, Duration, List, Number, Path, Paths, Text};

/// Every option, in the order of the help.
pub const OPTIONS: &[Spec] = &[
    option(
        "config-dir",
        Path,
        "",
        "Directory with one file per option, as a mounted ConfigMap",
    ),
    option(
        "node-name",
        Text,
        "",
        "Name of this node [default: K8S_NODE_NAME, else the host name]",
    ),
    option(
        "cluster-name",
        Text,
        "default",
        "Name of the cluster: at most 32 of a-z, 0-9 and -",
    ),
    option(
        "manifests-dir",
        Paths,
        "",
        "Directory of Kubernetes manifests to follow; may be given several times",
    ),
    option(
        "static-cnp-path",
        Path,
        "",
        "Directory of policies to follow, by Cilium's name for it: one more manifests-dir",
    ),
    option(
        "state-dir",
        Path,
        "/run/axon",
        "Where the node's state is kept between two agents",
    ),
    option(
        "lib-dir",
        Path,
        "/var/lib/axon",
        "Where the last good content of manifests, services that the API was told of, and what holds the node itself are kept, over reboots too",
    ),
    option(
        "socket-path",
        Path,
        "/run/axon/axon.sock",
        "Unix socket of the HTTP API",
    ),
    option(
        "socket-group",
        Text,
        "axon",
        "Group that may use the API socket, if it exists",
    ),
    option(
        "bpf-root",
        Path,
        "/sys/fs/bpf/axon",
        "Where maps and links are pinned, on a bpffs",
    ),
    option("enable-ipv4", Bool, "true", "Serve IPv4"),
    option("enable-ipv6", Bool, "true", "Serve IPv6"),
    option(
        "devices",
        List,
        "",
        "Devices of the node's network [default: those of the routes]",
    ),
    option(
        "mtu",
        Number,
        "0",
        "MTU of the pods; 0 is that of the devices",
    ),
    option(
        "enable-ipv4-big-tcp",
        Bool,
        "true",
        "Let IPv4 of new pods travel in aggregates beyond 64 KiB",
    ),
    option(
        "enable-ipv6-big-tcp",
        Bool,
        "true",
        "Let IPv6 of new pods travel in aggregates beyond 64 KiB",
    ),
    option(
        "routing-mode",
        Text,
        "native",
        "How other nodes' pods are reached: native",
    ),
    option(
        "ipv4-native-routing-cidr",
        Text,
        "",
        "Destinations towards which pods keep their IPv4 address",
    ),
    option(
        "ipv6-native-routing-cidr",
        Text,
        "",
        "Destinations towards which pods keep their IPv6 address",
    ),
    option(
        "enable-ipv4-masquerade",
        Bool,
        "true",
        "Give pods the node's IPv4 address outside the cluster",
    ),
    option(
        "enable-ipv6-masquerade",
        Bool,
        "true",
        "Give pods the node's IPv6 address outside the cluster",
    ),
    option(
        "enable-bpf-masquerade",
        Bool,
        "true",
        "Masquerade in eBPF, the only way there is: true",
    ),
    option(
        "ipam",
        Text,
        "kubernetes",
        "Where pod addresses come from: kubernetes (the Node's podCIDRs)",
    ),
    option(
        "identity-allocation-mode",
        Text,
        "local",
        "Who numbers identities: local (this agent) or crd (CiliumIdentity objects)",
    ),
    option(
        "labels",
        Text,
        "",
        "Labels that make an identity: expressions over source:key, - before one excludes",
    ),
    option(
        "enable-policy",
        Text,
        "default",
        "When policy is enforced: default, always or never",
    ),
    option(
        "policy-audit-mode",
        Bool,
        "false",
        "Report what policy denies, and let it pass",
    ),
    option(
        "policy-deny-response",
        Text,
        "none",
        "How a pod learns that its policy does not let a packet out: none, or icmp",
    ),
    option(
        "allow-localhost",
        Text,
        "auto",
        "When the node reaches its pods whatever policy says: auto, always or policy",
    ),
    option(
        "enable-node-selector-labels",
        Bool,
        "false",
        "Policy may mean other nodes by their labels (fromNodes, toNodes)",
    ),
    option(
        "enable-extended-ip-protocols",
        Bool,
        "false",
        "Policy may name protocols without ports (VRRP, GRE, ESP, ...), which only nodes talk",
    ),
    option(
        "policy-cidr-match-mode",
        List,
        "",
        "Whom prefixes in policy select beside the world, by their addresses: nodes, pods",
    ),
    option(
        "enable-host-firewall",
        Bool,
        "false",
        "Enforce policies with nodeSelector on the node itself",
    ),
    option(
        "host-firewall-confirm-timeout",
        Duration,
        "0s",
        "Time after which changed policy for the node itself is taken back, unless confirmed by \
         axon policy host-confirm; 0s is off",
    ),
    option(
        "host-firewall-failsafe-ingress",
        List,
        "tcp/22,tcp/2379-2380,tcp/6443,tcp/10250,udp/68,udp/546",
        "Ports of the node that its policy never closes (SSH, etcd, API server, kubelet, DHCP); \
         empty is none",
    ),
    option(
        "host-firewall-failsafe-egress",
        List,
        "tcp/53,tcp/2379-2380,tcp/6443,udp/53,udp/67,udp/547",
        "Ports that the node may always call, whatever its policy says (DNS, etcd, API server, \
         DHCP); empty is none",
    ),
    option(
        "kube-proxy-replacement",
        Bool,
        "true",
        "Serve services in the place of kube-proxy, at sockets too",
    ),
    option(
        "bpf-lb-sock",
        Bool,
        "false",
        "Lead sockets from services to backends also where kube-proxy is not replaced",
    ),
    option(
        "bpf-lb-sock-hostns-only",
        Bool,
        "false",
        "Lead only the node's own sockets; what pods send is balanced in packets",
    ),
    option(
        "bpf-lb-sock-terminate-pod-connections",
        Bool,
        "true",
        "End sockets in pods too that are connected to a backend that is gone",
    ),
    option(
        "lb-sock-terminate-all-protos",
        Bool,
        "false",
        "End connections of TCP too, not only sockets of UDP",
    ),
    option(
        "node-port-bind-protection",
        Bool,
        "true",
        "Refuse processes of the node that bind to a port of a service",
    ),
    option(
        "cgroup-root",
        Text,
        "",
        "Cgroup (version 2) whose processes' sockets are led [default: all]",
    ),
    option(
        "endpoint-ready-timeout",
        Duration,
        "10s",
        "How long CNI ADD waits for labels and policy of a pod",
    ),
    option(
        "monitor-aggregation",
        Text,
        "medium",
        "How much is reported of an established flow: none is each packet, where it is received \
         and where it goes to; low only where it goes to; medium is once an interval, and new TCP \
         flags; maximum leaves out the flags",
    ),
    option(
        "monitor-aggregation-interval",
        Duration,
        "5s",
        "Time between two reports of an established flow",
    ),
    option(
        "monitor-aggregation-flags",
        List,
        "syn,fin,rst",
        "TCP flags whose first sight in a flow is reported",
    ),
    option(
        "bpf-map-dynamic-size-ratio",
        Text,
        "0.0025",
        "Share of memory that sizes the connection tables; 0 is off",
    ),
    option(
        "bpf-ct-global-tcp-max",
        Number,
        "",
        "Connections of TCP [default: by memory, at most 524288]",
    ),
    option(
        "bpf-ct-global-any-max",
        Number,
        "",
        "Connections of other protocols [default: half of TCP's]",
    ),
    option(
        "bpf-ct-endpoint-max",
        Number,
        "0",
        "Connections that one endpoint may own; 0 is a quarter of the table",
    ),
    option(
        "bpf-nat-global-max",
        Number,
        "",
        "Masqueraded connections [default: by memory, at most 262144]",
    ),
    option(
        "bpf-policy-map-max",
        Number,
        "16384",
        "Policy entries; the node's table holds 16 times as many",
    ),
    option(
        "bpf-endpoint-map-max",
        Number,
        "4096",
        "Endpoints of the node, each with two addresses",
    ),
    option(
        "bpf-ipcache-map-max",
        Number,
        "524288",
        "Addresses that policy knows; of prefixes an eighth",
    ),
    option(
        "bpf-identity-map-max",
        Number,
        "131072",
        "Identities that policy knows",
    ),
    option(
        "bpf-fragments-map-max",
        Number,
        "8192",
        "Fragmented datagrams that are followed at a time",
    ),
    option(
        "bpf-lb-mode",
        Text,
        "snat",
        "How answers of services come back to the network: snat (by way of this node), dsr (from \
         the backend's node) or hybrid (dsr for TCP alone)",
    ),
    option(
        "bpf-lb-mode-annotation",
        Bool,
        "false",
        "Services may say so themselves (service.cilium.io/forwarding-mode)",
    ),
    option(
        "bpf-lb-algorithm",
        Text,
        "random",
        "How a backend is chosen for the network: random or maglev",
    ),
    option(
        "bpf-lb-algorithm-annotation",
        Bool,
        "false",
        "Services may say so themselves (service.cilium.io/lb-algorithm)",
    ),
    option(
        "bpf-lb-maglev-table-size",
        Number,
        "16381",
        "Places of a Maglev table: 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521 or 131071",
    ),
    option(
        "bpf-lb-external-clusterip",
        Bool,
        "false",
        "Cluster addresses of services are open to the network",
    ),
    option(
        "bpf-lb-source-range-all-types",
        Bool,
        "false",
        "Source ranges count for all that the network sees of a service, not its load balancer's \
         addresses alone",
    ),
    option(
        "node-port-range",
        List,
        "30000,32767",
        "First and last node port of services",
    ),
    option(
        "nodeport-addresses",
        List,
        "",
        "Prefixes of the node's addresses that have node ports [default: all]",
    ),
    option(
        "enable-session-affinity",
        Bool,
        "true",
        "Services may keep a client at one backend (sessionAffinity)",
    ),
    option(
        "enable-service-topology",
        Bool,
        "false",
        "Backends near by come first where services and slices say so",
    ),
    option(
        "enable-health-check-nodeport",
        Bool,
        "true",
        "Tell load balancers by a port of the node whether it has backends",
    ),
    option(
        "kube-proxy-replacement-healthz-bind-address",
        Text,
        "",
        "Address and port where /healthz says as kube-proxy's does whether services are in force, \
         as 0.0.0.0:10256; empty is off",
    ),
    option(
        "service-no-backend-response",
        Text,
        "reject",
        "What becomes of who asks for a service without backends: reject or drop",
    ),
    option(
        "disable-external-ip-mitigation",
        Bool,
        "false",
        "External addresses of services are services for pods and nodes too",
    ),
    option(
        "enable-local-redirect-policy",
        Bool,
        "false",
        "Redirect addresses and services to pods of this node (CiliumLocalRedirectPolicy)",
    ),
    option(
        "k8s-service-proxy-name",
        Text,
        "",
        "Only services with this label service.kubernetes.io/service-proxy-name; empty is those \
         without it",
    ),
    option(
        "bpf-lb-map-max",
        Number,
        "65536",
        "Services; the options after this one size single tables",
    ),
    option(
        "bpf-lb-service-map-max",
        Number,
        "",
        "Services, each with four addresses and ports [default: bpf-lb-map-max]",
    ),
    option(
        "bpf-lb-service-backend-map-max",
        Number,
        "",
        "Backends of services [default: four times bpf-lb-map-max]",
    ),
    option(
        "bpf-lb-affinity-map-max",
        Number,
        "",
        "Clients of services with affinity [default: bpf-lb-map-max]",
    ),
    option(
        "bpf-lb-source-range-map-max",
        Number,
        "",
        "Source ranges of services [default: bpf-lb-map-max]",
    ),
    option(
        "bpf-lb-maglev-map-max",
        Number,
        "1024",
        "Maglev tables of 16381 places",
    ),
    option(
        "bpf-sock-rev-map-max",
        Number,
        "",
        "Sockets that are connected to services [default: by memory, at most 131072]",
    ),
    option(
        "bpf-ct-timeout-regular-tcp",
        Duration,
        "2h13m20s",
        "Life of an idle TCP connection",
    ),
    option(
        "bpf-ct-timeout-regular-tcp-syn",
        Duration,
        "60s",
        "Life of a TCP connection that is not answered",
    ),
    option(
        "bpf-ct-timeout-regular-tcp-fin",
        Duration,
        "10s",
        "Life of a TCP connection that is closed",
    ),
    option(
        "bpf-ct-timeout-regular-any",
        Duration,
        "60s",
        "Life of an idle flow of another protocol",
    ),
    option(
        "bpf-ct-timeout-one-way-any",
        Duration,
        "30s",
        "Life of a flow of another protocol that is not answered",
    ),
    option(
        "conntrack-gc-interval",
        Duration,
        "0s",
        "Time between two sweeps of the connections; 0 follows their number",
    ),
    option(
        "agent-health-port",
        Number,
        "9879",
        "Port of /healthz on the loopback; 0 is off",
    ),
    option(
        "prometheus-serve-addr",
        Text,
        "",
        "Address and port of the metrics, as :9962; empty is off",
    ),
    option(
        "log-level",
        Text,
        "info",
        "Least level that is logged: error, warn, info, debug, trace, or a filter",
    ),
    option(
        "log-format",
        Text,
        "text",
        "How the log is written: text or json",
    ),
];

#[cfg(test)]
mod tests {
    use super::OPTIONS;

    #[test]
    fn names_are_unique() {
        for (n, spec) in OPTIONS.iter().enumerate() {
            assert!(
                OPTIONS[..n].iter().all(|o| o.name != spec.name),
                "{}",
                spec.name
            );
        }
    }
}
