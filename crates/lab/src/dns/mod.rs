//! `axon lab dns`: the lab's name server, an ordinary process in an ordinary
//! pod.
//!
//! It answers for `cluster.local`, and for the names of addresses, from the file
//! of names that the supervisor keeps, and says of every other name that there is
//! none.

mod answer;
mod zone;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use self::answer::{By, answer};
pub(crate) use self::zone::{Book, DOMAIN, Endpoint, Entry, Port, StandsFor};

/// How long a connection may rest.
const REST: Duration = Duration::from_secs(10);
/// So many connections at once; the next is closed unheard.
const CONNECTIONS_MAX: usize = 256;

/// Serves names over UDP and TCP until killed.
///
/// # Errors
/// Port 53 is taken.
pub(crate) fn run(names: &Path) -> Result<()> {
    let tcp = TcpListener::bind("[::]:53").context("listening on TCP port 53")?;
    let udp = UdpSocket::bind("[::]:53").context("listening on UDP port 53")?;
    let file = names.to_owned();
    std::thread::spawn(move || accept(&tcp, &file));
    let mut names = Names::new(names);
    let mut buffer = [0; 4096];
    loop {
        let (length, peer) = udp.recv_from(&mut buffer).context("receiving")?;
        if let Some(bytes) = answer(&buffer[..length], names.now(), By::Udp) {
            // A peer that has gone is no reason to stop.
            let _ = udp.send_to(&bytes, peer);
        }
    }
}

fn accept(listener: &TcpListener, names: &Path) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (open, names) = (Arc::clone(&open), names.to_owned());
        std::thread::spawn(move || {
            serve(&names, stream);
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn serve(names: &Path, mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(REST));
    let _ = stream.set_write_timeout(Some(REST));
    let mut names = Names::new(names);
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        let Some(bytes) = answer(&query, names.now(), By::Tcp) else {
            return;
        };
        let Ok(length) = u16::try_from(bytes.len()) else {
            return;
        };
        let whole = [&length.to_be_bytes()[..], &bytes].concat();
        if stream.write_all(&whole).is_err() {
            return;
        }
    }
}

/// The file of names, read again when it is another one.
struct Names {
    path: PathBuf,
    /// Which file it was, and when it was written.
    seen: Option<(u64, i64, i64)>,
    book: Book,
}

impl Names {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: None,
            book: Book::default(),
        }
    }

    /// The names of now, and the number of their version.
    fn now(&mut self) -> (&Book, u32) {
        let there = std::fs::metadata(&self.path).ok();
        let there = there.map(|file| (file.ino(), file.mtime(), file.mtime_nsec()));
        if there != self.seen
            && let Ok(text) = std::fs::read(&self.path)
            && let Ok(book) = serde_json::from_slice(&text)
        {
            self.book = book;
            self.seen = there;
        }
        let written = self.seen.map_or(0, |(_, seconds, _)| seconds);
        (&self.book, u32::try_from(written).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Book, Names};

    #[test]
    fn a_file_in_the_place_of_another_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("names.json");
        let mut names = Names::new(&path);
        assert_eq!(names.now(), (&Book::default(), 0), "no file yet");
        // Within one tick of the clock that files are stamped with.
        for n in 0..50 {
            let book = Book {
                namespaces: BTreeSet::from([n.to_string()]),
                ..Book::default()
            };
            let draft = dir.path().join("draft");
            let text = serde_json::to_vec(&book).expect("a text");
            std::fs::write(&draft, text).expect("written");
            std::fs::rename(&draft, &path).expect("renamed");
            assert_eq!(names.now().0, &book);
        }
        std::fs::write(&path, "{").expect("written");
        assert!(!names.now().0.namespaces.is_empty(), "half a file is none");
    }
}
