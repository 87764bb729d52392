//! The pinned maps: adopted where they fit, made anew where not, with the
//! entries of what they replace.
//!
//! ```text
//!  pinned, fits ──────────────────────────────> adopted
//!  pinned, another size ───┐                  copy      switch    copy again   pins
//!  pinned, earlier layout ─┴─> made anew beside ──> … ─────────> … ─────────> settled
//! ```
//!
//! An agent may die at any point of this. What tells the next one where it was
//! is which maps the programs in force use: those are the ones that count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axon_abi::{Convert, GENERATIONS, HOOKS, MAPS, MapKind, MapSpec, Migration};

use super::programs::{GENERATION, PROGRAMS};
use super::sockets::SOCKET_LINKS;
use super::stubs::LINKS;
use super::{Adoption, DatapathConfig, DatapathError, RecreatedMap, owner, path_error};
use crate::maps::{MapError, Maps, layout_problem};
use crate::sys::{NOEXIST, RawMap, maps_of_program};

/// What a map is pinned as until the programs that use it are in force. Pins
/// may not have dots in their names.
const FRESH: &str = "-new";

/// Where entries of a map come from.
struct Origin {
    old: RawMap,
    /// How entries change; `None`: they stay as they are.
    convert: Option<Convert>,
    new: Arc<RawMap>,
    /// The map, for the report.
    map: &'static str,
}

/// Every map, with where the loader finds it.
pub(super) struct Pins {
    root: PathBuf,
    pub(super) raw: BTreeMap<&'static str, Arc<RawMap>>,
    pub(super) paths: BTreeMap<&'static str, PathBuf>,
    origins: Vec<Origin>,
}

/// How many entries a map shall have.
fn wanted_entries(spec: &MapSpec, config: &DatapathConfig) -> u32 {
    let entries = config
        .map_sizes
        .get(spec.name)
        .copied()
        .unwrap_or(spec.max_entries)
        .max(1);
    if spec.kind == MapKind::RingBuf {
        // The kernel wants a power of two of whole pages.
        entries.clamp(4096, 1 << 30).next_power_of_two()
    } else {
        entries
    }
}

/// Refuses sizes for maps that are not there or have none.
pub(super) fn check_sizes(config: &DatapathConfig) -> Result<(), DatapathError> {
    for name in config.map_sizes.keys() {
        let sizable = |spec: &&MapSpec| spec.name == name && spec.sizable;
        if !MAPS.iter().any(|spec| sizable(&spec)) {
            return Err(DatapathError::NotSizable { map: name.clone() });
        }
    }
    Ok(())
}

fn failed(
    map: &'static str,
    call: &'static str,
) -> impl FnOnce(io::Error) -> DatapathError + use<> {
    move |source| MapError::Syscall { map, call, source }.into()
}

/// What is pinned at a path, if anything; what is no map is refused.
fn open(path: &Path) -> Result<Option<RawMap>, DatapathError> {
    match RawMap::open(path, false) {
        Ok(raw) => Ok(Some(raw)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DatapathError::Foreign {
            path: path.display().to_string(),
            source,
        }),
    }
}

/// Ids of the maps that the programs in force use; none where there are no
/// programs, or where that cannot be told.
fn in_use(root: &Path) -> BTreeSet<u32> {
    let look = || -> io::Result<BTreeSet<u32>> {
        let programs = RawMap::open(&root.join(PROGRAMS), false)?;
        let generation = RawMap::open(&root.join(GENERATION), false)?;
        let mut bytes = [0; 4];
        generation.lookup(&[0; 4], &mut bytes)?;
        let first = u32::from_ne_bytes(bytes) % GENERATIONS * HOOKS;
        let mut ids = BTreeSet::new();
        for slot in first..first + HOOKS {
            if programs.lookup(&slot.to_ne_bytes(), &mut bytes)? {
                ids.extend(maps_of_program(u32::from_ne_bytes(bytes))?);
            }
        }
        Ok(ids)
    };
    look().unwrap_or_default()
}

