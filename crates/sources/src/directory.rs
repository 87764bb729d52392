//! A source that watches directories of manifests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axon_model::Observed;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::files::{Files, Writing};
use crate::keep::{Done, Job, Keep};
use crate::merge::{Merged, mark_complete};
use crate::walk::{Stamp, walk};
use crate::watcher::{FileState, Watcher};
use crate::{FileStatus, NotKept, SourceStatus};

/// How often a directory that cannot be read is looked at again.
const RETRY: Duration = Duration::from_millis(500);

/// What a directory source is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directories, each with everything below it.
    pub directories: Vec<PathBuf>,
    /// Where the last good content of files is kept across restarts; none: it
    /// is only remembered.
    pub last_good: Option<PathBuf>,
    /// How long a file must have been as it is to be read, unless its writer was
    /// seen to close or rename it: then it is read at once.
    pub settle: Duration,
    /// How long a file that is held open for writing is waited for: then it is
    /// read if nothing of it is in force, or told.
    pub writer: Duration,
    /// How often everything is looked at again although nothing seems to have
    /// changed: notifications can be lost.
    pub rescan: Duration,
}

impl Config {
    /// The directories, and the usual times.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            last_good: None,
            settle: Duration::from_millis(20),
            writer: Duration::from_secs(2),
            rescan: Duration::from_secs(5),
        }
    }
}

/// A source that watches directories of manifests.
#[derive(Debug)]
pub struct DirectorySource;

/// A running source. Dropping it does not stop the source; its token does.
#[derive(Debug)]
pub struct SourceHandle {
    status: watch::Receiver<Arc<SourceStatus>>,
    task: JoinHandle<Result<(), JoinError>>,
}

