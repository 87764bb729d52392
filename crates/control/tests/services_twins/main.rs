//! Properties over random clusters and histories: the incremental engine holds the
//! rows that the slow function gives, after every edit.

mod numbers;
mod shop;
mod worlds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{Backend, ServiceEntry, ServiceKey};
use axon_control::services::{Cluster, Engine, Numbers, ServiceRows, ServicesConfig, resolve};
use axon_model::{EndpointSlice, LocalRedirect, Node, ObjectKey, Pod, Protocol, Service};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use worlds::NODE;

#[derive(Clone, Debug)]
enum Edit {
    Service(ObjectKey, Option<Arc<Service>>),
    Slice(ObjectKey, Option<Arc<EndpointSlice>>),
    Pod(ObjectKey, Option<Arc<Pod>>),
    Node(String, Option<Arc<Node>>),
    Redirect(ObjectKey, Option<Arc<LocalRedirect>>),
    Listeners(BTreeSet<(Protocol, u16)>),
}

fn edit() -> impl Strategy<Value = Edit> {
    let listeners = vec![(Protocol::TCP, 30_001), (Protocol::UDP, 30_002)];
    prop_oneof![
        6 => worlds::service().prop_map(|(key, new)| Edit::Service(key, Some(new.into()))),
        1 => worlds::key(3).prop_map(|key| Edit::Service(key, None)),
        6 => worlds::slice().prop_map(|(key, new)| Edit::Slice(key, Some(new.into()))),
        1 => worlds::key(4).prop_map(|key| Edit::Slice(key, None)),
        6 => worlds::pod().prop_map(|(key, new)| Edit::Pod(key, Some(new.into()))),
        1 => worlds::key(4).prop_map(|key| Edit::Pod(key, None)),
        4 => worlds::node().prop_map(|new| Edit::Node(new.name.clone(), Some(new.into()))),
        1 => worlds::node_name().prop_map(|name| Edit::Node(name, None)),
        4 => worlds::redirect().prop_map(|(key, new)| Edit::Redirect(key, Some(new.into()))),
        1 => worlds::key(3).prop_map(|key| Edit::Redirect(key, None)),
        1 => subsequence(listeners, 0..=2)
            .prop_map(|listeners| Edit::Listeners(listeners.into_iter().collect())),
    ]
}

fn set<K: Ord + Clone, V: Clone>(all: &mut BTreeMap<K, V>, key: &K, new: Option<&V>) {
    match new {
        Some(new) => all.insert(key.clone(), new.clone()),
        None => all.remove(key),
    };
}

fn apply(edit: &Edit, cluster: &mut Cluster, engine: &mut Engine) {
    match edit {
        Edit::Service(key, new) => {
            set(&mut cluster.services, key, new.as_ref());
            engine.set_service(key, new.clone());
        }
        Edit::Slice(key, new) => {
            set(&mut cluster.slices, key, new.as_ref());
            engine.set_slice(key, new.clone());
        }
        Edit::Pod(key, new) => {
            set(&mut cluster.pods, key, new.as_ref());
            engine.set_pod(key, new.clone());
        }
        Edit::Node(name, new) => {
            set(&mut cluster.nodes, name, new.as_ref());
            engine.set_node(name, new.clone());
        }
        Edit::Redirect(key, new) => {
            set(&mut cluster.redirects, key, new.as_ref());
            engine.set_redirect(key, new.clone());
        }
        Edit::Listeners(new) => {
            cluster.listeners.clone_from(new);
            engine.set_listeners(new.clone());
        }
    }
}

