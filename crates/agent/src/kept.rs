//! What holds the node itself to its policy, on disk: after a reboot it is in
//! force before a packet is let through, and long before sources are read.
//!
//! ```text
//! lib-dir/host-rows.json ──> numbers to the state-dir ──> rows ──> uplinks' stubs ──> the agent's
//!          ^                                                                          life as ever
//!          └── Keeper, a moment after each change that is in force for good
//! ```
//!
//! From then on it is as if the rows had been pinned all the while.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use axon_abi::{
    ClassKey, ClassRow, EndpointRow, HOST_DEVICE, Identity, IdentityRow, IpKey, IpcacheRow, LpmKey,
    PolicyEntry, PolicyKey, PolicySetRow,
};
use axon_api::state::{MapRows, RowError, rows_of};
use axon_control::{HostRows, Persisted};
use axon_linux::{MapError, Maps, Pass};
use axon_model::{Desired, PolicyRows};
use serde::{Deserialize, Serialize};

use crate::Config;
use crate::clock::monotonic_ms;
use crate::problem::chain;
use crate::setup;
use crate::store::{CHANGES, CONTROL, Store, StoreError};
use crate::uplinks::Uplinks;

/// File of the rows, in the lib-dir.
const HOST_ROWS: &str = "host-rows.json";
/// Where one that cannot be understood is kept.
const HOST_ROWS_ASIDE: &str = "host-rows.json.corrupt";
/// The version of the file; what has another is not understood.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    version: u32,
    node: String,
    /// What is never denied in these rows, as the options said it.
    failsafe: [String; 2],
    /// The devices that they are asked at.
    uplinks: Vec<String>,
    /// What the numbers in them stand for.
    persisted: Persisted,
    /// The rows, by the names of their maps.
    maps: BTreeMap<String, MapRows>,
}

/// What an earlier life has left.
#[derive(Debug)]
pub(crate) enum Kept {
    /// There never was policy for the node, or none is asked for.
    Nothing,
    /// There was, and it is not known what it said, or not what is never denied now.
    Lost,
    /// This was in force last.
    Rows {
        rows: Box<HostRows>,
        uplinks: Vec<String>,
    },
}

impl Kept {
    /// Reads what is on disk. Where the node has no firewall it is forgotten: what
    /// was in force then is not what one that has it anew begins with.
    pub(crate) fn read(config: &Config) -> Self {
        let lib = &config.paths.lib;
        if !config.firewall.enabled {
            if let Err(error) = forget(lib) {
                let error = chain(&error);
                tracing::warn!(error, "the node's rows of last time cannot be forgotten");
            }
            return Self::Nothing;
        }
        let file = match load(lib) {
            Ok(Some(file)) => file,
            Ok(None) => return Self::Nothing,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "what was in force on the node itself is lost"
                );
                return Self::Lost;
            }
        };
        if file.node != config.node_name {
            tracing::warn!(
                found = file.node,
                "the rows of another node are in the lib-dir, and not used"
            );
            return Self::Nothing;
        }
        if file.failsafe != failsafe(config) {
            tracing::warn!("what is never denied to the node has changed since it was held last");
            return Self::Lost;
        }
        let uplinks = file.uplinks.clone();
        match decode(file) {
            Ok(rows) => Self::Rows {
                rows: Box::new(rows),
                uplinks,
            },
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    file = HOST_ROWS,
                    "what was in force on the node itself is lost"
                );
                Self::Lost
            }
        }
    }

    /// The devices at which the node was held last.
    pub(crate) fn uplinks(&self) -> &[String] {
        match self {
            Self::Rows { uplinks, .. } => uplinks,
            Self::Nothing | Self::Lost => &[],
        }
    }

    /// Puts it in force where the kernel holds nothing yet. Numbers go to the disk
    /// first, as ever; then nothing of theirs is different from rows that were pinned.
    ///
    /// Of what is lost nothing is let through but what no policy closes. If it
    /// cannot be put in force, that is told, and the node is as one without.
    pub(crate) fn put_in_force(
        &self,
        (config, host_id): (&Config, u16),
        facts: &Uplinks,
        store: &Store,
        maps: &Maps,
    ) {
        let own = setup::control_config(config, facts.mtu);
        let mut rows = match self {
            Self::Nothing => return,
            Self::Lost => HostRows::lockdown(&own, persisted(store)),
            Self::Rows { rows, .. } => (**rows).clone(),
        };
        rows.endpoint.id = host_id;
        let done = holds_nothing(maps).and_then(|nothing| {
            if nothing {
                let desired = rows.desired(&own, &facts.addresses);
                write(&rows, &desired, store, maps)?;
            }
            Ok(nothing)
        });
        match done {
            Ok(false) => {}
            Ok(true) if matches!(self, Self::Lost) => tracing::error!(
                set = rows.endpoint.policy_set,
                "the node lets through what no policy closes, until its policy is known"
            ),
            Ok(true) => tracing::info!(
                set = rows.endpoint.policy_set,
                addresses = rows.ipcache.len(),
                "the node is held to the policy that was in force last"
            ),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the node is not held to policy until its policy is known"
            ),
        }
    }
}

