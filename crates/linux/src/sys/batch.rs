//! Many entries of a map at once, where the kernel has batches.

use std::io;

use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{RawMap, address, address_mut, number};
use std::os::fd::AsFd;

const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;

/// Entries asked for at once; doubled where a bucket of the kernel's table
/// does not fit.
const BATCH_ENTRIES: usize = 4096;

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Whether the kernel reads maps in batches: it looks for the map, which is
/// none.
pub(crate) fn has_map_batches() -> bool {
    let attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: 0,
        values: 0,
        count: 0,
        fd: u32::MAX,
        element_flags: 0,
        flags: 0,
    };
    let answer = super::bpf(MAP_LOOKUP_BATCH, &attr);
    answer.is_err_and(|error| error.raw_os_error() == Some(libc::EBADF))
}

/// Buffers of a batch read, and where it stands.
struct Batch {
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Entries that the last read filled.
    filled: usize,
    capacity: usize,
    cursor: Vec<u8>,
    started: bool,
}

impl Batch {
    fn new(map: &RawMap, capacity: usize) -> Self {
        let key_len = map.info().key_size as usize;
        Self {
            keys: vec![0; capacity * key_len],
            values: vec![0; capacity * map.value_len()],
            filled: 0,
            capacity,
            // Hashes tell a bucket's number, other maps a key.
            cursor: vec![0; key_len.max(8)],
            started: false,
        }
    }

    /// Larger buffers, for a bucket that does not fit, at the same place.
    fn grow(self, map: &RawMap) -> Self {
        let Self {
            capacity,
            cursor,
            started,
            ..
        } = self;
        Self {
            cursor,
            started,
            ..Self::new(map, capacity * 2)
        }
    }

    /// Reads the next batch; `Ok(false)` when it was the last one.
    fn read(&mut self, map: &RawMap) -> io::Result<bool> {
        let mut next = vec![0; self.cursor.len()];
        let mut attr = BatchAttr {
            in_batch: if self.started {
                address(&self.cursor)
            } else {
                0
            },
            out_batch: address_mut(&mut next),
            keys: address_mut(&mut self.keys),
            values: address_mut(&mut self.values),
            count: u32::try_from(self.capacity).unwrap_or(u32::MAX),
            fd: number(map.as_fd()),
            element_flags: 0,
            flags: 0,
        };
        let bytes = attr.as_mut_bytes();
        // SAFETY: the buffers have room for `capacity` entries of this map, by `Batch::new`; the
        // kernel writes the number of entries back into the attribute, which is ours alone.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                MAP_LOOKUP_BATCH,
                bytes.as_mut_ptr(),
                bytes.len(),
            )
        };
        let error = io::Error::last_os_error();
        let last = result < 0 && error.raw_os_error() == Some(libc::ENOENT);
        if result < 0 && !last {
            return Err(error);
        }
        self.filled = (attr.count as usize).min(self.capacity);
        self.cursor = next;
        self.started = true;
        Ok(!last)
    }
}

impl RawMap {
    /// Hands over every entry. Entries that come and go meanwhile may or may
    /// not be in it.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let entries = self.info().max_entries as usize;
        let mut batch = Batch::new(self, entries.clamp(1, BATCH_ENTRIES));
        loop {
            let more = match batch.read(self) {
                Ok(more) => more,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    batch = batch.grow(self);
                    continue;
                }
                // No batches for this kind of map on this kernel.
                Err(_) if !batch.started => return self.walk(each),
                Err(error) => return Err(error),
            };
            let keys = batch.keys.chunks_exact(self.info().key_size as usize);
            let values = batch.values.chunks_exact(self.value_len());
            for (key, value) in keys.zip(values).take(batch.filled) {
                each(key, value);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Writes entries one after the other; says how many the kernel has taken, and
    /// why not more.
    pub(crate) fn update_all(&self, keys: &[u8], values: &[u8]) -> (usize, io::Result<()>) {
        let key_len = self.info().key_size as usize;
        let count = keys.len() / key_len.max(1);
        if values.len() != count * self.value_len() {
            return (0, Self::expect(values.len(), count * self.value_len()));
        }
        self.write_batch(MAP_UPDATE_BATCH, (keys, values), count)
    }

    /// Removes entries alike. One that is not there ends it.
    pub(crate) fn delete_all(&self, keys: &[u8]) -> (usize, io::Result<()>) {
        let key_len = self.info().key_size as usize;
        self.write_batch(MAP_DELETE_BATCH, (keys, &[]), keys.len() / key_len.max(1))
    }

    fn write_batch(
        &self,
        command: libc::c_long,
        (keys, values): (&[u8], &[u8]),
        count: usize,
    ) -> (usize, io::Result<()>) {
        let key_len = self.info().key_size as usize;
        if let Err(error) = Self::expect(keys.len(), count * key_len) {
            return (0, Err(error));
        }
        let mut attr = BatchAttr {
            in_batch: 0,
            out_batch: 0,
            keys: address(keys),
            values: address(values),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            fd: number(self.as_fd()),
            element_flags: 0,
            flags: 0,
        };
        let bytes = attr.as_mut_bytes();
        // SAFETY: the buffers hold `count` keys and, for updates, values of this map, as checked
        // above; the kernel writes the number of entries back into the attribute, which is ours.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_mut_ptr(), bytes.len()) };
        if result >= 0 {
            return (count, Ok(()));
        }
        let error = io::Error::last_os_error();
        // Where the kernel has no batches it leaves the number as it was.
        let done = match attr.count as usize {
            done if done < count => done,
            _ => 0,
        };
        (done, Err(error))
    }

    /// Entry by entry.
    fn walk(&self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut next = vec![0; self.info().key_size as usize];
        let mut value = vec![0; self.value_len()];
        let mut key: Option<Vec<u8>> = None;
        // A key removed while we stand on it starts the walk anew; the bound keeps it finite.
        for _ in 0..u64::from(self.info().max_entries) * 2 {
            if !self.next_key(key.as_deref(), &mut next)? {
                break;
            }
            if self.lookup(&next, &mut value)? {
                each(&next, &value);
            }
            key = Some(next.clone());
        }
        Ok(())
    }
}
