//! A cluster with its policies, resolved on each of its nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::Identity;
use axon_model::{Labels, Origin, PolicyObject};
use axon_policy::{
    Engine, Group, IdentityInfo, Numbers, PolicyConfig, RuleRef, node_labels, policy_groups,
    policy_names, policy_prefixes,
};
use ipnet::IpNet;

use crate::groups::groups;
use crate::judge::local_only;
use crate::people::{Named, People};
use crate::served::Served;
use crate::tables::PolicyTables;
use crate::{Cluster, Node, Problem, Settings};

/// A cluster with its policies.
#[derive(Debug)]
pub struct World {
    pub(crate) cluster: Cluster,
    pub(crate) config: PolicyConfig,
    pub(crate) policies: BTreeMap<Origin, PolicyObject>,
    pub(crate) people: People,
    pub(crate) owners: BTreeMap<IpAddr, Owner>,
    /// Pods by namespace and name.
    pub(crate) pods: BTreeMap<(String, String), usize>,
    pub(crate) nodes: BTreeMap<String, NodeView>,
    pub(crate) served: Served,
    pub(crate) numbers: Numbers,
}

/// Who has an address of the cluster, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Pod(usize),
    Node(usize),
    Special(usize),
}

/// What one node enforces.
#[derive(Debug)]
pub(crate) struct NodeView {
    /// Who it is to itself.
    pub(crate) host: IdentityInfo,
    /// Its labels.
    pub(crate) labels: Labels,
    /// Number of the set of each identity that has one.
    pub(crate) subjects: BTreeMap<Identity, u32>,
    /// The rows of these sets.
    pub(crate) tables: PolicyTables,
}

impl World {
    /// A cluster, its agents' settings, and the policies that are accepted. Of two
    /// of one name the later one counts.
    ///
    /// # Errors
    /// What cannot be in a cluster, by its path.
    pub fn new(
        cluster: Cluster,
        settings: &Settings,
        policies: Vec<PolicyObject>,
    ) -> Result<Self, Problem> {
        let config = Self::config(&cluster, settings)?;
        let named = policies.into_iter();
        let named = named.map(|policy| (policy.origin.clone(), policy));
        let mut policies: BTreeMap<Origin, PolicyObject> = named.collect();
        // After the later of two has taken the place of the other.
        policies.retain(|_, policy| !policy.staged);
        if settings.policy_default_local_cluster {
            for policy in policies.values_mut() {
                local_only(policy, &config.cluster_name);
            }
        }
        let refs = policies.values().flat_map(policy_groups).collect();
        let groups = groups(&cluster, &refs);
        let by_groups = groups.values().flat_map(Group::prefixes).map(IpNet::trunc);
        let named = Named {
            prefixes: policies
                .values()
                .flat_map(policy_prefixes)
                .chain(by_groups)
                .collect(),
            names: policies.values().flat_map(policy_names).collect(),
        };
        let mut people = People::new(&cluster, (settings, &config), &named)?;
        let mut engine = Engine::new(config.clone());
        for (id, info) in &people.identities {
            engine.upsert_identity(*id, info.clone());
        }
        for (key, group) in groups {
            engine.upsert_group(&key, group);
        }
        for policy in policies.values() {
            engine.upsert_policy(policy.clone());
        }
        // With the groups that they are in.
        people.identities.clone_from(engine.identities());
        let mut world = Self {
            owners: owners(&cluster)?,
            pods: pods(&cluster)?,
            cluster,
            config,
            policies,
            people,
            nodes: BTreeMap::new(),
            served: Served::default(),
            numbers: Numbers::default(),
        };
        world.resolve(&mut engine, settings)?;
        world.served = Served::new(&world.cluster);
        Ok(world)
    }

    /// How policy is read in a cluster with these settings.
    ///
    /// # Errors
    /// A setting that is none, by its path.
    pub fn config(cluster: &Cluster, settings: &Settings) -> Result<PolicyConfig, Problem> {
        let name = match cluster.name.as_str() {
            "" => "default",
            name => name,
        };
        settings.policy(name)
    }

    /// The rule behind a number in a verdict.
    pub fn rule(&self, number: u32) -> Option<&RuleRef> {
        self.numbers.rules.rule(number)
    }