impl Pins {
    /// Opens or makes every map; `adoption` tells which.
    pub(super) fn open(
        config: &DatapathConfig,
        adoption: &mut Adoption,
    ) -> Result<Self, DatapathError> {
        let mut pins = Self {
            root: config.bpf_root.clone(),
            raw: BTreeMap::new(),
            paths: BTreeMap::new(),
            origins: Vec::new(),
        };
        let used = in_use(&pins.root);
        for spec in MAPS {
            pins.open_one(spec, config, &used, adoption)?;
        }
        Ok(pins)
    }

    fn open_one(
        &mut self,
        spec: &'static MapSpec,
        config: &DatapathConfig,
        used: &BTreeSet<u32>,
        adoption: &mut Adoption,
    ) -> Result<(), DatapathError> {
        let place = self.root.join(spec.name);
        let fresh = self.root.join(format!("{}{FRESH}", spec.name));
        let mut pinned = open(&place)?;
        let mut origins: Vec<(RawMap, Option<Convert>)> = Vec::new();
        match open(&fresh)? {
            // An agent died after the switch: what it replaced is still in place.
            Some(half) if used.contains(&half.info().id) => {
                fs::rename(&fresh, &place).map_err(path_error("renaming a map to", &place))?;
                let replaced = pinned.replace(half);
                origins.extend(
                    replaced
                        .filter(|old| alike(spec, old))
                        .map(|old| (old, None)),
                );
            }
            // An agent died before the switch.
            Some(_) => remove_pin(&fresh)?,
            None => {}
        }
        let earlier = self.earlier(spec, config.migrations)?;
        // What programs in force write counts, and not what an agent that died has begun.
        let live = |raw: &RawMap| used.contains(&raw.info().id);
        let stale = earlier.as_ref().is_some_and(|(old, _)| live(old))
            || (earlier.is_some() && !pinned.as_ref().is_some_and(live));
        let entries = wanted_entries(spec, config);
        let problem = match (&pinned, &earlier) {
            (_, Some((_, migration))) if stale => Some(newer(spec, migration)),
            (Some(raw), _) => problem(spec, entries, raw),
            (None, _) => None,
        };
        origins.extend(earlier.map(|(old, migration)| (old, Some(migration.convert))));
        let (raw, path) = match (pinned, problem) {
            (Some(raw), None) => {
                adoption.adopted.push(spec.name);
                (Arc::new(raw), place)
            }
            (None, None) => {
                let raw = RawMap::create(spec, entries).map_err(failed(spec.name, "create"))?;
                raw.pin(&place).map_err(failed(spec.name, "pin"))?;
                adoption.created.push(spec.name);
                (Arc::new(raw), place)
            }
            (old, Some(problem)) => {
                let new = RawMap::create(spec, entries).map_err(failed(spec.name, "create"))?;
                new.pin(&fresh).map_err(failed(spec.name, "pin"))?;
                adoption.recreated.push(RecreatedMap {
                    map: spec.name,
                    ..problem
                });
                let kept = old.filter(|old| !stale && alike(spec, old));
                origins.extend(kept.map(|old| (old, None)));
                (Arc::new(new), fresh)
            }
        };
        let origins = origins.into_iter().map(|(old, convert)| Origin {
            old,
            convert,
            new: Arc::clone(&raw),
            map: spec.name,
        });
        self.origins.extend(origins);
        self.raw.insert(spec.name, raw);
        self.paths.insert(spec.name, path);
        Ok(())
    }

