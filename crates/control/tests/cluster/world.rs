//! A small cluster: tables, a controller, and short ways to say what is in
//! them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_abi::{Direction, EndpointRow, Identity, IpKey, IpcacheRow};
use axon_control::{Config, Controller, IdentityMode, Persisted, StepReport};
use axon_model::{
    Action, Auth, CiliumEndpoint, Desired, Endpoint, IdentityRecord, Namespace, Node, NodeAddress,
    NodeAddressKind, ObjectKey, Observed, Origin, Peer, Peers, Pod, PolicyKind, PolicyObject,
    PortMatch, PortRule, Ports, Protocol, Requirement, Rule, RuleEntry, Selector, Subject, Tier,
};
use axon_policy::evaluate;

pub(crate) struct Cluster {
    pub(crate) observed: Observed,
    pub(crate) desired: Desired,
    pub(crate) controller: Controller,
    pub(crate) now_ms: u64,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(crate) fn config() -> Config {
    Config {
        node_name: "one".into(),
        allow_localhost: false,
        ..Config::default()
    }
}

impl Cluster {
    /// Two nodes and a namespace; nothing is complete yet.
    pub(crate) fn new(config: Config) -> Self {
        let cluster = Self {
            observed: Observed::default(),
            desired: Desired::default(),
            controller: Controller::new(config, Persisted::default()),
            now_ms: 1000,
        };
        for (name, v4, v6, cidrs) in [
            (
                "one",
                "192.0.2.1",
                "2001:db8::1",
                ["10.0.1.0/24", "fd00:0:0:1::/64"],
            ),
            (
                "two",
                "192.0.2.2",
                "2001:db8::2",
                ["10.0.2.0/24", "fd00:0:0:2::/64"],
            ),
        ] {
            let address = |addr: &str| NodeAddress {
                kind: NodeAddressKind::InternalIP,
                addr: ip(addr),
            };
            let node = Node {
                name: name.into(),
                addresses: vec![address(v4), address(v6)],
                pod_cidrs: cidrs.iter().map(|c| c.parse().expect("prefix")).collect(),
                ..Node::default()
            };
            cluster
                .observed
                .nodes
                .write(|txn| txn.insert(name.into(), node));
        }
        let namespace = Namespace {
            name: "shop".into(),
            ..Namespace::default()
        };
        cluster
            .observed
            .namespaces
            .write(|txn| txn.insert("shop".into(), namespace));
        cluster
    }

    /// The same, complete and stepped once.
    pub(crate) fn ready() -> Self {
        let mut cluster = Self::new(config());
        cluster.complete();
        cluster.step();
        cluster
    }

    pub(crate) fn complete(&self) {
        self.observed.namespaces.mark_complete();
        self.observed.nodes.mark_complete();
        self.observed.pods.mark_complete();
        self.observed.policies.mark_complete();
        self.observed.cidr_groups.mark_complete();
        self.observed.services.mark_complete();
        self.observed.endpoint_slices.mark_complete();
        self.observed.local_redirects.mark_complete();
        self.observed.names.mark_complete();
        self.observed.cilium_endpoints.mark_complete();
        self.observed.identities.mark_complete();
        self.observed.endpoints.mark_complete();
    }

    pub(crate) fn step(&mut self) -> StepReport {
        let controller = &mut self.controller;
        let mut report = controller.step(self.now_ms, &self.observed, &self.desired);
        let of_services = controller.step_services(self.now_ms, &self.observed);
        report.conditions.extend(of_services.conditions);
        report
    }

    /// The agent starts again: what is observed and pinned stays.
    pub(crate) fn restart(&mut self, config: Config) {
        let text = serde_json::to_string(self.controller.persisted()).expect("text");
        let persisted = serde_json::from_str(&text).expect("and back");
        self.controller = Controller::new(config, persisted);
        self.desired = Desired::default();
    }

