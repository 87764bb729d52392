//! The last flows, for whoever asks later.

use std::collections::VecDeque;

/// The last `capacity` items, each with a sequence number from 0 on.
///
/// A reader keeps a cursor (the number of the item it wants next) and learns
/// exactly which items left before it came.
#[derive(Clone, Debug)]
pub struct Ring<T> {
    items: VecDeque<T>,
    capacity: usize,
    next: u64,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// The items from the cursor on, oldest first.
    pub items: Vec<T>,
    /// The items between the cursor and the first one here: they left before
    /// they were read. Empty if there are none.
    pub lost: std::ops::Range<u64>,
    /// The cursor to continue from.
    pub next: u64,
}

impl<T: Clone> Ring<T> {
    /// A ring of the last `capacity` items (at least 1).
    pub fn new(capacity: usize) -> Self {
        Self {
            items: VecDeque::new(),
            capacity: capacity.max(1),
            next: 0,
        }
    }

    /// Adds an item, in place of the oldest one if the ring is full, and
    /// returns its number.
    pub fn push(&mut self, item: T) -> u64 {
        if self.items.len() == self.capacity {
            self.items.pop_front();
        }
        self.items.push_back(item);
        let number = self.next;
        self.next += 1;
        number
    }

    /// The number that the next item will get: how many there have ever been.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of the oldest item still here.
    pub fn oldest(&self) -> u64 {
        self.next - self.items.len() as u64
    }

    /// How many items are here.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many items the ring can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The items here, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// The oldest `count` items here.
    pub fn oldest_mut(&mut self, count: usize) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().take(count)
    }

    /// The items here, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &T> {
        self.items.iter().rev()
    }

    /// At most `max` items from `cursor` on. A cursor of the future reads
    /// nothing.
    pub fn read(&self, cursor: u64, max: usize) -> Read<T> {
        let oldest = self.oldest();
        let start = cursor.clamp(oldest, self.next);
        let skip = usize::try_from(start - oldest).unwrap_or(usize::MAX);
        let items: Vec<T> = self.items.iter().skip(skip).take(max).cloned().collect();
        Read {
            lost: cursor.min(start)..start.min(cursor.max(oldest)),
            next: start + items.len() as u64,
            items,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;
    use proptest::prelude::*;

    #[test]
    fn what_left_is_told_as_a_range() {
        let mut ring = Ring::new(3);
        for n in 0..5 {
            assert_eq!(ring.push(n), n);
        }
        let read = ring.read(1, 10);
        assert_eq!((read.items, read.lost, read.next), (vec![2, 3, 4], 1..2, 5));
        let read = ring.read(3, 1);
        assert_eq!((read.items, read.next), (vec![3], 4));
        assert!(read.lost.is_empty());
        assert_eq!(ring.newest_first().copied().collect::<Vec<_>>(), [4, 3, 2]);
    }

    proptest! {
        /// Items and losses together are every number from the cursor on.
        #[test]
        fn nothing_is_lost_unsaid(capacity in 0usize..9, pushed in 0u64..30, cursor in 0u64..40, max in 0usize..12) {
            let mut ring = Ring::new(capacity);
            for n in 0..pushed {
                ring.push(n);
            }
            let read = ring.read(cursor, max);
            let mut seen: Vec<u64> = read.lost.clone().collect();
            seen.extend(&read.items);
            let expected: Vec<u64> = (cursor..pushed).take(seen.len()).collect();
            prop_assert_eq!(&seen, &expected);
            let wanted = usize::try_from(pushed.saturating_sub(cursor)).expect("small");
            let here = wanted - read.lost.clone().count();
            prop_assert_eq!(read.items.len(), here.min(max));
            prop_assert_eq!(read.next, if cursor >= pushed { pushed } else { cursor + seen.len() as u64 });
        }
    }
}
