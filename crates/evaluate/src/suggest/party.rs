//! Who the ends of flows are, as policies can say it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::Identity;
use axon_api::k8s::{check_label, check_namespace};
use axon_control::labels::LabelFilter;
use axon_model::keys::{CLUSTER, NAMESPACE, NAMESPACE_LABELS};
use axon_model::{Label, Labels, source};

use crate::line::Endpoint;
use crate::world::Owner;
use crate::{Described, World};

/// First bit of numbers that only one node knows, and what they are of then.
const LOCAL_SHIFT: u32 = 24;
const LOCAL_PREFIX: u32 = 1;
const LOCAL_NODE: u32 = 2;
/// What the texts of workloads that are not described may take together, in
/// bytes, and what each label is counted beside its text.
const ROOM: usize = 64 << 20;
const LABEL_ROOM: usize = 64;
/// How many of them there may be: each is told from all others.
const WORKLOADS_MAX: usize = 10_000;

/// Pods that policies can tell from others, by labels that do not change from
/// one pod to the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) cluster: String,
    pub(crate) labels: BTreeMap<String, String>,
}

/// One end of flows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    /// Pods, by number.
    Workload(usize),
    /// What has a word of its own in policies.
    Entity(&'static str),
    /// An address outside.
    Address(IpAddr),
}

impl Workload {
    /// What it takes of [`ROOM`].
    fn room(&self) -> usize {
        let own = LABEL_ROOM + self.namespace.len() + self.cluster.len();
        let labels = self.labels.iter();
        labels.fold(own, |sum, (key, value)| {
            sum + LABEL_ROOM + key.len() + value.len()
        })
    }
}

/// Everybody who was met.
#[derive(Debug, Default)]
pub(crate) struct Parties<'a> {
    described: Option<(&'a Described, &'a World)>,
    filter: LabelFilter,
    numbers: BTreeMap<Arc<Workload>, usize>,
    workloads: Vec<Arc<Workload>>,
    /// What is left of [`ROOM`].
    room: usize,
    /// What is left of [`WORKLOADS_MAX`].
    left: usize,
}

