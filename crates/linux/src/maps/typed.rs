//! One map with the types of its keys and values.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::MapError;
use crate::sys::RawMap;

/// How often memory is asked for again, a millisecond apart.
const OUT_OF_MEMORY_TRIES: u32 = 20;
/// The same for many entries together: whoever writes them has more to do.
const OUT_OF_MEMORY_TRIES_OF_ALL: u32 = 100;
/// Entries that are written at once.
const BATCH_ENTRIES: usize = 4096;

/// A hash, LRU hash, trie or array; clones share the descriptor.
#[derive(Debug)]
pub struct Map<K, V> {
    raw: Arc<RawMap>,
    name: &'static str,
    layout: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self {
            raw: Arc::clone(&self.raw),
            ..*self
        }
    }
}

impl<K, V> Map<K, V> {
    /// A map of these types, if its keys and values have their sizes.
    pub(crate) fn new(raw: Arc<RawMap>, name: &'static str) -> Result<Self, MapError> {
        let info = *raw.info();
        for (field, found, expected) in [
            ("key size", info.key_size, size_of::<K>()),
            ("value size", info.value_size, size_of::<V>()),
        ] {
            let expected = u32::try_from(expected).unwrap_or(u32::MAX);
            if found != expected {
                return Err(MapError::Layout {
                    map: name,
                    field,
                    found,
                    expected,
                });
            }
        }
        Ok(Self {
            raw,
            name,
            layout: PhantomData,
        })
    }

    /// Entries the map can hold.
    pub fn capacity(&self) -> u32 {
        self.raw.info().max_entries
    }

    /// The map's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn error(&self, call: &'static str) -> impl FnOnce(io::Error) -> MapError {
        let map = self.name;
        move |source| MapError::Syscall { map, call, source }
    }
}

impl<K, V> Map<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    /// The value of a key.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut value = V::new_zeroed();
        let found = self
            .raw
            .lookup(key.as_bytes(), value.as_mut_bytes())
            .map_err(self.error("lookup"))?;
        Ok(found.then_some(value))
    }

    /// Puts a value in place, whether there was one or not.
    ///
    /// # Errors
    /// [`MapError::Full`], [`MapError::Syscall`].
    pub fn insert(&self, key: &K, value: &V) -> Result<(), MapError> {
        self.write((key, value), 0, &Cell::new(OUT_OF_MEMORY_TRIES))
    }

    /// Puts a value in place if there is none; says whether it did.
    ///
    /// # Errors
    /// [`MapError::Full`], [`MapError::Syscall`].
    pub fn insert_new(&self, key: &K, value: &V) -> Result<bool, MapError> {
        let tries = Cell::new(OUT_OF_MEMORY_TRIES);
        match self.write((key, value), crate::sys::NOEXIST, &tries) {
            Ok(()) => Ok(true),
            Err(MapError::Syscall { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes an entry; memory that lacks is asked for again as often as `tries` says,
    /// which is counted down.
    fn write(&self, (key, value): (&K, &V), flags: u64, tries: &Cell<u32>) -> Result<(), MapError> {
        let update = || self.raw.update(key.as_bytes(), value.as_bytes(), flags);
        let mut said = update();
        let lacks_memory = |error: &io::Error| error.raw_os_error() == Some(libc::ENOMEM);
        // The kernel lays in memory for entries made on demand a little behind their making.
        for _ in 0..OUT_OF_MEMORY_TRIES.min(tries.get()) {
            if !said.as_ref().is_err_and(lacks_memory) {
                break;
            }
            tries.set(tries.get().saturating_sub(1));
            std::thread::sleep(Duration::from_millis(1));
            said = update();
        }
        said.map_err(|error| match error.raw_os_error() {
            // Hashes say E2BIG, tries ENOSPC.
            Some(libc::E2BIG | libc::ENOSPC) => MapError::Full {
                map: self.name,
                entries: self.capacity(),
                entries_max: self.capacity(),
            },
            _ => self.error("update")(error),
        })
    }

    /// Puts values in place in this order, in batches where the kernel has them;
    /// hands back those that it does not take, by their places.
    pub fn insert_all(&self, entries: &[(K, V)]) -> Vec<(usize, MapError)> {
        let write = |from: usize, to: usize| {
            let entries = entries.get(from..to).unwrap_or_default();
            let keys = bytes_of(entries.iter().map(|(key, _)| key));
            let values = bytes_of(entries.iter().map(|(_, value)| value));
            self.raw.update_all(&keys, &values)
        };
        let tries = Cell::new(OUT_OF_MEMORY_TRIES_OF_ALL);
        let one = |n: usize| match entries.get(n) {
            Some((key, value)) => self.write((key, value), 0, &tries),
            None => Ok(()),
        };
        in_batches(entries.len(), write, one)
    }

    /// Removes keys, whether they are there or not, in batches where the kernel
    /// has them; hands back those that it does not remove, by their places.
    pub fn remove_all(&self, keys: &[K]) -> Vec<(usize, MapError)> {
        let write = |from: usize, to: usize| {
            let keys = bytes_of(keys.get(from..to).unwrap_or_default().iter());
            self.raw.delete_all(&keys)
        };
        let one = |n: usize| match keys.get(n) {
            Some(key) => self.remove(key).map(drop),
            None => Ok(()),
        };
        in_batches(keys.len(), write, one)
    }

    /// Removes a key; says whether it was there.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn remove(&self, key: &K) -> Result<bool, MapError> {
        self.raw
            .delete(key.as_bytes())
            .map_err(self.error("delete"))
    }

    /// Removes a key if its value is `doomed`; says whether it did.
    ///
    /// What a program makes of the value meanwhile is looked at too: a value
    /// that is no longer doomed is put back, unless there is a newer one. Before
    /// 5.14 the kernel cannot take a value out, and one that changes between
    /// look and removal goes.
    ///
    /// # Errors
    /// [`MapError::Syscall`], [`MapError::Full`].
    pub fn remove_if(&self, key: &K, doomed: impl Fn(&V) -> bool) -> Result<bool, MapError> {
        // To take a value out and put it back would be seen by packets.
        if !self.get(key)?.is_some_and(|value| doomed(&value)) {
            return Ok(false);
        }
        let mut value = V::new_zeroed();
        match self.raw.take(key.as_bytes(), value.as_mut_bytes()) {
            Ok(true) if !doomed(&value) => {
                self.insert_new(key, &value)?;
                Ok(false)
            }
            Ok(was_there) => Ok(was_there),
            Err(error) if is_unknown(&error) => self.remove(key),
            Err(error) => Err(self.error("take")(error)),
        }
    }

    /// Every entry, in batches where the kernel has them. Entries that come
    /// and go meanwhile may or may not be in it.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn dump(&self) -> Result<Vec<(K, V)>, MapError> {
        let mut entries = Vec::new();
        self.for_each(|key, value| entries.push((key, value)))?;
        Ok(entries)
    }

    /// Hands over every entry; see [`Map::dump`].
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn for_each(&self, mut each: impl FnMut(K, V)) -> Result<(), MapError> {
        self.raw
            .for_each(|key, value| {
                if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) {
                    each(key, value);
                }
            })
            .map_err(self.error("dump"))
    }

    /// How many entries there are, counted.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn count(&self) -> Result<u32, MapError> {
        let mut entries = 0;
        self.for_each(|_, _| entries += 1)?;
        Ok(entries)
    }
}