    /// Resolves policy on each node: nodes differ in who they are to themselves
    /// and in whom they enforce upon.
    fn resolve(&mut self, engine: &mut Engine, settings: &Settings) -> Result<(), Problem> {
        let nameless = Node {
            name: String::new(),
            ip: std::net::Ipv4Addr::UNSPECIFIED.into(),
            labels: BTreeMap::new(),
            kube_apiserver: false,
        };
        let named = self.cluster.nodes.iter();
        let nodes: Vec<Node> = named.cloned().chain([nameless]).collect();
        let known = self.people.identities.keys().copied();
        let known: Arc<BTreeSet<Identity>> = Arc::new(known.collect());
        for node in &nodes {
            let host = self.people.host(settings, node);
            engine.upsert_identity(Identity::HOST, host);
            let host = engine.identities().get(&Identity::HOST);
            let host = host.cloned().unwrap_or_default();
            let labels = node_labels(&node.labels);
            engine.set_node(labels.clone());
            let own_host = settings.host_firewall.then_some(Identity::HOST);
            let subjects: BTreeSet<Identity> =
                self.subjects_of(&node.name).chain(own_host).collect();
            engine.set_subjects(subjects);
            let resolution = engine.resolution(&mut self.numbers);
            let mut tables = PolicyTables::new(Arc::clone(&known));
            for (number, set) in &resolution.sets {
                tables.insert(*number, &set.rows);
            }
            let view = NodeView {
                host,
                labels,
                subjects: resolution.subjects.clone(),
                tables,
            };
            if self.nodes.insert(node.name.clone(), view).is_some() {
                let message = format!("two nodes are named {:?}", node.name);
                return Err(Problem::new("cluster.nodes", message));
            }
        }
        self.check_places()
    }

    /// The identities of a node's endpoints.
    fn subjects_of(&self, node: &str) -> impl Iterator<Item = Identity> {
        let pods = self.cluster.pods.iter().zip(&self.people.pods);
        let pods = pods.filter(move |(pod, _)| pod.node == node && pod.cluster.is_empty());
        let specials = self.cluster.specials.iter().zip(&self.people.specials);
        let specials = specials
            .filter(move |(special, id)| special.node == node && **id != Identity::UNMANAGED);
        pods.map(|(_, id)| *id).chain(specials.map(|(_, id)| *id))
    }

    /// Who runs on a node that does not exist?
    fn check_places(&self) -> Result<(), Problem> {
        let pods = self.cluster.pods.iter().enumerate();
        let pods = pods.map(|(n, pod)| (format!("cluster.pods[{n}].node"), &pod.node));
        let specials = self.cluster.specials.iter().enumerate();
        let specials =
            specials.map(|(n, special)| (format!("cluster.specials[{n}].node"), &special.node));
        for (path, node) in pods.chain(specials) {
            if !self.nodes.contains_key(node) {
                return Err(Problem::new(path, format!("{node:?} is no node")));
            }
        }
        Ok(())
    }
}

/// Who has which address of the cluster.
fn owners(cluster: &Cluster) -> Result<BTreeMap<IpAddr, Owner>, Problem> {
    let nodes = cluster.nodes.iter().enumerate();
    let nodes = nodes.map(|(n, node)| (node.ip, Owner::Node(n), format!("nodes[{n}]")));
    let pods = cluster.pods.iter().enumerate();
    let pods = pods.map(|(n, pod)| (pod.ip, Owner::Pod(n), format!("pods[{n}]")));
    let specials = cluster.specials.iter().enumerate();
    let specials =
        specials.map(|(n, special)| (special.ip, Owner::Special(n), format!("specials[{n}]")));
    let mut owners = BTreeMap::new();
    for (ip, owner, place) in nodes.chain(pods).chain(specials) {
        if owners.insert(ip, owner).is_some() {
            let message = format!("{ip} is somebody else's already");
            return Err(Problem::new(format!("cluster.{place}.ip"), message));
        }
    }
    Ok(owners)
}

/// Pods by namespace and name.
fn pods(cluster: &Cluster) -> Result<BTreeMap<(String, String), usize>, Problem> {
    let mut pods = BTreeMap::new();
    for (n, pod) in cluster.pods.iter().enumerate() {
        let name = (pod.namespace.clone(), pod.name.clone());
        if pods.insert(name, n).is_some() {
            let message = format!("{:?} is another pod's name already", pod.name);
            return Err(Problem::new(format!("cluster.pods[{n}].name"), message));
        }
    }
    Ok(pods)
}
