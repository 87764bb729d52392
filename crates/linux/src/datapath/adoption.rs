//! What an agent finds, and what becomes of it.

use super::Owner;

/// What was found pinned and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Adoption {
    /// The owner before this one, if any.
    pub previous: Option<Owner>,
    /// Maps kept as they were.
    pub adopted: Vec<&'static str>,
    /// Maps that were not there.
    pub created: Vec<&'static str>,
    /// Maps that were there with another layout or size.
    pub recreated: Vec<RecreatedMap>,
    /// Pins of ours that no program uses any more, now removed: of earlier
    /// layouts, and of the later ones of a newer version. What the latter held
    /// is lost unless it is made anew from desired rows.
    pub dropped: Vec<String>,
    /// What else is in the root and not ours; it is left alone.
    pub foreign: Vec<String>,
    /// Stubs found on devices and kept.
    pub links: usize,
    /// Pins of links removed because their device is gone.
    pub stale_links: usize,
    /// Whether the programs were in force already, and are not loaded anew.
    pub resumed: bool,
    /// The generation of programs now in force.
    pub generation: u32,
    /// What the kernel calls those programs by their instructions (the tag of
    /// `from_endpoint`).
    pub programs: String,
}

/// What had been taken away and was put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Repair {
    /// Whether a bpffs was mounted at the root.
    pub mounted: bool,
    /// Pins of maps and links.
    pub pins: usize,
    /// Stubs on devices.
    pub stubs: usize,
    /// Programs of sockets at the node's cgroup.
    pub sockets: usize,
}

impl Repair {
    /// Whether nothing was missing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A map that did not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecreatedMap {
    /// The map.
    pub map: &'static str,
    /// What differed (`type`, `key size`, `value size`, `flags`, `max
    /// entries`, `layout version`).
    pub field: &'static str,
    /// What was pinned.
    pub found: u32,
    /// What is wanted.
    pub expected: u32,
    /// Entries carried over.
    pub carried: usize,
    /// Entries that found no room, or no place in the new layout.
    pub lost: usize,
}
