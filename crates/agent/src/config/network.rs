//! Options of addresses, devices, policy and reports.

use axon_control::labels::LabelFilter;
use ipnet::IpNet;

use super::read::Reader;

/// When policy is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Where some rule selects the endpoint.
    Default,
    /// Always: without a rule nothing is allowed.
    Always,
    /// Never.
    Never,
}

/// Who numbers identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// This agent.
    Local,
    /// The cluster, by CiliumIdentity objects.
    Crd,
}

/// Addresses, devices, policy.
#[derive(Clone, Debug)]
pub struct Network {
    /// Serve IPv4.
    pub ipv4: bool,
    /// Serve IPv6.
    pub ipv6: bool,
    /// Devices of the node's network; empty is those of the routes.
    pub devices: Vec<String>,
    /// MTU of the pods; 0 is that of the devices.
    pub mtu: u32,
    /// Let IPv4 of pods travel in aggregates beyond 64 KiB.
    pub big_tcp_ipv4: bool,
    /// Let IPv6 of pods travel so.
    pub big_tcp_ipv6: bool,
    /// Destinations towards which pods keep their address.
    pub native: Vec<IpNet>,
    /// Give pods the node's IPv4 address outside the cluster.
    pub masquerade_ipv4: bool,
    /// Give pods the node's IPv6 address outside the cluster.
    pub masquerade_ipv6: bool,
    /// Who numbers identities.
    pub allocation: Allocation,
    /// Labels that make an identity.
    pub label_filter: LabelFilter,
    /// When policy is enforced.
    pub enforcement: Enforcement,
    /// Report what policy denies, and let it pass.
    pub audit: bool,
    /// Tell pods by ICMP what their policy does not let out.
    pub deny_response: bool,
    /// The node reaches its pods whatever policy says.
    pub allow_localhost: bool,
    /// Rules may mean other nodes by their labels.
    pub node_labels: bool,
    /// Rules may name protocols without ports.
    pub extended_protocols: bool,
    /// Prefixes in policy select nodes too.
    pub cidr_selects_nodes: bool,
    /// Prefixes in policy select pods too.
    pub cidr_selects_pods: bool,
}

impl Network {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        reader.word("routing-mode", &[("native", ())], ());
        reader.word("ipam", &[("kubernetes", ())], ());
        let masquerade = [
            reader.boolean("enable-ipv4-masquerade"),
            reader.boolean("enable-ipv6-masquerade"),
        ];
        if !reader.boolean("enable-bpf-masquerade") && masquerade.contains(&true) {
            reader.refuse(
                "enable-bpf-masquerade",
                "true, as addresses are masqueraded in eBPF only; or masquerading turned off by \
                 enable-ipv4-masquerade and enable-ipv6-masquerade",
            );
        }
        let [cidr_selects_nodes, cidr_selects_pods] = cidr_match_mode(reader);
        let network = Self {
            node_labels: reader.boolean("enable-node-selector-labels"),
            extended_protocols: reader.boolean("enable-extended-ip-protocols"),
            cidr_selects_nodes,
            cidr_selects_pods,
            ipv4: reader.boolean("enable-ipv4"),
            ipv6: reader.boolean("enable-ipv6"),
            devices: reader.settings.list("devices"),
            mtu: reader.number("mtu", 0..=65535),
            big_tcp_ipv4: reader.boolean("enable-ipv4-big-tcp"),
            big_tcp_ipv6: reader.boolean("enable-ipv6-big-tcp"),
            native: [
                reader.prefix("ipv4-native-routing-cidr", false),
                reader.prefix("ipv6-native-routing-cidr", true),
            ]
            .into_iter()
            .flatten()
            .collect(),
            masquerade_ipv4: masquerade[0],
            masquerade_ipv6: masquerade[1],
            allocation: reader.word(
                "identity-allocation-mode",
                &[("local", Allocation::Local), ("crd", Allocation::Crd)],
                Allocation::Local,
            ),
            label_filter: labels(reader),
            enforcement: reader.word(
                "enable-policy",
                &[
                    ("default", Enforcement::Default),
                    ("always", Enforcement::Always),
                    ("never", Enforcement::Never),
                ],
                Enforcement::Default,
            ),
            audit: reader.boolean("policy-audit-mode"),
            deny_response: reader.word(
                "policy-deny-response",
                &[("none", false), ("icmp", true)],
                false,
            ),
            allow_localhost: reader.word(
                "allow-localhost",
                &[("auto", true), ("always", true), ("policy", false)],
                true,
            ),
        };
        network.check(reader);
        network
    }

    fn check(&self, reader: &mut Reader<'_>) {
        if !self.ipv4 && !self.ipv6 {
            reader.refuse(
                "enable-ipv6",
                "true where enable-ipv4 is false: one family at least",
            );
        }
        let least = if self.ipv6 { 1280 } else { 576 };
        if self.mtu != 0 && self.mtu < least {
            reader.refuse("mtu", format!("0 or a number from {least} to 65535"));
        }
        if let Some(name) = self
            .devices
            .iter()
            .find(|d| d.len() > 15 || d.contains('/'))
        {
            reader.refuse(
                "devices",
                format!("device names of at most 15 characters, not {name:?}"),
            );
        }
    }
}

