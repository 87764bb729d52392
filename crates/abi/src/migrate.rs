//! How entries of an earlier layout become entries of the present one.
//!
//! A map whose layout changes gets a new name, and a row here if what it holds
//! cannot be made anew from desired rows: connections and translations. Rows of
//! other maps are worth one too, if endpoints shall not be cut off until the
//! reconcilers have written them.

use crate::MapSpec;

/// The way of entries from one layout to the next.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The layout that is left.
    pub from: MapSpec,
    /// Name of the map that takes the entries, one of [`crate::MAPS`].
    pub to: &'static str,
    /// Makes an entry anew.
    pub convert: Convert,
}

/// Writes the key and the value of the present layout from those of the
/// earlier one; `false` if the entry cannot be carried over.
///
/// Each slice has the length that its layout says.
pub type Convert = fn(key: &[u8], value: &[u8], new_key: &mut [u8], new_value: &mut [u8]) -> bool;

/// Every way there is. No layout has changed since the first release.
#[cfg(not(feature = "next-layout"))]
pub const MIGRATIONS: &[Migration] = &[];

#[cfg(feature = "next-layout")]
pub use crate::next::MIGRATIONS;