/// Values one after the other.
fn bytes_of<'a, T>(values: impl ExactSizeIterator<Item = &'a T>) -> Vec<u8>
where
    T: IntoBytes + Immutable + 'a,
{
    let mut bytes = Vec::with_capacity(values.len() * size_of::<T>());
    for value in values {
        bytes.extend_from_slice(value.as_bytes());
    }
    bytes
}

/// Carries something out for each of `count` places: many at once as far as
/// that goes, and alone where a batch has stopped. Hands back what fails alone.
///
/// A batch that stops is followed by one of half the size, down to single places,
/// and one that does not by one of twice the size: what a full map refuses is looked
/// at a few times, and not once for each row before it.
fn in_batches(
    count: usize,
    mut batch: impl FnMut(usize, usize) -> (usize, io::Result<()>),
    mut one: impl FnMut(usize) -> Result<(), MapError>,
) -> Vec<(usize, MapError)> {
    let mut failed = Vec::new();
    let mut at = 0;
    let mut size = BATCH_ENTRIES;
    let mut has_batches = count > 1;
    while at < count {
        let to = count.min(at + size);
        let mut stopped = false;
        if has_batches && to - at > 1 {
            let (done, result) = batch(at, to);
            at += done;
            let Err(error) = result else {
                size = BATCH_ENTRIES.min(size * 2);
                continue;
            };
            has_batches = done > 0 || !is_unknown(&error);
            size = (size / 2).max(1);
            stopped = true;
            if at >= count {
                break;
            }
        }
        match one(at) {
            // To have gone on where a batch has stopped is no reason for a larger one.
            Ok(()) if stopped => {}
            Ok(()) => size = BATCH_ENTRIES.min(size * 2),
            Err(error) => {
                failed.push((at, error));
                size = (size / 2).max(1);
            }
        }
        at += 1;
    }
    failed
}