/// Whether prefixes in policy select nodes, and pods.
fn cidr_match_mode(reader: &mut Reader<'_>) -> [bool; 2] {
    let name = "policy-cidr-match-mode";
    let words = ["nodes", "pods"];
    let modes = reader.settings.list(name);
    if let Some(other) = modes.iter().find(|mode| !words.contains(&mode.as_str())) {
        reader.refuse(name, format!("nodes, pods, both or nothing, not {other:?}"));
    }
    words.map(|word| modes.iter().any(|mode| mode == word))
}

fn labels(reader: &mut Reader<'_>) -> LabelFilter {
    LabelFilter::parse(reader.settings.text("labels")).unwrap_or_else(|error| {
        reader.refuse("labels", format!("patterns separated by spaces ({error})"));
        LabelFilter::default()
    })
}

/// How much of an established flow is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aggregation {
    /// Every packet, where it is received and where it goes to.
    None,
    /// Every packet, where it goes to.
    Low,
    /// One report an interval, and each new TCP flag.
    Medium,
    /// The same, and no flags.
    Maximum,
}

/// What is reported of packets.
#[derive(Clone, Copy, Debug)]
pub struct Monitor {
    /// How much of an established flow.
    pub aggregation: Aggregation,
    /// Seconds between two reports of an established flow.
    pub interval_s: u32,
    /// TCP flags whose first sight in a flow is reported.
    pub tcp_flags: u8,
}

const TCP_FLAGS: [(&str, u8); 8] = [
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ece", 0x40),
    ("cwr", 0x80),
];

impl Monitor {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let aggregation = reader.word(
            "monitor-aggregation",
            &[
                ("none", Aggregation::None),
                ("low", Aggregation::Low),
                ("medium", Aggregation::Medium),
                ("maximum", Aggregation::Maximum),
            ],
            Aggregation::Medium,
        );
        let mut tcp_flags = 0;
        for word in reader.settings.list("monitor-aggregation-flags") {
            let flag = TCP_FLAGS
                .iter()
                .find(|(name, _)| word.eq_ignore_ascii_case(name));
            match (flag, word.as_str()) {
                (Some((_, bit)), _) => tcp_flags |= bit,
                (None, "all") => tcp_flags = 0xff,
                (None, _) => {
                    reader.refuse(
                        "monitor-aggregation-flags",
                        "some of fin, syn, rst, psh, ack, urg, ece, cwr",
                    );
                }
            }
        }
        let interval_s = reader.seconds("monitor-aggregation-interval");
        Self {
            aggregation,
            interval_s,
            tcp_flags,
        }
    }
}
