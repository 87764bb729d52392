//! Pin directories as other versions, other products and agents that died leave
//! them. Needs root.

use std::os::fd::AsFd;
use std::path::PathBuf;

use axon_abi::{CT4, CtEntry, CtKey4, MAPS, MapKind, MapSpec, Migration};
use zerocopy::{FromBytes, IntoBytes};

use super::{Datapath, DatapathConfig, DatapathError, Owner, RecreatedMap};
use crate::netns;
use crate::sys::RawMap;

/// What IPv4 flows might have looked like once: no more than when they end.
const OLD: MapSpec = MapSpec {
    name: "axon_ct4_v0",
    kind: MapKind::LruHash,
    key_size: 16,
    value_size: 4,
    max_entries: 1024,
    sizable: true,
    on_demand: false,
};

const FROM_OLD: &[Migration] = &[Migration {
    from: OLD,
    to: CT4,
    convert: |key, value, new_key, new_value| {
        let expires_s = u32::read_from_bytes(value).expect("four bytes");
        new_key.copy_from_slice(key);
        let entry = CtEntry {
            expires_s,
            ..CtEntry::default()
        };
        new_value.copy_from_slice(entry.as_bytes());
        // So that there is something that cannot be carried over.
        expires_s != 13
    },
}];

/// A bpffs root in a namespace of its own, gone when dropped.
pub(super) struct Root {
    netns: String,
    dir: tempfile::TempDir,
}

impl Root {
    /// `None`, with a message, where the test cannot run.
    pub(super) fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let netns = format!("axt-up-{name}-{}", std::process::id());
        netns::create(&netns).expect("a namespace");
        let root = Self {
            netns,
            dir: tempfile::tempdir().expect("a directory"),
        };
        crate::mount::ensure_bpffs(&root.path()).expect("a bpffs");
        Some(root)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(super) fn config(&self) -> DatapathConfig {
        let sizable = MAPS.iter().filter(|spec| spec.sizable);
        DatapathConfig {
            bpf_root: self.path(),
            node: "node-1".to_owned(),
            map_sizes: sizable.map(|spec| (spec.name.to_owned(), 1024)).collect(),
            migrations: FROM_OLD,
            ..DatapathConfig::default()
        }
    }

    /// Runs something in the namespace.
    pub(super) fn run<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        netns::within_path(&netns::path(&self.netns), run).expect("netns")
    }

    fn try_open(&self, config: &DatapathConfig) -> Result<Datapath, DatapathError> {
        self.run(|| Datapath::open(config))
    }

    pub(super) fn open(&self) -> Datapath {
        self.try_open(&self.config()).unwrap_or_else(|error| {
            let error: &dyn std::error::Error = &error;
            panic!("{error}: {:?}", error.source())
        })
    }

    /// A map pinned by somebody, with an entry for each of these flows.
    fn foreign_map(&self, name: &str, spec: &MapSpec, flows: &[(u8, u32)]) -> RawMap {
        let map = RawMap::create(spec, 1024).expect("a map");
        map.pin(&self.pin(name)).expect("pinned");
        for (n, expires_s) in flows {
            let value = if spec.value_size == OLD.value_size {
                expires_s.as_bytes().to_vec()
            } else {
                entry(*expires_s).as_bytes().to_vec()
            };
            map.update(flow(*n).as_bytes(), &value, 0).expect("a flow");
        }
        map
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        crate::mount::unmount_tree(&self.path()).expect("unmounted");
        netns::delete(&self.netns).expect("the namespace goes");
    }
}

fn flow(n: u8) -> CtKey4 {
    CtKey4 {
        low: [10, 7, 0, n],
        protocol: 6,
        ..CtKey4::default()
    }
}

fn entry(expires_s: u32) -> CtEntry {
    CtEntry {
        expires_s,
        ..CtEntry::default()
    }
}

fn now() -> &'static MapSpec {
    MAPS.iter().find(|spec| spec.name == CT4).expect("flows")
}

/// The flows that the datapath has: number and end.
fn flows(datapath: &Datapath) -> Vec<(u8, u32)> {
    let mut found: Vec<(u8, u32)> = datapath
        .maps()
        .ct4
        .dump()
        .expect("flows")
        .into_iter()
        .map(|(key, entry)| (key.low[3], entry.expires_s))
        .collect();
    found.sort_unstable();
    found
}

fn migrated(carried: usize, lost: usize) -> RecreatedMap {
    RecreatedMap {
        map: CT4,
        field: "layout version",
        found: 0,
        expected: 1,
        carried,
        lost,
    }
}

#[test]
fn entries_of_an_earlier_layout_are_carried_over_once() {
    let Some(root) = Root::new("migrate") else {
        return;
    };
    root.foreign_map(OLD.name, &OLD, &[(1, 100), (2, 200), (3, 13)]);
    let first = root.open();
    assert_eq!(first.adoption().recreated, [migrated(2, 1)]);
    assert_eq!(flows(&first), [(1, 100), (2, 200)]);
    assert_eq!(first.adoption().dropped, [OLD.name]);
    drop(first);
    let second = root.open();
    assert_eq!(second.adoption().adopted.len(), MAPS.len());
    assert_eq!(flows(&second), [(1, 100), (2, 200)]);
}

