//! What the programs tell: events and counters.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use axon_abi::{Direction, EventRecord, METRICS_ENTRIES};
use aya::maps::{MapData, RingBuf};
use zerocopy::FromBytes;

use crate::maps::{MapError, Maps};

const MAP: &str = "axon_events_v1";

/// Reads the ring buffer. The descriptor is announced as readable by the first
/// event after all were read, and again by every 64 KiB that are left unread:
/// who lingers a little before reading is woken once for many.
///
/// There must be one reader at a time. Events that a former reader left are
/// read first.
pub struct EventReader {
    ring: RingBuf<MapData>,
}

impl fmt::Debug for EventReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReader")
            .field("fd", &self.as_raw_fd())
            .finish()
    }
}

impl EventReader {
    /// The reader of the ring buffer pinned under a bpffs root.
    ///
    /// # Errors
    /// [`MapError::Absent`], [`MapError::Syscall`].
    pub fn open(bpf_root: &Path) -> Result<Self, MapError> {
        let path = bpf_root.join(MAP);
        let failed = |call| {
            move |error| MapError::Syscall {
                map: MAP,
                call,
                source: std::io::Error::other(error),
            }
        };
        if !path.exists() {
            return Err(MapError::Absent {
                map: MAP,
                path: path.display().to_string(),
            });
        }
        let data = MapData::from_pin(&path).map_err(failed("open"))?;
        let ring = RingBuf::try_from(aya::maps::Map::RingBuf(data)).map_err(failed("mmap"))?;
        Ok(Self { ring })
    }

    /// Hands over the events that wait, at most `max`; says how many.
    pub fn next_batch(&mut self, max: usize, mut each: impl FnMut(&EventRecord)) -> usize {
        let mut events = 0;
        while events < max
            && let Some(item) = self.ring.next()
        {
            // A record of another length is none of ours; it is passed over.
            if let Ok(record) = EventRecord::read_from_bytes(&item) {
                each(&record);
            }
            events += 1;
        }
        events
    }
}

impl AsRawFd for EventReader {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// Counts events that found the ring buffer full.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    seen: u64,
}

impl Lost {
    /// How many were lost since the last call; the first call counts from the
    /// making of the map, so that the gap between two agents is told.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn delta(&mut self, maps: &Maps) -> Result<u64, MapError> {
        let now: u64 = maps.lost.get(0)?.iter().sum();
        let delta = now.saturating_sub(self.seen);
        self.seen = now;
        Ok(delta)
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
pub fn read_metrics(maps: &Maps) -> Result<Vec<MetricsCounter>, MapError> {
    let mut counters = Vec::new();
    for index in 0..METRICS_ENTRIES.min(maps.metrics.capacity()) {
        let (mut packets, mut bytes) = (0_u64, 0_u64);
        for row in maps.metrics.get(index)? {
            packets += row.packets;
            bytes += row.bytes;
        }
        if packets > 0 {
            counters.push(MetricsCounter {
                reason: u8::try_from(index >> 2).unwrap_or(u8::MAX),
                direction: Direction::from_u8((index & 3) as u8),
                packets,
                bytes,
            });
        }
    }
    Ok(counters)
}
