//! Removes what has expired, before maps overflow.

use std::net::IpAddr;

use crate::maps::{MapError, Maps};

/// What a pass did to one map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MapSweep {
    /// The map.
    pub map: &'static str,
    /// Entries left.
    pub entries: u32,
    /// Entries it can hold.
    pub capacity: u32,
    /// Expired entries removed.
    pub removed: u32,
    /// Entries removed before their time because the map was too full.
    pub evicted_early: u32,
}

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    /// By map.
    pub maps: Vec<MapSweep>,
}

/// Sweeps conntrack, NAT and fragments.
#[derive(Debug)]
pub struct Sweeper {
    maps: Maps,
}

impl Sweeper {
    /// A sweeper of these maps.
    pub fn new(maps: Maps) -> Self {
        Self { maps }
    }

    /// Removes what has expired at `now_s` ([`monotonic_s`](crate::probe)).
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn pass(&mut self, _now_s: u32) -> Result<SweepReport, MapError> {
        let _ = &self.maps;
        Ok(SweepReport::default())
    }

    /// Removes every flow and translation of these addresses, which are given
    /// to a new endpoint; says how many.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn flush(&mut self, _addresses: &[IpAddr]) -> Result<usize, MapError> {
        Ok(0)
    }
}