/// What an earlier agent has numbered, where that is still known.
fn persisted(store: &Store) -> Persisted {
    let known = crate::journal::Journal::open(store);
    known.map_or_else(|_| Persisted::default(), |(_, known)| known)
}

fn holds_nothing(maps: &Maps) -> anyhow::Result<bool> {
    let count = || Ok::<_, MapError>(maps.endpoint.count()? + maps.policy_set.count()?);
    Ok(count().context("reading what the kernel holds")? == 0)
}

fn write(rows: &HostRows, desired: &Desired, store: &Store, maps: &Maps) -> anyhow::Result<()> {
    if let Err(error) = store
        .write(CONTROL, &rows.persisted)
        .and_then(|_| store.remove(CHANGES))
    {
        // The next agent gives no number again that it finds in the kernel.
        tracing::warn!(error = chain(&error), "the node's numbers are not on disk");
    }
    let mut reconciler = setup::reconciler(maps.clone());
    let report = reconciler.without_services(Pass::Everything, monotonic_ms(), desired);
    let mut failing = report.tables.iter().flat_map(|(table, report)| {
        let rows = report.failing.iter();
        rows.map(move |(row, error)| format!("{table} {row}: {error}"))
    });
    match failing.next() {
        // Who is unknown for want of a row is denied, not allowed.
        Some(first) if reconciler.endpoint_enforced(HOST_DEVICE, &rows.endpoint) => {
            tracing::warn!(first, "the kernel does not take all of the node's rows");
            Ok(())
        }
        Some(first) => Err(anyhow!("the kernel does not take the node's rows: {first}")),
        None => Ok(()),
    }
}

fn failsafe(config: &Config) -> [String; 2] {
    ["ingress", "egress"].map(|way| {
        let name = format!("host-firewall-failsafe-{way}");
        config.settings.list(&name).join(",")
    })
}

fn load(lib: &Path) -> anyhow::Result<Option<File>> {
    if !lib.exists() {
        return Ok(None);
    }
    let store = Store::shared(lib)?;
    match store.read(HOST_ROWS)? {
        // Lost by an agent that was ended before it wrote another.
        None if store.has(HOST_ROWS_ASIDE) => Err(anyhow!(
            "{} is all that is left of it",
            store.path(HOST_ROWS_ASIDE).display()
        )),
        file => Ok(file),
    }
}

fn forget(lib: &Path) -> Result<(), StoreError> {
    if !lib.exists() {
        return Ok(());
    }
    let store = Store::shared(lib)?;
    for name in [HOST_ROWS, HOST_ROWS_ASIDE] {
        if store.has(name) {
            store.remove(name)?;
        }
    }
    Ok(())
}

/// What goes with the rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    node: String,
    failsafe: [String; 2],
}

impl Setting {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            node: config.node_name.clone(),
            failsafe: failsafe(config),
        }
    }
}

