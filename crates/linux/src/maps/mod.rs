//! Typed maps.

mod entries;
mod set;
mod typed;

pub(crate) use entries::Entries;
#[cfg(test)]
pub(crate) use entries::fake;
pub(crate) use set::layout_problem;
pub use set::{MapUse, Maps};
pub use typed::{Map, PerCpuArray};

/// Why a map did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Retrying helps only after something else leaves; health shows it.
    #[error("{map} is full at {entries} of {entries_max} entries")]
    Full {
        /// The map.
        map: &'static str,
        /// Entries in it.
        entries: u32,
        /// Entries it can hold.
        entries_max: u32,
    },
    /// The map is not pinned where it ought to be.
    #[error("{map} is not pinned at {path}; is the agent's bpffs root another one?")]
    Absent {
        /// The map.
        map: &'static str,
        /// The pin's path.
        path: String,
    },
    /// What is pinned has another layout.
    #[error("{map} is pinned with {field} {found}, expected {expected}")]
    Layout {
        /// The map.
        map: &'static str,
        /// What differs (`type`, `key size`, `value size`, `max entries`).
        field: &'static str,
        /// What is pinned.
        found: u32,
        /// What the programs want.
        expected: u32,
    },
    /// The kernel refused.
    #[error("{map}: {call} failed")]
    Syscall {
        /// The map.
        map: &'static str,
        /// What was asked.
        call: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}
