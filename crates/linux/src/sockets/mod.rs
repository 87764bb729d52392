//! Sockets that still speak to a backend that is gone.
//!
//! ```text
//!  axon_socket_v1 ── rows whose backend is gone ──┬─ connected: ended, in its namespace
//!                                                 └─ else: forgotten, the next datagram goes
//!                                                    elsewhere
//! ```
//!
//! The kernel asks programs about no datagram of a connected socket, so it would
//! send to nobody until its owner gives up. A connection of TCP notices by itself
//! that the other end is away, and may well live on where only the service has
//! changed: it is left alone unless configuration says otherwise.

mod diag;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use axon_abi::{SocketEntry, SocketKey};
pub(crate) use diag::can_destroy;
use diag::{Diag, TCP, UDP};

use crate::maps::{MapError, Maps};
use crate::netns;

/// Which sockets are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminate {
    /// Those of datagrams.
    Datagrams,
    /// Connections of TCP too (`lb-sock-terminate-all-protos`).
    AllProtocols,
}

/// How often the sockets of a namespace are listed at most.
const LISTS: usize = 5;

/// What became of sockets whose backend is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terminated {
    /// Sockets that were ended.
    pub ended: usize,
    /// Rows that were removed.
    pub forgotten: usize,
    /// Namespaces whose sockets could not be looked at, with the reason.
    pub failed: Vec<(PathBuf, String)>,
}

/// Rows of sockets by cookie: one has several if it speaks to several backends.
type Rows = HashMap<u64, Vec<(SocketKey, SocketEntry)>>;

/// Ends the sockets of the calling thread's network namespace, and of the
/// `pods`' (`None`: those are left), that are connected to a backend that is gone,
/// and forgets them.
///
/// # Errors
/// The rows cannot be read.
pub fn terminate_stale(
    maps: &Maps,
    pods: Option<&[PathBuf]>,
    what: Terminate,
) -> Result<Terminated, MapError> {
    let (mut connected, choices) = stale(maps, what)?;
    let mut report = Terminated::default();
    for (key, entry) in choices {
        report.forgotten += usize::from(forget(maps, &key, &entry)?);
    }
    if connected.is_empty() {
        return Ok(report);
    }
    let own = std::iter::once(None).chain(pods.into_iter().flatten().map(Some));
    for namespace in own {
        let ended = match namespace {
            None => end_all(&connected, what),
            Some(path) => match File::open(path) {
                Ok(file) => netns::within(file.as_fd(), || end_all(&connected, what))
                    .and_then(|ended| ended),
                // Its pod has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Err(error),
            },
        };
        match ended {
            Ok(keys) => {
                report.ended += keys.len();
                for key in keys {
                    report.forgotten += usize::from(drop_row(maps, &mut connected, &key)?);
                }
            }
            Err(error) => {
                let path = namespace.cloned().unwrap_or_default();
                report.failed.push((path, error.to_string()));
            }
        }
    }
    // What is left is not connected, or not any more. What could not be looked at is looked at
    // again.
    if report.failed.is_empty() && pods.is_some() {
        for (key, entry) in connected.into_values().flatten() {
            report.forgotten += usize::from(forget(maps, &key, &entry)?);
        }
    }
    Ok(report)
}

/// Rows whose backend is gone: what sockets are connected to, and what was
/// chosen for datagrams.
fn stale(maps: &Maps, what: Terminate) -> Result<(Rows, Vec<(SocketKey, SocketEntry)>), MapError> {
    let mut rows = Vec::new();
    maps.socket.for_each(|key, entry| rows.push((key, entry)))?;
    let mut backends = HashMap::new();
    let (mut connected, mut choices) = (Rows::new(), Vec::new());
    for (key, entry) in rows {
        let backend = match backends.get(&entry.backend) {
            Some(known) => *known,
            None => {
                let found = maps.backend.get(&entry.backend)?;
                backends.insert(entry.backend, found);
                found
            }
        };
        let is_there = backend.is_some_and(|now| {
            entry.means(&now) && (key.choice != 0 || (now.addr, now.port) == (key.addr, key.port))
        });
        if is_there {
            continue;
        }
        if key.choice != 0 {
            choices.push((key, entry));
        } else if key.protocol == UDP || what == Terminate::AllProtocols {
            connected.entry(key.cookie).or_default().push((key, entry));
        }
    }
    Ok((connected, choices))
}

/// Ends those of the calling thread's namespace; says which. The kernel lists
/// sockets in pieces, and may leave one out while others come and go: it is asked
/// until it has none to end.
fn end_all(wanted: &Rows, what: Terminate) -> io::Result<Vec<SocketKey>> {
    let mut diag = Diag::open()?;
    let mut ended = Vec::new();
    for _ in 0..LISTS {
        let before = ended.len();
        end_listed(&mut diag, wanted, what, &mut ended)?;
        if ended.len() == before {
            break;
        }
    }
    Ok(ended)
}

fn end_listed(
    diag: &mut Diag,
    wanted: &Rows,
    what: Terminate,
    ended: &mut Vec<SocketKey>,
) -> io::Result<()> {
    for protocol in [UDP, TCP] {
        if protocol == TCP && what == Terminate::Datagrams {
            continue;
        }
        for socket in diag.connected(protocol)? {
            let (addr, port) = socket.peer();
            let rows = wanted.get(&socket.cookie()).into_iter().flatten();
            let is_his = |(key, _): &&(SocketKey, SocketEntry)| {
                key.protocol == protocol && key.addr == addr && key.port.get() == port
            };
            if let Some((key, _)) = { rows }.find(is_his)
                && diag.destroy(&socket)?
            {
                ended.push(*key);
            }
        }
    }
    Ok(())
}

fn drop_row(maps: &Maps, rows: &mut Rows, key: &SocketKey) -> Result<bool, MapError> {
    let Some(of_socket) = rows.get_mut(&key.cookie) else {
        return Ok(false);
    };
    let at = of_socket.iter().position(|(known, _)| known == key);
    match at.map(|at| of_socket.swap_remove(at)) {
        Some((key, entry)) => forget(maps, &key, &entry),
        None => Ok(false),
    }
}

/// Removes a row that nobody has written anew since.
fn forget(maps: &Maps, key: &SocketKey, entry: &SocketEntry) -> Result<bool, MapError> {
    maps.socket.remove_if(key, |now| now == entry)
}