/// Has rows on disk, also after a power cut.
pub(crate) fn keep(
    lib: &Path,
    setting: &Setting,
    rows: &HostRows,
    uplinks: Vec<String>,
) -> Result<(), StoreError> {
    let store = Store::shared(lib)?;
    let file = File {
        version: VERSION,
        node: setting.node.clone(),
        failsafe: setting.failsafe.clone(),
        uplinks,
        persisted: rows.persisted.clone(),
        maps: encode(rows),
    };
    store.write_through(HOST_ROWS, &file)?;
    // What was lost is not missed any more.
    if store.has(HOST_ROWS_ASIDE) {
        store.remove(HOST_ROWS_ASIDE)?;
    }
    Ok(())
}

const ENDPOINT: &str = "axon_endpoint_v1";
const SET: &str = "axon_policy_set_v1";
const CLASS: &str = "axon_class_v1";
const POLICY: &str = "axon_policy_v1";
const IDENTITY: &str = "axon_identity_v1";
const IPCACHE: &str = "axon_ipcache_v1";
const IPCACHE_CIDR: &str = "axon_ipcache_cidr_v1";

fn encode(rows: &HostRows) -> BTreeMap<String, MapRows> {
    let mut maps = BTreeMap::<String, MapRows>::new();
    let mut of = |name: &str, fill: &dyn Fn(&mut MapRows)| {
        let mut map = MapRows::default();
        fill(&mut map);
        maps.insert(name.to_owned(), map);
    };
    let (endpoint, set) = (&rows.endpoint, &rows.set);
    of(ENDPOINT, &|map| map.push(&HOST_DEVICE, endpoint));
    of(SET, &|map| map.push(&endpoint.policy_set, &set.set));
    of(CLASS, &|map| {
        set.classes.iter().for_each(|(key, row)| map.push(key, row));
    });
    of(POLICY, &|map| {
        set.entries.iter().for_each(|(key, row)| map.push(key, row));
    });
    of(IDENTITY, &|map| {
        rows.identities
            .iter()
            .for_each(|(key, row)| map.push(key, &**row));
    });
    of(IPCACHE, &|map| {
        rows.ipcache
            .iter()
            .for_each(|(key, row)| map.push(key, &**row));
    });
    of(IPCACHE_CIDR, &|map| {
        rows.ipcache_cidrs
            .iter()
            .for_each(|(key, row)| map.push(key, &**row));
    });
    maps
}

fn decode(file: File) -> anyhow::Result<HostRows> {
    if file.version != VERSION {
        let found = file.version;
        return Err(anyhow!("version {found} is not {VERSION}"));
    }
    let maps = &file.maps;
    let one = |of: &'static str| move || anyhow!("not one row of {of}");
    let endpoints: Vec<(u32, EndpointRow)> = rows_of(maps, ENDPOINT)?;
    let [(HOST_DEVICE, endpoint)] = endpoints.as_slice() else {
        return Err(one(ENDPOINT)());
    };
    let sets: Vec<(u32, PolicySetRow)> = rows_of(maps, SET)?;
    let [(number, set)] = sets.as_slice() else {
        return Err(one(SET)());
    };
    let classes: Vec<(ClassKey, ClassRow)> = rows_of(maps, CLASS)?;
    let entries: Vec<(PolicyKey, PolicyEntry)> = rows_of(maps, POLICY)?;
    let others = classes.iter().map(|(key, _)| key.set);
    let mut others = others.chain(entries.iter().map(|(key, _)| key.set));
    let is_host = endpoint.ifindex == HOST_DEVICE && endpoint.identity == Identity::HOST;
    if !is_host || endpoint.policy_set != *number || others.any(|set| set != *number) {
        return Err(anyhow!("the rows do not fit together"));
    }
    let desired = Desired::default();
    desired
        .identities
        .replace(typed::<Identity, IdentityRow>(maps, IDENTITY)?);
    desired
        .ipcache
        .replace(typed::<IpKey, IpcacheRow>(maps, IPCACHE)?);
    desired
        .ipcache_cidrs
        .replace(typed::<LpmKey, IpcacheRow>(maps, IPCACHE_CIDR)?);
    let rows = PolicyRows {
        set: *set,
        classes: classes.into_iter().collect(),
        entries: entries.into_iter().collect(),
    };
    Ok(HostRows {
        persisted: file.persisted,
        endpoint: *endpoint,
        set: Arc::new(rows),
        identities: desired.identities.snapshot(),
        ipcache: desired.ipcache.snapshot(),
        ipcache_cidrs: desired.ipcache_cidrs.snapshot(),
    })
}

