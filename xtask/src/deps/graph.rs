//! What `cargo metadata` says, reduced to what the rules ask.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use serde_json::Value;

use crate::workspace::{list, text};

/// One crate of ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Crate {
    /// The package's name.
    pub(super) name: String,
    /// Its folder.
    pub(super) folder: PathBuf,
    /// The root files of its library and its binaries.
    pub(super) roots: Vec<PathBuf>,
    /// What it declares for itself and its build script.
    pub(super) uses: BTreeSet<String>,
    /// What it declares for its tests alone.
    pub(super) tests_use: BTreeSet<String>,
    /// Every crate that ends up in it, with the way there: `a -> b -> c`.
    pub(super) contains: BTreeMap<String, String>,
}

/// The workspace's members. Without a resolved graph `contains` stays empty.
pub(super) fn crates(metadata: &Value) -> Vec<Crate> {
    let members: BTreeSet<&str> = list(metadata, "workspace_members")
        .filter_map(Value::as_str)
        .collect();
    let graph = Graph::of(metadata);
    list(metadata, "packages")
        .filter(|package| members.contains(text(package, "id")))
        .map(|package| Crate {
            contains: graph.reach(text(package, "id")),
            ..member(package)
        })
        .collect()
}

fn member(package: &Value) -> Crate {
    let declared = |tests: bool| {
        list(package, "dependencies")
            .filter(move |dependency| (dependency["kind"] == "dev") == tests)
            .map(|dependency| text(dependency, "name").to_owned())
            .collect()
    };
    let is_root = |target: &Value| {
        list(target, "kind").any(|kind| kind == "lib" || kind == "bin" || kind == "proc-macro")
    };
    let manifest = PathBuf::from(text(package, "manifest_path"));
    Crate {
        name: text(package, "name").to_owned(),
        folder: manifest.parent().map(PathBuf::from).unwrap_or_default(),
        roots: list(package, "targets")
            .filter(|target| is_root(target))
            .map(|target| text(target, "src_path").into())
            .collect(),
        uses: declared(false),
        tests_use: declared(true),
        contains: BTreeMap::new(),
    }
}

/// The resolved graph: package ids, their names and their normal dependencies.
struct Graph<'a> {
    names: BTreeMap<&'a str, &'a str>,
    edges: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Graph<'a> {
    fn of(metadata: &'a Value) -> Self {
        let names = list(metadata, "packages")
            .map(|package| (text(package, "id"), text(package, "name")))
            .collect();
        let edges = list(&metadata["resolve"], "nodes")
            .map(|node| {
                let normal = list(node, "deps")
                    .filter(|dep| list(dep, "dep_kinds").any(|kind| kind["kind"].is_null()));
                (
                    text(node, "id"),
                    normal.map(|dep| text(dep, "pkg")).collect(),
                )
            })
            .collect();
        Self { names, edges }
    }

    /// Every crate that can be reached, each by a shortest way.
    fn reach(&self, from: &'a str) -> BTreeMap<String, String> {
        let name = |id: &str| self.names.get(id).copied().unwrap_or_default().to_owned();
        let mut ways = BTreeMap::from([(from, name(from))]);
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            for next in self.edges.get(at).into_iter().flatten() {
                if !ways.contains_key(next) {
                    let way = format!("{} -> {}", ways[at], name(next));
                    ways.insert(next, way);
                    queue.push_back(next);
                }
            }
        }
        ways.remove(from);
        ways.into_iter().map(|(id, way)| (name(id), way)).collect()
    }
}
