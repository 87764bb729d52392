//! The pinned maps: adopted where they fit, made anew where not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axon_abi::{MAPS, MapKind, MapSpec};

use super::{Adoption, DatapathConfig, DatapathError, RecreatedMap, path_error};
use crate::maps::{MapError, Maps, layout_problem};
use crate::sys::{NOEXIST, RawMap};

/// What a map is pinned as until the programs that use it are in force. Pins
/// may not have dots in their names.
const FRESH: &str = "-new";

/// A map that takes the place of one that did not fit.
struct Replacement {
    old: RawMap,
    new: Arc<RawMap>,
    fresh: PathBuf,
    place: PathBuf,
    /// Whether keys and values are the same, so that entries can be carried over.
    alike: bool,
}

/// Every map, with where the loader finds it.
pub(super) struct Pins {
    pub(super) raw: BTreeMap<&'static str, Arc<RawMap>>,
    pub(super) paths: BTreeMap<&'static str, PathBuf>,
    replacements: Vec<Replacement>,
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

impl Pins {
    /// Opens or makes every map; `adoption` tells which.
    pub(super) fn open(
        config: &DatapathConfig,
        adoption: &mut Adoption,
    ) -> Result<Self, DatapathError> {
        let mut pins = Self {
            raw: BTreeMap::new(),
            paths: BTreeMap::new(),
            replacements: Vec::new(),
        };
        for spec in MAPS {
            pins.open_one(spec, config, adoption)?;
        }
        Ok(pins)
    }

    fn open_one(
        &mut self,
        spec: &'static MapSpec,
        config: &DatapathConfig,
        adoption: &mut Adoption,
    ) -> Result<(), DatapathError> {
        let failed = |call| {
            move |source| MapError::Syscall {
                map: spec.name,
                call,
                source,
            }
        };
        let place = config.bpf_root.join(spec.name);
        let fresh = config.bpf_root.join(format!("{}{FRESH}", spec.name));
        // An agent that died between making a map and putting it in force leaves this.
        remove_pin(&fresh)?;
        let entries = wanted_entries(spec, config);
        let pinned = match RawMap::open(&place, false) {
            Ok(raw) => Some(raw),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("open")(error).into()),
        };
        let problem = pinned.as_ref().and_then(|raw| problem(spec, entries, raw));
        let (raw, path) = match (pinned, problem) {
            (Some(raw), None) => {
                adoption.adopted.push(spec.name);
                (Arc::new(raw), place)
            }
            (None, _) => {
                let raw = RawMap::create(spec, entries).map_err(failed("create"))?;
                raw.pin(&place).map_err(failed("pin"))?;
                adoption.created.push(spec.name);
                (Arc::new(raw), place)
            }
            (Some(old), Some((field, found, expected))) => {
                let new = Arc::new(RawMap::create(spec, entries).map_err(failed("create"))?);
                new.pin(&fresh).map_err(failed("pin"))?;
                let alike = layout_problem(spec, &old).is_none()
                    && matches!(
                        spec.kind,
                        MapKind::Hash | MapKind::LruHash | MapKind::LpmTrie
                    );
                adoption.recreated.push(RecreatedMap {
                    map: spec.name,
                    field,
                    found,
                    expected,
                    carried: 0,
                });
                let raw = Arc::clone(&new);
                let path = fresh.clone();
                self.replacements.push(Replacement {
                    old,
                    new,
                    fresh,
                    place,
                    alike,
                });
                (raw, path)
            }
        };
        self.raw.insert(spec.name, raw);
        self.paths.insert(spec.name, path);
        Ok(())
    }

    pub(super) fn maps(&self) -> Result<Maps, MapError> {
        Maps::from_raw(&self.raw)
    }

    /// Copies what the new maps can take from those they replace. Called
    /// before the switch, and once more after it, for what came meanwhile.
    /// What is there already stays.
    pub(super) fn carry_over(&self, adoption: &mut Adoption) {
        for replacement in self
            .replacements
            .iter()
            .filter(|replacement| replacement.alike)
        {
            let mut carried = 0;
            // What does not fit a smaller map is let go: it is counted by what was carried.
            let copied = replacement.old.for_each(|key, value| {
                carried += usize::from(replacement.new.update(key, value, NOEXIST).is_ok());
            });
            let row = adoption
                .recreated
                .iter_mut()
                .find(|row| replacement.place.ends_with(row.map));
            if let (Ok(()), Some(row)) = (copied, row) {
                row.carried += carried;
            }
        }
    }

    /// Puts the new maps' pins in the place of the old ones.
    pub(super) fn settle(&mut self) -> Result<(), DatapathError> {
        for replacement in self.replacements.drain(..) {
            let place = &replacement.place;
            fs::rename(&replacement.fresh, place)
                .map_err(path_error("renaming a map to", place))?;
        }
        Ok(())
    }
}

/// What of a pinned map is not as wanted: the field, what it is, what it
/// ought to be.
fn problem(spec: &MapSpec, entries: u32, raw: &RawMap) -> Option<(&'static str, u32, u32)> {
    match layout_problem(spec, raw) {
        Some(MapError::Layout {
            field,
            found,
            expected,
            ..
        }) => Some((field, found, expected)),
        Some(_) => None,
        None => {
            let found = raw.info().max_entries;
            (found != entries).then_some(("max entries", found, entries))
        }
    }
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