    /// A pinned map of an earlier layout, the latest of them.
    fn earlier<'a>(
        &self,
        spec: &MapSpec,
        migrations: &'a [Migration],
    ) -> Result<Option<(RawMap, &'a Migration)>, DatapathError> {
        for migration in migrations.iter().filter(|m| m.to == spec.name) {
            let found = open(&self.root.join(migration.from.name))?;
            let fits = found.filter(|old| layout_problem(&migration.from, old).is_none());
            if let Some(old) = fits {
                return Ok(Some((old, migration)));
            }
        }
        Ok(None)
    }

    pub(super) fn maps(&self) -> Result<Maps, MapError> {
        Maps::from_raw(&self.raw)
    }

    /// Copies what maps can take from those that they replace. Called before
    /// the switch, and once more after it, for what came meanwhile. What is
    /// there already stays.
    pub(super) fn carry_over(&self, adoption: &mut Adoption) {
        for origin in &self.origins {
            let mut carried = 0;
            let mut lost = 0;
            let copied = origin
                .old
                .for_each(|key, value| match origin.copy(key, value) {
                    Ok(()) => carried += 1,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(_) => lost += 1,
                });
            let row = adoption
                .recreated
                .iter_mut()
                .find(|row| row.map == origin.map);
            if let (Ok(()), Some(row)) = (copied, row) {
                row.carried += carried;
                // What does not fit before the switch does not fit after it.
                row.lost = lost;
            }
        }
    }

    /// Puts the new maps' pins in the place of the old ones, and removes those
    /// of ours that no program uses any more: of earlier and of later layouts.
    pub(super) fn settle(&mut self, adoption: &mut Adoption) -> Result<(), DatapathError> {
        for (name, path) in &mut self.paths {
            let place = self.root.join(name);
            if *path != place {
                fs::rename(&*path, &place).map_err(path_error("renaming a map to", &place))?;
                *path = place;
            }
        }
        self.origins.clear();
        let root = self.root.as_path();
        for entry in fs::read_dir(root).map_err(path_error("reading", root))? {
            let entry = entry.map_err(path_error("reading", root))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == LINKS
                || name == SOCKET_LINKS
                || name.contains('.')
                || self.paths.contains_key(name.as_str())
            {
                continue;
            }
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !name.starts_with("axon_") || is_dir {
                adoption.foreign.push(name);
            } else if name != owner::RECORD.name {
                remove_pin(&entry.path())?;
                adoption.dropped.push(name);
            }
        }
        Ok(())
    }
}

impl Origin {
    fn copy(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let Some(convert) = self.convert else {
            return self.new.update(key, value, NOEXIST);
        };
        let mut new_key = vec![0; self.new.info().key_size as usize];
        let mut new_value = vec![0; self.new.value_len()];
        if !convert(key, value, &mut new_key, &mut new_value) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.new.update(&new_key, &new_value, NOEXIST)
    }
}

/// Whether entries of a map fit another of that layout, whatever its size.
fn alike(spec: &MapSpec, old: &RawMap) -> bool {
    let info = old.info();
    matches!(
        spec.kind,
        MapKind::Hash | MapKind::LruHash | MapKind::LpmTrie
    ) && (info.key_size, info.value_size) == (spec.key_size, spec.value_size)
        && info.kind == spec.kind as u32
}

/// That a map follows one of an earlier layout.
fn newer(spec: &MapSpec, migration: &Migration) -> RecreatedMap {
    let version = |name: &str| {
        let digits = name.rsplit_once("_v").map(|(_, digits)| digits.parse());
        digits.and_then(Result::ok).unwrap_or(0)
    };
    RecreatedMap {
        field: "layout version",
        found: version(migration.from.name),
        expected: version(spec.name),
        ..RecreatedMap::default()
    }
}

/// What of a pinned map is not as wanted.
fn problem(spec: &MapSpec, entries: u32, raw: &RawMap) -> Option<RecreatedMap> {
    let (field, found, expected) = match layout_problem(spec, raw) {
        Some(MapError::Layout {
            field,
            found,
            expected,
            ..
        }) => (field, found, expected),
        Some(_) => return None,
        None => ("max entries", raw.info().max_entries, entries),
    };
    (found != expected).then(|| RecreatedMap {
        field,
        found,
        expected,
        ..RecreatedMap::default()
    })
}

/// Removes a pin; absent is no error.
pub(super) fn remove_pin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(path_error("removing the pin", path)(error))
        }
        _ => Ok(()),
    }
}