#[test]
fn what_an_agent_began_that_died_before_the_switch_does_not_count() {
    let Some(root) = Root::new("before") else {
        return;
    };
    root.foreign_map(OLD.name, &OLD, &[(1, 100)]);
    root.foreign_map(CT4, now(), &[(1, 7), (9, 7)]);
    root.foreign_map(&format!("{CT4}-new"), now(), &[(8, 7)]);
    let datapath = root.open();
    assert_eq!(datapath.adoption().recreated, [migrated(1, 0)]);
    assert_eq!(flows(&datapath), [(1, 100)]);
    assert!(!root.pin(&format!("{CT4}-new")).exists());
}

#[test]
fn what_an_agent_left_that_died_after_the_switch_is_finished() {
    let Some(root) = Root::new("after") else {
        return;
    };
    let first = root.open();
    first
        .maps()
        .ct4
        .insert(&flow(1), &entry(50))
        .expect("a flow");
    drop(first);
    // The programs use the map of this name; what it replaced has not gone yet.
    root.foreign_map(OLD.name, &OLD, &[(1, 100), (2, 200)]);
    let second = root.open();
    assert_eq!(flows(&second), [(1, 50), (2, 200)]);
    assert_eq!(second.adoption().recreated, []);
    assert_eq!(second.adoption().dropped, [OLD.name]);
    drop(second);
    // The same of a map that only changed its size: it was not in its place yet.
    let fresh = root.pin(&format!("{CT4}-new"));
    std::fs::rename(root.pin(CT4), &fresh).expect("renamed");
    root.foreign_map(CT4, now(), &[(1, 100), (3, 300)]);
    let third = root.open();
    assert_eq!(flows(&third), [(1, 50), (2, 200), (3, 300)]);
    assert!(!fresh.exists());
}

#[test]
fn maps_of_a_newer_version_go_and_are_told() {
    let Some(root) = Root::new("newer") else {
        return;
    };
    drop(root.open());
    for name in ["axon_ct4_v9", "axon_unheard_of_v3"] {
        root.foreign_map(name, &OLD, &[(1, 100)]);
    }
    let datapath = root.open();
    let mut dropped = datapath.adoption().dropped.clone();
    dropped.sort();
    assert_eq!(dropped, ["axon_ct4_v9", "axon_unheard_of_v3"]);
    assert!(!root.pin("axon_ct4_v9").exists());
}

#[test]
fn pins_of_others_are_left_alone_and_told() {
    let Some(root) = Root::new("others") else {
        return;
    };
    std::fs::create_dir_all(root.pin("links")).expect("a directory");
    let theirs = ["cilium_ipcache_v2", "links/theirs", "links/7-from_endpoint"];
    for name in theirs {
        root.foreign_map(name, &OLD, &[(1, 100)]);
    }
    std::fs::create_dir(root.pin("tc")).expect("a directory");
    for _ in 0..2 {
        let datapath = root.open();
        let mut foreign = datapath.adoption().foreign.clone();
        foreign.sort();
        let told = [
            "cilium_ipcache_v2",
            "links/7-from_endpoint",
            "links/theirs",
            "tc",
        ];
        assert_eq!(foreign, told);
        assert_eq!(datapath.adoption().stale_links, 0);
    }
    assert!(theirs.iter().all(|name| root.pin(name).exists()));
}

