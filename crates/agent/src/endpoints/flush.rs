//! Forgets the connections of addresses, for many endpoints in one look.
//!
//! To look through the maps takes as long for a hundred addresses as for one:
//! who comes while the thread here looks shares the next look with all others
//! who came. That it is one thread also bounds the memory that looking takes.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use axon_linux::Sweeper;

use crate::problem::chain;

/// Flushes addresses. Its queue is bounded by the requests that the API admits.
#[derive(Debug)]
pub(crate) struct Flusher {
    orders: Sender<Order>,
}

/// Addresses to be flushed, whose they are, and who waits for it.
#[derive(Debug)]
struct Order {
    addresses: Vec<IpAddr>,
    owner: u16,
    done: Sender<Result<(), String>>,
}

/// A flush that has been asked for.
#[derive(Debug)]
pub(crate) struct Flush {
    done: Receiver<Result<(), String>>,
}

impl Flusher {
    /// Starts the thread; it ends when this value is dropped.
    pub(crate) fn start(mut sweeper: Sweeper) -> std::io::Result<Self> {
        let (orders, inbox) = channel::<Order>();
        thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || {
                while let Ok(first) = inbox.recv() {
                    let batch: Vec<Order> =
                        std::iter::once(first).chain(inbox.try_iter()).collect();
                    let addresses: Vec<IpAddr> = batch
                        .iter()
                        .flat_map(|o| o.addresses.iter().copied())
                        .collect();
                    let owners: Vec<u16> = batch.iter().map(|order| order.owner).collect();
                    let flushed = sweeper.flush(&addresses, &owners);
                    let flushed = flushed.map(drop).map_err(|error| chain(&error));
                    for order in batch {
                        // Whoever waits no more does not need the answer.
                        let _ = order.done.send(flushed.clone());
                    }
                }
            })?;
        Ok(Self { orders })
    }

    /// Begins to remove every flow and translation of these addresses of an endpoint
    /// that there is now: none counts against its number then.
    pub(crate) fn begin(&self, owner: u16, addresses: Vec<IpAddr>) -> Flush {
        let (done, waiting) = channel();
        // Without the thread nobody answers, which is what waiting then tells.
        let _ = self.orders.send(Order {
            addresses,
            owner,
            done,
        });
        Flush { done: waiting }
    }
}

impl Flush {
    /// Waits until it is done.
    pub(crate) fn wait(self) -> Result<(), String> {
        let done = self.done.recv();
        done.unwrap_or_else(|_| Err("flushing connections has broken".to_owned()))
    }
}