impl<'a> Parties<'a> {
    /// Nobody yet but who is described.
    pub(crate) fn new(described: Option<(&'a Described, &'a World)>) -> Self {
        let mut parties = Self {
            described,
            room: ROOM,
            left: WORKLOADS_MAX,
            ..Self::default()
        };
        let world = described.map(|(_, world)| world);
        for id in world.iter().flat_map(|world| &world.people.pods) {
            let info = world.and_then(|world| world.people.identities.get(id));
            // What cannot be in a policy is told when it is met in a flow.
            if let Some(Ok(workload)) = info.map(|info| parties.read(&info.labels)) {
                parties.number(workload);
            }
        }
        parties
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Workload> {
        self.workloads.get(number).map(Arc::as_ref)
    }

    /// Those that a selector of this namespace must tell from each other.
    pub(crate) fn beside(&self, one: &Workload) -> impl Iterator<Item = &Workload> {
        let place = (one.namespace.clone(), one.cluster.clone());
        let workloads = self.workloads.iter().map(Arc::as_ref);
        workloads.filter(move |other| (&other.namespace, &other.cluster) == (&place.0, &place.1))
    }

    /// Who an end is.
    ///
    /// # Errors
    /// Why that is not known.
    pub(crate) fn find(&mut self, endpoint: &Endpoint, ip: IpAddr) -> Result<Party, String> {
        let mut labels = Labels::default();
        for text in &endpoint.labels {
            let label: Label = text
                .parse()
                .map_err(|error: axon_model::LabelError| error.to_string())?;
            labels.insert(label);
        }
        // As `axon policy diff` finds it: a pod that is described is what it is now.
        if let Some(labels) = self.of_described(endpoint, ip) {
            return self.workload(&labels).map(Party::Workload);
        }
        if labels.get(source::K8S, NAMESPACE).is_some() {
            return self.workload(&labels).map(Party::Workload);
        }
        let reserved = labels.iter().filter(|(of, ..)| *of == source::RESERVED);
        let mut names: BTreeSet<&str> = reserved.map(|(_, name, _)| name).collect();
        let number = Identity(endpoint.identity);
        if labels.is_empty() && endpoint.identity != 0 {
            names.extend(number.reserved_name());
        }
        if let Some(party) = of_reserved(&names, ip) {
            return Ok(party);
        }
        let outside = [source::CIDR, source::CIDR_GROUP, source::FQDN];
        if labels.iter().any(|(of, ..)| outside.contains(&of)) {
            return Ok(Party::Address(ip));
        }
        if !endpoint.pod_name.is_empty() {
            return Err(format!(
                "pod {}/{} has no labels of Kubernetes in it (described pods are known by name: \
                 --current)",
                endpoint.namespace, endpoint.pod_name
            ));
        }
        match (labels.is_empty(), endpoint.identity >> LOCAL_SHIFT) {
            (true, LOCAL_PREFIX) => Ok(Party::Address(ip)),
            (true, LOCAL_NODE) => Ok(Party::Entity("remote-node")),
            (true, _) => Err(format!("nothing tells who {ip} is (labels)")),
            (false, _) => Err(format!("{ip} is nobody that policies can name ({labels})")),
        }
    }

    /// The labels of a pod that is described.
    fn of_described(&self, endpoint: &Endpoint, ip: IpAddr) -> Option<Labels> {
        let (described, world) = self.described?;
        let name = (endpoint.namespace.clone(), endpoint.pod_name.clone());
        let by_address = || match world.owners.get(&ip) {
            Some(Owner::Pod(n)) => Some(*n),
            _ => world.pods.get(described.further.get(&ip)?).copied(),
        };
        let index = match endpoint.pod_name.is_empty() {
            false => world.pods.get(&name).copied(),
            // Who has an address may change, so it counts last.
            true if endpoint.labels.is_empty() => by_address(),
            true => None,
        };
        let identity = world.people.pods.get(index?)?;
        Some(world.people.identities.get(identity)?.labels.clone())
    }

    /// The number of pods with these labels.
    ///
    /// What is not described is kept only as long as there is room: a record may
    /// name as many as it likes.
    fn workload(&mut self, labels: &Labels) -> Result<usize, String> {
        let workload = self.read(labels)?;
        if let Some(number) = self.numbers.get(&workload) {
            return Ok(*number);
        }
        let left = self.left.checked_sub(1);
        let left = left.ok_or_else(|| format!("more than {WORKLOADS_MAX} workloads"))?;
        let room = self.room.checked_sub(workload.room());
        self.room = room.ok_or("more labels of workloads than are kept")?;
        self.left = left;
        Ok(self.number(workload))
    }

    /// What of labels tells a workload.
    fn read(&self, labels: &Labels) -> Result<Workload, String> {
        let of_k8s = labels.iter().filter(|(of, ..)| *of == source::K8S);
        let mut workload = Workload {
            namespace: String::new(),
            cluster: String::new(),
            labels: BTreeMap::new(),
        };
        for (_, key, value) in of_k8s {
            match key {
                NAMESPACE => value.clone_into(&mut workload.namespace),
                CLUSTER => value.clone_into(&mut workload.cluster),
                _ if key.starts_with(NAMESPACE_LABELS) => {}
                _ if self.filter.keeps(source::K8S, key) => {
                    check_label(key, value)?;
                    workload.labels.insert(key.to_owned(), value.to_owned());
                }
                _ => {}
            }
        }
        let namespace = workload.namespace.as_str();
        check_namespace(namespace, NAMESPACE).map_err(|error| error.to_string())?;
        if namespace.is_empty() {
            return Err(format!("{NAMESPACE} is empty; expected a namespace"));
        }
        check_label(CLUSTER, &workload.cluster)?;
        Ok(workload)
    }

    /// The number of a workload, a new one if it is new.
    fn number(&mut self, workload: Workload) -> usize {
        let workload = Arc::new(workload);
        let next = self.workloads.len();
        let number = *self.numbers.entry(Arc::clone(&workload)).or_insert(next);
        if number == next {
            self.workloads.push(workload);
        }
        number
    }
}

/// Who has these names, the narrowest first.
fn of_reserved(names: &BTreeSet<&str>, ip: IpAddr) -> Option<Party> {
    const ENTITIES: [&str; 7] = [
        "host",
        "kube-apiserver",
        "remote-node",
        "health",
        "ingress",
        "init",
        "unmanaged",
    ];
    let world = || names.iter().any(|name| name.starts_with("world"));
    let entity = ENTITIES.into_iter().find(|name| names.contains(name));
    let entity = entity.map(Party::Entity);
    entity.or_else(|| world().then_some(Party::Address(ip)))
}

#[cfg(test)]
mod tests {
    use super::{Labels, Parties};

    fn labels(app: &str) -> Labels {
        let texts = [
            "k8s:io.kubernetes.pod.namespace=farm".to_owned(),
            format!("k8s:app={app}"),
        ];
        let labels = texts.iter().map(|text| text.parse().expect("a label"));
        labels.collect()
    }

    #[test]
    fn whoever_comes_when_there_is_no_room_is_left_out() {
        let mut parties = Parties::new(None);
        let one = parties.read(&labels("a")).expect("a workload").room();
        parties.room = 2 * one;
        for _ in 0..3 {
            assert_eq!(parties.workload(&labels("a")), Ok(0));
            assert_eq!(parties.workload(&labels("b")), Ok(1));
        }
        let why = Err("more labels of workloads than are kept".to_owned());
        assert_eq!(parties.workload(&labels("c")), why);
        assert_eq!(parties.workload(&labels("b")), Ok(1), "still known");
        assert_eq!((parties.workloads.len(), parties.numbers.len()), (2, 2));
        (parties.room, parties.left) = (super::ROOM, 1);
        assert_eq!(parties.workload(&labels("c")), Ok(2));
        let why = Err("more than 10000 workloads".to_owned());
        assert_eq!(parties.workload(&labels("d")), why);
        assert_eq!(parties.workload(&labels("c")), Ok(2), "still known");
    }
}
