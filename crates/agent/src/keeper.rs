//! Keeps on disk what holds the node itself ([`crate::kept`]), on a thread of
//! its own: the control loop waits for no disk.

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use axon_control::HostRows;

use crate::kept::{self, Setting};
use crate::node::lock;
use crate::problem::chain;

/// Policy has changed: it is written at once. Who an address is may wait so
/// long, and longer by a millisecond for each row.
const LATER_MS: u64 = 5_000;
/// Until it is looked again whether what is being written is on disk, or what
/// could not be is tried again.
const AGAIN_MS: u64 = 1_000;

/// What tells one state of the rows from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    /// The node's set, and the devices that it is asked at.
    policy: (u32, Vec<String>),
    /// The tables' revisions.
    rows: [u64; 3],
}

struct Job {
    rows: HostRows,
    stamp: Stamp,
}

/// What has become of what was to be written last.
#[derive(Clone, Default)]
struct Done {
    written: Option<Stamp>,
    error: Option<String>,
}

/// Writes the rows when they have changed.
pub(crate) struct Keeper {
    /// One is being written, and one may wait for that.
    jobs: SyncSender<Job>,
    done: Arc<Mutex<Done>>,
    /// What was handed over last, and when it is looked after again.
    sent: Option<(Stamp, u64)>,
    /// When addresses that have changed are written.
    due_ms: Option<u64>,
}

impl Keeper {
    /// Starts the thread; it ends with this.
    pub(crate) fn start(lib: PathBuf, setting: Setting) -> std::io::Result<Self> {
        let (jobs, wanted) = sync_channel::<Job>(1);
        let done = Arc::<Mutex<Done>>::default();
        let result = Arc::clone(&done);
        let work = move || {
            while let Ok(Job { rows, stamp }) = wanted.recv() {
                let uplinks = stamp.policy.1.clone();
                let kept = kept::keep(&lib, &setting, &rows, uplinks);
                let error = kept.err().map(|error| chain(&error));
                if let Some(error) = &error {
                    tracing::error!(error, "the node's rows are not kept for the next start");
                }
                let mut done = lock(&result);
                if error.is_none() {
                    done.written = Some(stamp);
                }
                done.error = error;
            }
        };
        let thread = std::thread::Builder::new().name("keeper".to_owned());
        thread.spawn(work)?;
        Ok(Self {
            jobs,
            done,
            sent: None,
            due_ms: None,
        })
    }

    /// Has what is in force now be kept; says when to be asked again.
    pub(crate) fn follow(
        &mut self,
        now_ms: u64,
        rows: HostRows,
        uplinks: Vec<String>,
    ) -> Option<u64> {
        let stamp = Stamp {
            policy: (rows.endpoint.policy_set, uplinks),
            rows: [
                rows.identities.revision(),
                rows.ipcache.revision(),
                rows.ipcache_cidrs.revision(),
            ],
        };
        let written = lock(&self.done).written.clone();
        if written.as_ref() == Some(&stamp) {
            self.due_ms = None;
            return None;
        }
        if let Some((_, again_ms)) = self.sent.as_ref().filter(|(sent, _)| *sent == stamp)
            && now_ms < *again_ms
        {
            return Some(*again_ms);
        }
        let known = [written.as_ref(), self.sent.as_ref().map(|(sent, _)| sent)];
        if known
            .iter()
            .flatten()
            .any(|known| known.policy == stamp.policy)
        {
            let later_ms = now_ms + LATER_MS + rows.ipcache.len() as u64;
            let due_ms = *self.due_ms.get_or_insert(later_ms);
            if now_ms < due_ms {
                return Some(due_ms);
            }
        }
        let again_ms = now_ms + AGAIN_MS;
        let sent = stamp.clone();
        if self.jobs.try_send(Job { rows, stamp }).is_ok() {
            self.sent = Some((sent, again_ms));
            self.due_ms = None;
        }
        Some(again_ms)
    }

    /// Why what was to be kept is not.
    pub(crate) fn error(&self) -> Option<String> {
        lock(&self.done).error.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use axon_control::{Config, HostRows, Persisted};

    use super::{AGAIN_MS, Keeper, LATER_MS};
    use crate::kept::Setting;

    fn rows(set: u32) -> HostRows {
        let mut rows = HostRows::lockdown(&Config::default(), Persisted::default());
        rows.endpoint.policy_set = set;
        rows
    }

    /// Asks until nothing is left to do.
    fn settle(keeper: &mut Keeper, now_ms: u64, set: u32) {
        let end = Instant::now() + Duration::from_secs(30);
        while let Some(again_ms) = keeper.follow(now_ms, rows(set), Vec::new()) {
            assert!(Instant::now() < end, "nothing is written");
            assert!(again_ms > now_ms, "it is asked again and again");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn policy_is_written_at_once_and_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let lib = dir.path().join("lib");
        let mut keeper = Keeper::start(lib, Setting::default()).expect("a thread");
        settle(&mut keeper, 0, 1);
        let file = dir.path().join("lib/host-rows.json");
        let first = std::fs::read(&file).expect("written");
        settle(&mut keeper, 0, 2);
        assert_ne!(std::fs::read(&file).expect("written"), first);
        assert_eq!(keeper.error(), None);
    }

    #[test]
    fn what_could_not_be_written_is_told_and_tried_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let lib = dir.path().join("lib");
        std::fs::write(&lib, "in the way").expect("a file");
        let mut keeper = Keeper::start(lib.clone(), Setting::default()).expect("a thread");
        let again_ms = keeper.follow(0, rows(1), Vec::new());
        assert_eq!(again_ms, Some(AGAIN_MS));
        let end = Instant::now() + Duration::from_secs(30);
        while keeper.error().is_none() {
            assert!(Instant::now() < end, "nothing is told");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::remove_file(&lib).expect("out of the way");
        let due_ms = keeper.follow(AGAIN_MS, rows(1), Vec::new()).expect("due");
        assert_eq!(due_ms, AGAIN_MS + LATER_MS, "a full disk is not stormed");
        settle(&mut keeper, due_ms, 1);
        assert_eq!(keeper.error(), None);
    }
}