fn typed<K: zerocopy::FromBytes, V: zerocopy::FromBytes>(
    maps: &BTreeMap<String, MapRows>,
    map: &'static str,
) -> Result<Vec<(K, V)>, RowError> {
    rows_of(maps, map)
}

#[cfg(test)]
mod tests {
    use axon_control::{Config as Options, HostRows, Persisted};

    use super::{File, HOST_ROWS, HOST_ROWS_ASIDE, Setting, decode, forget, keep, load};

    fn setting() -> Setting {
        Setting {
            node: "a".into(),
            failsafe: ["tcp/22".into(), String::new()],
        }
    }

    fn rows() -> HostRows {
        let options = Options {
            host_firewall: true,
            host_id: 7,
            ..Options::default()
        };
        HostRows::lockdown(&options, Persisted::default())
    }

    #[test]
    fn what_is_kept_is_known_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(load(dir.path()).expect("none").is_none());
        let rows = rows();
        keep(dir.path(), &setting(), &rows, vec!["eth0".into()]).expect("kept");
        let file = load(dir.path()).expect("read").expect("a file");
        assert_eq!(
            (file.node.as_str(), &file.failsafe),
            ("a", &setting().failsafe)
        );
        assert_eq!(file.uplinks, ["eth0"]);
        let known = decode(file).expect("rows");
        assert_eq!(known.endpoint, rows.endpoint);
        assert_eq!(known.set, rows.set);
        assert_eq!(known.persisted, rows.persisted);
        forget(dir.path()).expect("forgotten");
        assert!(load(dir.path()).expect("none").is_none());
        forget(&dir.path().join("absent")).expect("nothing to forget");
    }

    #[test]
    fn what_is_lost_is_not_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join(HOST_ROWS);
        for text in ["{", "{}", "{\"version\": 1}"] {
            std::fs::write(&file, text).expect("written");
            load(dir.path()).map(drop).expect_err(text);
            // Not by the next agent either.
            load(dir.path()).map(drop).expect_err("still lost");
            assert!(dir.path().join(HOST_ROWS_ASIDE).exists(), "{text}");
        }
        keep(dir.path(), &setting(), &rows(), Vec::new()).expect("kept");
        assert!(load(dir.path()).expect("known").is_some());
        assert!(!dir.path().join(HOST_ROWS_ASIDE).exists());
    }

    #[test]
    fn rows_that_do_not_fit_together_are_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        keep(dir.path(), &setting(), &rows(), Vec::new()).expect("kept");
        let spoil = |change: fn(&mut File)| {
            let mut file = load(dir.path()).expect("read").expect("a file");
            change(&mut file);
            decode(file).map(drop).map_err(|error| error.to_string())
        };
        spoil(|_| {}).expect("as it is");
        for (change, word) in [
            ((|file| file.version = 2) as fn(&mut File), "version 2"),
            (
                |file| drop(file.maps.remove("axon_class_v1")),
                "axon_class_v1",
            ),
            (
                |file| {
                    file.maps
                        .entry("axon_endpoint_v1".into())
                        .or_default()
                        .rows
                        .clear();
                },
                "not one row",
            ),
            (
                |file| {
                    let sets = file.maps.entry("axon_policy_set_v1".into()).or_default();
                    for (key, _) in &mut sets.rows {
                        *key = "ffffffff".into();
                    }
                },
                "fit together",
            ),
            (
                |file| {
                    let rows = file.maps.entry("axon_ipcache_v1".into()).or_default();
                    rows.rows.push(("00".into(), "00".into()));
                },
                "axon_ipcache_v1",
            ),
        ] {
            let error = spoil(change).expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }
}