    pub(crate) fn pod(&self, name: &str, node: &str, addr: &str) {
        let pod = Pod {
            namespace: "shop".into(),
            name: name.into(),
            node: node.into(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            service_account: "default".into(),
            ips: if addr.is_empty() {
                vec![]
            } else {
                vec![ip(addr)]
            },
            ..Pod::default()
        };
        self.observed
            .pods
            .write(|txn| txn.insert(ObjectKey::new("shop", name), pod));
    }

    pub(crate) fn no_pod(&self, name: &str) {
        self.observed
            .pods
            .write(|txn| txn.remove(&ObjectKey::new("shop", name)));
    }

    /// An endpoint of this node, for a pod of the same name.
    pub(crate) fn endpoint(&self, id: u16, name: &str) {
        let (v4, v6) = (format!("10.0.1.{id}"), format!("fd00:0:0:1::{id:x}"));
        let endpoint = Endpoint {
            id,
            namespace: "shop".into(),
            pod_name: name.into(),
            ifindex: 100 + u32::from(id),
            ipv4: Some(v4.parse().expect("address")),
            ipv6: Some(v6.parse().expect("address")),
            identity: Identity::INIT,
            ..Endpoint::default()
        };
        self.observed
            .endpoints
            .write(|txn| txn.insert(id, endpoint));
    }

    pub(crate) fn no_endpoint(&self, id: u16) {
        self.observed.endpoints.write(|txn| txn.remove(&id));
    }

    pub(crate) fn policy(&self, name: &str, subject: &str, entries: Vec<RuleEntry>) {
        let rule = Rule {
            subject: Subject::Endpoints(app(subject)),
            tier: Tier::Normal,
            default_deny_ingress: entries.iter().any(|e| e.direction == Direction::Ingress),
            default_deny_egress: entries.iter().any(|e| e.direction == Direction::Egress),
            entries,
            description: format!("says {name}"),
            labels: Vec::new(),
            log: String::new(),
        };
        let policy = PolicyObject {
            origin: origin(name),
            uid: String::new(),
            staged: false,
            rules: vec![rule],
        };
        self.observed
            .policies
            .write(|txn| txn.insert(origin(name), policy));
    }

    /// A policy about everybody in an ordered tier.
    pub(crate) fn policy_in(&self, name: &str, tier: Tier, entries: Vec<RuleEntry>) {
        let origin = Origin {
            kind: PolicyKind::ClusterNetworkPolicy,
            namespace: String::new(),
            name: name.into(),
        };
        let rule = Rule {
            subject: Subject::Endpoints(Selector::default()),
            tier,
            default_deny_ingress: false,
            default_deny_egress: false,
            entries,
            description: String::new(),
            labels: Vec::new(),
            log: String::new(),
        };
        let policy = PolicyObject {
            origin: origin.clone(),
            uid: String::new(),
            staged: false,
            rules: vec![rule],
        };
        self.observed
            .policies
            .write(|txn| txn.insert(origin, policy));
    }

    pub(crate) fn no_policy(&self, name: &str) {
        self.observed
            .policies
            .write(|txn| txn.remove(&origin(name)));
    }

    pub(crate) fn cilium_endpoint(&self, name: &str, identity: u32, addr: &str, node_ip: &str) {
        let endpoint = CiliumEndpoint {
            namespace: "shop".into(),
            name: name.into(),
            identity,
            ips: vec![ip(addr)],
            node_ip: Some(ip(node_ip)),
        };
        let key = ObjectKey::new("shop", name);
        self.observed
            .cilium_endpoints
            .write(|txn| txn.insert(key, endpoint));
    }

    /// A CiliumIdentity for the pods of this name, numbered by the cluster.
    pub(crate) fn cluster_identity(&self, id: u32, name: &str) {
        let labels = [
            format!("k8s:app={name}"),
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop".to_owned(),
            "k8s:io.cilium.k8s.policy.cluster=default".to_owned(),
            "k8s:io.cilium.k8s.policy.serviceaccount=default".to_owned(),
            "k8s:io.kubernetes.pod.namespace=shop".to_owned(),
        ];
        let labels = labels
            .iter()
            .map(|l| l.parse::<axon_model::Label>().expect("label"));
        let record = IdentityRecord {
            id,
            labels: labels.collect(),
        };
        self.observed.identities.write(|txn| txn.insert(id, record));
    }

    pub(crate) fn row(&self, id: u16) -> Option<EndpointRow> {
        self.desired
            .endpoints
            .get(&(100 + u32::from(id)))
            .map(|row| *row)
    }

    pub(crate) fn address(&self, addr: &str) -> Option<IpcacheRow> {
        self.desired
            .ipcache
            .get(&IpKey::from(ip(addr)))
            .map(|row| *row)
    }

    pub(crate) fn identity(&self, addr: &str) -> Option<u32> {
        self.address(addr).map(|row| row.identity.0)
    }

    /// Who every prefix is that is more than one address.
    pub(crate) fn prefixes(&self) -> BTreeMap<String, u32> {
        self.controller
            .ips()
            .iter()
            .filter(|entry| entry.prefix.prefix_len() < entry.prefix.max_prefix_len())
            .map(|entry| (entry.prefix.to_string(), entry.identity.0))
            .collect()
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.desired.config.get(&0).map_or(0, |row| row.epoch)
    }

    /// Whether the rows allow TCP to this port of an endpoint from an address.
    pub(crate) fn allowed(&self, from: u32, to: u16, port: u16) -> bool {
        self.allows(to, Direction::Ingress, Identity(from), port)
    }

    /// Whether the rows of an endpoint allow TCP to a port from or to somebody.
    pub(crate) fn allows(&self, id: u16, way: Direction, far: Identity, port: u16) -> bool {
        let row = self.row(id).expect("an endpoint row");
        let rows = self
            .desired
            .policy_sets
            .get(&row.policy_set)
            .expect("rows of the set");
        evaluate(&rows, way, far, 6, port).is_allowed()
    }
}

pub(crate) fn crd() -> Config {
    Config {
        identity_mode: IdentityMode::Crd,
        ..config()
    }
}

pub(crate) fn app(name: &str) -> Selector {
    Selector::new(vec![Requirement::equals("k8s", "app", name)])
}

pub(crate) fn origin(name: &str) -> Origin {
    Origin {
        kind: PolicyKind::CiliumNetworkPolicy,
        namespace: "shop".into(),
        name: name.into(),
    }
}

pub(crate) fn pods(name: &str) -> Peers {
    Peers::List(vec![Peer::Endpoints(app(name))])
}

pub(crate) fn cidr(prefix: &str) -> Peers {
    Peers::List(vec![Peer::Cidr {
        cidr: prefix.parse().expect("prefix"),
        except: vec![],
    }])
}

pub(crate) fn ingress(action: Action, peers: Peers, port: u16) -> RuleEntry {
    RuleEntry {
        direction: Direction::Ingress,
        action,
        peers,
        ports: Ports::List(vec![PortRule {
            protocol: Protocol::TCP,
            port: PortMatch::Range(port, port),
        }]),
        l7: None,
        auth: Auth::Unsaid,
    }
}
