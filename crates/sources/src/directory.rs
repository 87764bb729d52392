//! A source that watches directories of manifests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axon_model::Observed;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::files::{Files, Writing};
use crate::keep::Keep;
use crate::merge::{Merged, mark_complete};
use crate::walk::{Stamp, walk};
use crate::watcher::Watcher;
use crate::{FileStatus, SourceStatus};

/// How often a directory that cannot be read is looked at again.
const RETRY: Duration = Duration::from_millis(500);

/// How long a file that is held open for writing is waited for: then it is
/// read if nothing of it is in force, or told.
const WRITER_MAX: Duration = Duration::from_secs(2);

/// What a directory source is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directories, each with everything below it.
    pub directories: Vec<PathBuf>,
    /// Where the last good content of files is kept across restarts; none: it
    /// is only remembered.
    pub last_good: Option<PathBuf>,
    /// How long after a change the files are read: writers seldom write once.
    pub settle: Duration,
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
    task: JoinHandle<()>,
}

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
                config,
                observed,
            };
            tokio::select! {
                () = scanner.run(&sender) => {}
                () = cancel.cancelled() => {}
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
    pub async fn join(self) {
        // A task that panicked has ended too; the panic has been printed.
        let _ = self.task.await;
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
}

impl Scanner {
    async fn run(mut self, sender: &watch::Sender<Arc<SourceStatus>>) {
        loop {
            // Reading and parsing block; they get a thread of their own.
            let scan = tokio::task::spawn_blocking(move || {
                let postponed = self.scan();
                (self, postponed)
            });
            let postponed;
            (self, postponed) = match scan.await {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!(%error, "the directory source has ended");
                    return;
                }
            };
            sender.send_if_modified(|told| {
                let news = **told != self.status;
                if news {
                    *told = Arc::new(self.status.clone());
                }
                news
            });
            let pause = match (postponed, self.status.directories.is_empty()) {
                (true, _) => self.config.settle,
                (false, false) => RETRY.min(self.config.rescan),
                (false, true) => self.config.rescan,
            };
            tokio::select! {
                () = self.watcher.changed() => tokio::time::sleep(self.config.settle).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks at everything; whether something is being written meanwhile.
    fn scan(&mut self) -> bool {
        // Watch first: what changes during the walk is told afterwards.
        self.watcher.follow(&self.config.directories);
        let walk = walk(&self.config.directories);
        let open = self.watcher.open();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
            });
        let settle = i128::try_from(self.config.settle.as_nanos()).unwrap_or(i128::MAX);
        let writing = |path: &Path, stamp: &Stamp| match open.get(path) {
            Some(since) if *since > WRITER_MAX => Writing::Long,
            Some(_) => Writing::Now,
            // A time that lies ahead tells nothing.
            None if (0..settle).contains(&(now - stamp.changed_ns())) => Writing::Now,
            None => Writing::No,
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
        !pass.postponed.is_empty()
    }

    /// Whether every file of the first whole walk has been read. What comes
    /// while they are read does not delay that.
    fn has_read_first(&mut self, postponed: &BTreeSet<PathBuf>) -> bool {
        if !self.status.directories.is_empty() {
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