fn told(error: &DatapathError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

#[test]
fn what_is_no_map_in_a_maps_place_is_refused() {
    let Some(root) = Root::new("nomap") else {
        return;
    };
    let first = root.open();
    let generation = first.adoption().generation;
    let program = first.stub(axon_abi::Hook::FromEndpoint).expect("a stub");
    let place = root.pin("axon_policy_v1");
    std::fs::remove_file(&place).expect("removed");
    let program = program.fd().expect("loaded");
    crate::sys::pin(program.as_fd(), &place).expect("pinned");
    drop(first);
    let error = root.try_open(&root.config()).expect_err("refused");
    let text = told(&error);
    assert!(matches!(error, DatapathError::Foreign { .. }), "{text}");
    for part in [
        place.to_str().expect("UTF-8"),
        "bpf-prog",
        "expected a bpf-map",
        "bpf-root",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    std::fs::remove_file(&place).expect("removed");
    std::fs::create_dir(&place).expect("a directory");
    let error = root.try_open(&root.config()).expect_err("refused");
    assert!(told(&error).contains("axon_policy_v1"), "{}", told(&error));
    std::fs::remove_dir(&place).expect("removed");
    let second = root.open();
    assert_eq!(second.adoption().created, ["axon_policy_v1"]);
    assert_ne!(second.adoption().generation, generation);
}

/// Programs stay in force while an agent comes back; they are loaded anew where
/// anything they are made from has changed, or may have.
#[test]
fn programs_in_force_are_taken_up_where_nothing_has_changed() {
    let Some(root) = Root::new("resume") else {
        return;
    };
    let first = root.open();
    let (generation, tag) = (
        first.adoption().generation,
        first.adoption().programs.clone(),
    );
    assert!(!first.adoption().resumed && tag.len() == 16, "{tag:?}");
    drop(first);
    let again = root.open();
    let adoption = again.adoption();
    assert!(adoption.resumed, "{adoption:?}");
    assert_eq!(
        (adoption.generation, &adoption.programs),
        (generation, &tag)
    );
    drop(again);

    let slot = axon_abi::program_slot(generation, axon_abi::Hook::ToNetdev).to_ne_bytes();
    let programs = RawMap::open(&root.pin("axon_programs_v1"), false).expect("a map");
    programs.delete(&slot).expect("taken out");
    let mended = root.open();
    let next = mended.adoption().generation;
    assert!(!mended.adoption().resumed && next != generation);
    drop(mended);

    // An agent died while it was exchanging them.
    let mut record = Owner::read(&root.path()).expect("a record");
    assert_ne!(std::mem::take(&mut record.programs), "");
    record.write(&root.path()).expect("written");
    let mended = root.open();
    assert!(!mended.adoption().resumed && mended.adoption().generation == generation);
    drop(mended);

    let mut config = root.config();
    config.map_sizes.insert("axon_ct4_v1".to_owned(), 2048);
    let resized = root.try_open(&config).expect("opened");
    assert!(!resized.adoption().resumed && resized.adoption().generation == next);
    drop(resized);
    config.reload = true;
    let wanted = root.try_open(&config).expect("opened");
    assert!(!wanted.adoption().resumed && wanted.adoption().generation == generation);
}

#[test]
fn a_map_with_other_flags_or_sizes_is_made_anew() {
    let Some(root) = Root::new("flags") else {
        return;
    };
    let other = |name, kind, value_size| MapSpec {
        name,
        kind,
        value_size,
        ..*now()
    };
    root.foreign_map(CT4, &other(CT4, MapKind::Hash, 80), &[(1, 100)]);
    let datapath = root.open();
    let [row] = datapath.adoption().recreated.as_slice() else {
        panic!("{:?}", datapath.adoption())
    };
    assert_eq!((row.map, row.field, row.carried), (CT4, "type", 0));
    assert_eq!(flows(&datapath), []);
}

#[test]
fn a_directory_of_another_file_system_is_not_hidden_by_a_mount() {
    let Some(root) = Root::new("nobpffs") else {
        return;
    };
    let dir = root.dir.path().join("etc");
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("hosts"), "precious").expect("a file");
    let config = DatapathConfig {
        bpf_root: dir.clone(),
        ..root.config()
    };
    let text = told(&root.try_open(&config).expect_err("refused"));
    for part in [dir.to_str().expect("UTF-8"), "hosts", "expected a bpffs"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(
        std::fs::read(dir.join("hosts")).expect("still there"),
        b"precious"
    );
    let config = DatapathConfig {
        bpf_root: dir.join("hosts"),
        ..root.config()
    };
    let text = told(&root.try_open(&config).expect_err("refused"));
    assert!(text.contains("etc/hosts"), "{text}");
}

#[test]
fn a_bpffs_that_vanishes_is_mounted_and_filled_again() {
    let Some(root) = Root::new("vanish") else {
        return;
    };
    let repair = |datapath: &mut Datapath| root.run(|| datapath.repair(&[], &[]));
    let mut datapath = root.open();
    datapath
        .maps()
        .ct4
        .insert(&flow(1), &entry(50))
        .expect("a flow");
    assert!(repair(&mut datapath).expect("whole").is_nothing());
    std::fs::remove_file(root.pin(CT4)).expect("removed");
    assert_eq!(repair(&mut datapath).expect("repaired").pins, 1);
    crate::mount::unmount_tree(&root.path()).expect("unmounted");
    let done = repair(&mut datapath).expect("repaired");
    assert_eq!((done.mounted, done.pins), (true, MAPS.len()));
    assert!(repair(&mut datapath).expect("whole").is_nothing());
    let error = root.try_open(&root.config()).expect_err("still held");
    assert!(matches!(error, DatapathError::Held { .. }), "{error}");
    drop(datapath);
    let second = root.open();
    assert_eq!(second.adoption().adopted.len(), MAPS.len());
    assert_eq!(flows(&second), [(1, 50)]);
    drop(second);
    // Files in its place are not hidden, and the report names one.
    let mut third = root.open();
    crate::mount::unmount_tree(&root.path()).expect("unmounted");
    std::fs::write(root.pin("precious"), "").expect("a file");
    let text = told(&repair(&mut third).expect_err("refused"));
    assert!(text.contains("precious"), "{text}");
}