fn fill(cluster: &Cluster, config: &ServicesConfig) -> Engine {
    let mut engine = Engine::new(NODE, config.clone(), cluster.makes_slices);
    // Not in the order in which they came.
    engine.set_listeners(cluster.listeners.clone());
    for (key, new) in cluster.redirects.iter().rev() {
        engine.set_redirect(key, Some(Arc::clone(new)));
    }
    for (key, new) in cluster.pods.iter().rev() {
        engine.set_pod(key, Some(Arc::clone(new)));
    }
    for (key, new) in cluster.slices.iter().rev() {
        engine.set_slice(key, Some(Arc::clone(new)));
    }
    for (key, new) in cluster.services.iter().rev() {
        engine.set_service(key, Some(Arc::clone(new)));
    }
    for (name, new) in cluster.nodes.iter().rev() {
        engine.set_node(name, Some(Arc::clone(new)));
    }
    engine.mark_complete();
    engine
}

/// What was ever under a number, and the last generation of each frontend.
#[derive(Default)]
struct Meanings {
    backends: BTreeMap<u32, Backend>,
    lists: BTreeMap<u32, Vec<(u32, [u32; 16])>>,
    frontends: BTreeMap<ServiceKey, (ServiceEntry, u32)>,
}

impl Meanings {
    fn check(&mut self, rows: &ServiceRows) -> Result<(), TestCaseError> {
        for (id, row) in &rows.backends {
            let who = |b: &Backend| (b.addr, b.port, b.protocol, b.service);
            let known = self.backends.entry(*id).or_insert(*row);
            prop_assert_eq!(who(known), who(row), "backend {}", id);
            prop_assert!(row.generation >= known.generation);
            *known = *row;
        }
        let mut lists: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (key, block) in &rows.lists {
            lists
                .entry(key.list)
                .or_default()
                .push((key.block, block.backends));
        }
        for (list, blocks) in lists {
            let known = self.lists.entry(list).or_insert_with(|| blocks.clone());
            prop_assert_eq!(&*known, &blocks, "list {}", list);
        }
        for (key, row) in rows.services.iter().filter(|(_, row)| row.service != 0) {
            let content = ServiceEntry {
                generation: 0,
                ..*row
            };
            prop_assert!(row.generation > 0);
            let known = self.frontends.insert(*key, (content, row.generation));
            if let Some((before, generation)) = known {
                prop_assert!(row.generation >= generation);
                let same = row.generation == generation;
                prop_assert!(!same || before == content, "{:?}: {:?}", key, before);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_engine_holds_what_the_slow_function_gives(
        config in worlds::config(),
        makes_slices in any::<bool>(),
        edits in prop::collection::vec(edit(), 1..60),
        restart in select(vec![3_usize, 10, 25]),
    ) {
        let mut cluster = Cluster { makes_slices, ..Cluster::default() };
        let mut engine = fill(&cluster, &config);
        let mut numbers = Numbers::default();
        let mut stored = Numbers::default();
        let mut meanings = Meanings::default();
        for (n, edit) in edits.iter().enumerate() {
            if n % restart == restart - 1 {
                // Another life, with what is on disk.
                prop_assert_eq!(&stored, &numbers);
                let text = serde_json::to_string(&stored).expect("numbers are JSON");
                numbers = serde_json::from_str(&text).expect("as they were");
                prop_assert_eq!(&stored, &numbers);
                let before = engine.tables().rows();
                engine = fill(&cluster, &config);
                engine.step(n as u64, &mut numbers);
                prop_assert_eq!(engine.tables().rows(), before);
            }
            apply(edit, &mut cluster, &mut engine);
            engine.step(n as u64, &mut numbers);
            let fast = engine.tables().rows();
            let before = numbers.clone();
            let slow = resolve(&cluster, NODE, &config, &mut numbers);
            prop_assert_eq!(&fast, &slow);
            prop_assert_eq!(&before, &numbers, "the same contents have the same numbers");
            meanings.check(&fast)?;
            let change = serde_json::to_string(&numbers.take_change()).expect("a change is JSON");
            stored.apply(serde_json::from_str(&change).expect("as it was"));
        }
        // In one step, in another order.
        let fast = engine.tables().rows();
        let mut at_once = fill(&cluster, &config);
        at_once.step(0, &mut numbers);
        prop_assert_eq!(at_once.tables().rows(), fast);
    }
}