/// Whether the kernel does not know how to do this with this map.
fn is_unknown(error: &io::Error) -> bool {
    /// The kernel's own number, which has no name in user space.
    const ENOTSUPP: i32 = 524;
    matches!(
        error.raw_os_error(),
        Some(ENOTSUPP | libc::EOPNOTSUPP | libc::EINVAL)
    )
}

/// An array with a value per CPU.
#[derive(Debug)]
pub struct PerCpuArray<V> {
    map: Map<u32, V>,
}

impl<V> Clone for PerCpuArray<V> {
    fn clone(&self) -> Self {
        Self {
            map: self.map.clone(),
        }
    }
}

impl<V> PerCpuArray<V>
where
    V: FromBytes + IntoBytes + Immutable,
{
    pub(crate) fn new(raw: Arc<RawMap>, name: &'static str) -> Result<Self, MapError> {
        Map::new(raw, name).map(|map| Self { map })
    }

    /// The values of an index, one per possible CPU.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn get(&self, index: u32) -> Result<Vec<V>, MapError> {
        let mut bytes = vec![0; self.map.raw.value_len()];
        self.map
            .raw
            .lookup(index.as_bytes(), &mut bytes)
            .map_err(self.map.error("lookup"))?;
        Ok(bytes
            .chunks_exact(size_of::<V>().next_multiple_of(8))
            .filter_map(|bytes| V::read_from_prefix(bytes).ok().map(|(value, _)| value))
            .collect())
    }

    /// Entries of the array.
    pub fn capacity(&self) -> u32 {
        self.map.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;

    use nix::libc;

    use super::{BATCH_ENTRIES, MapError, in_batches};

    /// What has become of rows that a map takes or not, in batches and alone.
    struct Written {
        /// How often each was taken.
        taken: Vec<usize>,
        failed: Vec<usize>,
        /// Rows that were handed over in batches.
        handed: usize,
    }

    fn written(
        count: usize,
        in_batch: impl Fn(usize) -> bool,
        alone: impl Fn(usize) -> bool,
    ) -> Written {
        let taken = RefCell::new(vec![0; count]);
        let mut handed = 0;
        let batch = |from: usize, to: usize| {
            handed += to - from;
            let done = (from..to).take_while(|n| in_batch(*n));
            let done = done.map(|n| taken.borrow_mut()[n] += 1).count();
            let refused = io::Error::from_raw_os_error(libc::E2BIG);
            let is_whole = done == to - from;
            (done, if is_whole { Ok(()) } else { Err(refused) })
        };
        let one = |n: usize| {
            if !alone(n) {
                return Err(MapError::Full {
                    map: "m",
                    entries: 1,
                    entries_max: 1,
                });
            }
            taken.borrow_mut()[n] += 1;
            Ok(())
        };
        let failed = in_batches(count, batch, one);
        Written {
            failed: failed.into_iter().map(|(at, _)| at).collect(),
            taken: taken.into_inner(),
            handed,
        }
    }

    #[test]
    fn every_row_is_written_once_and_what_is_refused_costs_no_more() {
        let count = 50 * BATCH_ENTRIES;
        type Takes = fn(usize) -> bool;
        let cases: [(&str, Takes); 6] = [
            ("all", |_| true),
            ("none", |_| false),
            ("as many as there is room for", |n| {
                n < 2 * BATCH_ENTRIES + 7
            }),
            ("those that are there already", |n| n % 2 == 0),
            ("one in ten not", |n| n % 10 != 3),
            ("now these, then those", |n| (n / 1000) % 2 == 0),
        ];
        for (name, takes) in cases {
            let done = written(count, takes, takes);
            let refused: Vec<usize> = (0..count).filter(|n| !takes(*n)).collect();
            assert_eq!(done.failed, refused, "{name}");
            let is_right = |n: usize| done.taken[n] == usize::from(takes(n));
            assert!((0..count).all(is_right), "{name}");
            assert!(done.handed <= 4 * count, "{name}: {} rows", done.handed);
            // What stops a batch of removals, as it is not there, is no failure alone.
            let done = written(count, takes, |_| true);
            assert!(done.failed.is_empty(), "{name}");
            assert!(done.taken.iter().all(|taken| *taken == 1), "{name}");
            assert!(done.handed <= 4 * count, "{name}: {} keys", done.handed);
        }
    }

    #[test]
    fn a_map_without_batches_is_asked_for_one_once() {
        let mut asked = 0;
        let batch = |_, _| {
            asked += 1;
            (0, Err(io::Error::from_raw_os_error(libc::EINVAL)))
        };
        let mut alone = Vec::new();
        let failed = in_batches(9, batch, |n| {
            alone.push(n);
            Ok(())
        });
        assert!(failed.is_empty());
        assert_eq!((asked, alone), (1, (0..9).collect()));
    }
}
