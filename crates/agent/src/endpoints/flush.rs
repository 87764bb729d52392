//! Forgets the connections of addresses, for many endpoints in one look.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};

use axon_linux::Sweeper;

use crate::node::lock;
use crate::problem::chain;

/// Flushes addresses. To look through the maps takes as long for a hundred
/// addresses as for one, so whoever comes while somebody looks shares the next
/// look with all others who came.
#[derive(Debug)]
pub(crate) struct Flusher {
    /// Held by whoever looks.
    sweeper: Mutex<Sweeper>,
    /// What the next look is for.
    next: Mutex<Arc<Batch>>,
}

/// Addresses that are flushed together.
#[derive(Debug, Default)]
struct Batch {
    addresses: Mutex<Vec<IpAddr>>,
    done: OnceLock<Result<(), String>>,
}

impl Flusher {
    pub(crate) fn new(sweeper: Sweeper) -> Self {
        Self {
            sweeper: Mutex::new(sweeper),
            next: Mutex::default(),
        }
    }

    /// Removes every flow and translation of these addresses that there was
    /// when this was called.
    pub(crate) fn flush(&self, addresses: &[IpAddr]) -> Result<(), String> {
        let batch = {
            let next = lock(&self.next);
            lock(&next.addresses).extend(addresses);
            Arc::clone(&next)
        };
        let mut sweeper = lock(&self.sweeper);
        // Somebody before us may have taken ours along.
        let done = batch.done.get_or_init(|| {
            // From now on nobody joins this batch, and all who have are in it.
            *lock(&self.next) = Arc::default();
            let flushed = sweeper.flush(&lock(&batch.addresses));
            flushed.map(drop).map_err(|error| chain(&error))
        });
        done.clone()
    }
}