/// A source has ended without being told to.
#[derive(Debug, thiserror::Error)]
#[error("manifests are not followed any more")]
pub struct SourceBroken(#[source] JoinError);

impl DirectorySource {
    /// Starts watching (in a tokio runtime), until `cancel` is cancelled. The
    /// source owns the tables of the cluster: it removes rows that no
    /// manifest makes.
    pub fn spawn(config: Config, observed: Observed, cancel: CancellationToken) -> SourceHandle {
        let (sender, status) = watch::channel(Arc::default());
        let task = tokio::spawn(async move {
            let scanner = Scanner {
                files: Files::new(Keep::new(config.last_good.clone())),
                status: SourceStatus::default(),
                watcher: Watcher::new(),
                first: None,
                keeping: Keeping::default(),
                config,
                observed,
            };
            tokio::select! {
                broken = scanner.run(&sender) => Err(broken),
                () = cancel.cancelled() => Ok(()),
            }
        });
        SourceHandle { status, task }
    }
}

impl SourceHandle {
    /// How the source is doing.
    pub fn status(&self) -> Arc<SourceStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// The status, to wait for its changes.
    pub fn watch(&self) -> watch::Receiver<Arc<SourceStatus>> {
        self.status.clone()
    }

    /// Waits until the source has ended, after its token was cancelled.
    ///
    /// # Errors
    /// It broke: no change is followed any more.
    pub async fn join(self) -> Result<(), SourceBroken> {
        self.task.await.flatten().map_err(SourceBroken)
    }
}

struct Scanner {
    config: Config,
    observed: Observed,
    files: Files,
    status: SourceStatus,
    watcher: Watcher,
    /// Files of the first whole walk that are still to be read.
    first: Option<BTreeSet<PathBuf>>,
    keeping: Keeping,
}

impl Scanner {
    /// Goes on until it breaks.
    async fn run(mut self, sender: &watch::Sender<Arc<SourceStatus>>) -> JoinError {
        loop {
            // Reading and parsing block; they get a thread of their own.
            let begun = Instant::now();
            let scan = tokio::task::spawn_blocking(move || {
                let again = self.scan();
                (self, again)
            });
            let again;
            (self, again) = match scan.await {
                Ok(done) => done,
                Err(broken) => return broken,
            };
            self.tell(sender);
            // After what is read is in force: that does not wait for the disk.
            self.keeping.begin(|| self.files.job(true));
            let pause = match (again, self.status.directories.is_empty()) {
                (true, _) => self.config.settle,
                (false, false) => RETRY.min(self.config.rescan),
                (false, true) => self.config.rescan,
            };
            // Of many changes one after the other, several are read together: at
            // most half of the time is spent on reading.
            let rested = Instant::now() + begun.elapsed().min(self.config.settle);
            self.wait(pause, sender).await;
            tokio::time::sleep_until(rested).await;
        }
    }

    /// Waits until it is time for a scan.
    async fn wait(&mut self, pause: Duration, sender: &watch::Sender<Arc<SourceStatus>>) {
        let news = until_done_or_settled(&self.watcher, self.config.settle);
        let pause = tokio::time::sleep(pause);
        tokio::pin!(news, pause);
        loop {
            tokio::select! {
                () = &mut news => return,
                () = &mut pause => return,
                Some(done) = self.keeping.done() => {
                    if self.files.kept(done) {
                        self.status.not_kept = not_kept(&self.files);
                        tell(sender, &self.status);
                    }
                    self.keeping.begin(|| self.files.job(false));
                }
            }
        }
    }

    fn tell(&self, sender: &watch::Sender<Arc<SourceStatus>>) {
        tell(sender, &self.status);
    }

    /// Looks at everything; whether to look again soon.
    fn scan(&mut self) -> bool {
        // Watch first: what changes during the walk is told afterwards.
        self.watcher.follow(&self.config.directories);
        let walk = walk(&self.config.directories);
        // Whose writer may have been missed waits longer: who was seen to close his
        // file is remembered for as long.
        let was_blind = self.watcher.seen_for() < self.config.writer;
        let memory = match was_blind {
            true => self.config.writer,
            false => self.config.settle,
        };
        let files = self.watcher.files(memory);
        // After that: what was lost is told by it.
        let blind = self.watcher.seen_for() < self.config.writer;
        let now_ns = now_ns();
        let writing = |path: &Path, stamp: &Stamp| {
            let since_ns = now_ns - stamp.changed_ns();
            writing(files.get(path), since_ns, &self.config, blind)
        };
        let mut pass = self.files.follow(&walk, writing);
        pass.changed |= self.status.directories != walk.unreadable;
        self.status.directories = walk.unreadable;
        let first = !self.status.complete && self.has_read_first(&pass.postponed);
        if pass.changed || first {
            self.publish();
        }
        if first {
            self.status.complete = true;
            mark_complete(&self.observed);
            self.files.tidy();
        }
        pass.again || !pass.postponed.is_empty()
    }

    /// Whether every file of the first whole walk has been read. What comes
    /// while they are read does not delay that.
    fn has_read_first(&mut self, postponed: &BTreeSet<PathBuf>) -> bool {
        if !self.status.directories.is_empty() || self.files.miss_something() {
            return false;
        }
        let first = self.first.get_or_insert_with(|| postponed.clone());
        first.retain(|path| postponed.contains(path));
        first.is_empty()
    }

    /// Makes tables and status of what is in force.
    fn publish(&mut self) {
        let documents = self
            .files
            .iter()
            .flat_map(|(path, file)| file.documents.iter().map(move |d| (path, d)));
        let merged = Merged::new(documents);
        let files = self.files.iter();
        self.status.objects = merged.objects;
        self.status.ignored = merged.ignored;
        self.status.conflicts.clone_from(&merged.conflicts);
        self.status.files = files
            .map(|(path, file)| FileStatus {
                path: path.to_owned(),
                objects: file.documents.iter().filter(|d| d.object.is_some()).count(),
                error: file.error.clone(),
                lost: file.lost.clone(),
            })
            .collect();
        self.status.refused = self
            .files
            .iter()
            .flat_map(|(path, file)| file.refused.iter().map(move |r| r.status(path)))
            .collect();
        merged.write(&self.observed);
    }
}

/// Nanoseconds since 1970 by the wall clock, as files' times are.
fn now_ns() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, nanoseconds)
}

fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// Waits until somebody has written something, or writes, and a while for that.
async fn until_done_or_settled(watcher: &Watcher, settle: Duration) {
    let settled = async {
        watcher.changed().await;
        tokio::time::sleep(settle).await;
    };
    tokio::select! {
        () = watcher.done() => {}
        () = settled => {}
    }
}

fn tell(sender: &watch::Sender<Arc<SourceStatus>>, status: &SourceStatus) {
    sender.send_if_modified(|told| {
        let news = **told != *status;
        if news {
            *told = Arc::new(status.clone());
        }
        news
    });
}

/// Whether a file may be in the middle of being written: what its watcher has
/// seen, how long ago it changed by the wall clock, and whether the watcher has
/// been blind lately.
fn writing(seen: Option<&FileState>, since_ns: i128, config: &Config, blind: bool) -> Writing {
    // A time that lies ahead tells nothing.
    let within = |time| (0..nanoseconds(time)).contains(&since_ns);
    let young = within(config.settle);
    match seen {
        Some(FileState::Open(since)) if *since > config.writer => Writing::Long,
        Some(FileState::Open(_)) => Writing::Now,
        Some(FileState::Closed) if young => Writing::Closed,
        None if young => Writing::Now,
        None if blind && within(config.writer) => Writing::Unseen,
        Some(FileState::Closed) | None => Writing::No,
    }
}

fn not_kept(files: &Files) -> Vec<NotKept> {
    let failed = files.not_kept();
    failed
        .map(|(path, reason)| NotKept {
            path: path.to_owned(),
            reason: reason.to_owned(),
        })
        .collect()
}

/// Has things be kept for a restart, one job at a time, beside the scans.
#[derive(Default)]
struct Keeping(Option<JoinHandle<Done>>);

impl Keeping {
    /// Begins with what there is to do, unless something is being done.
    fn begin(&mut self, job: impl FnOnce() -> Option<Job>) {
        if self.0.is_none() {
            self.0 = job().map(|job| tokio::task::spawn_blocking(|| job.run()));
        }
    }

    /// Waits until that is done; `None` if it broke, which the next scan tries again.
    async fn done(&mut self) -> Option<Done> {
        let Some(task) = &mut self.0 else {
            return std::future::pending().await;
        };
        let ended = task.await;
        self.0 = None;
        ended
            .inspect_err(|error| tracing::error!(%error, "keeping manifests for a restart broke"))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Writing, writing};
    use crate::watcher::FileState;

    #[test]
    fn a_wall_clock_that_jumps_has_no_file_wait() {
        let config = Config::new(Vec::new());
        let (moment, hour) = (1_000_000_i128, 3_600_000_000_000_i128);
        let open = Some(FileState::Open(config.settle));
        let long = Some(FileState::Open(config.writer * 2));
        let closed = Some(FileState::Closed);
        for (what, seen, since_ns, expected) in [
            ("long ago", &None, hour, Writing::No),
            ("a moment ago", &None, moment, Writing::Now),
            ("just now", &None, 0, Writing::Now),
            ("settled", &None, 20 * moment, Writing::No),
            // The clock was set back since it was written: else it would not be
            // read for an hour.
            ("a moment ahead", &None, -moment, Writing::No),
            ("an hour ahead", &None, -hour, Writing::No),
            ("never", &None, i128::MIN, Writing::No),
            ("closed", &closed, moment, Writing::Closed),
            ("closed, ahead", &closed, -hour, Writing::No),
            // By the monotonic clock, whatever the other says.
            ("open", &open, hour, Writing::Now),
            ("open, ahead", &open, -hour, Writing::Now),
            ("open for long", &long, 0, Writing::Long),
            ("the same, ahead", &long, -hour, Writing::Long),
        ] {
            for blind in [false, true] {
                let found = writing(seen.as_ref(), since_ns, &config, blind);
                let expected = match (what, blind) {
                    ("settled", true) => Writing::Unseen,
                    _ => expected,
                };
                assert_eq!(found, expected, "{what}, {blind}");
            }
        }
    }
}
