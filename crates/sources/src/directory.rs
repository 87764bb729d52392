//! A source that watches directories of manifests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axon_model::Observed;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::SourceStatus;

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
    /// How often everything is read again although nothing seems to have
    /// changed: notifications can be lost.
    pub rescan: Duration,
}

impl Config {
    /// The directories, and the usual times.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            last_good: None,
            settle: Duration::from_millis(30),
            rescan: Duration::from_secs(10),
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
    /// Starts watching (in a tokio runtime), until `cancel` is cancelled.
    pub fn spawn(config: Config, observed: Observed, cancel: CancellationToken) -> SourceHandle {
        let (_send, status) = watch::channel(Arc::default());
        let task = tokio::spawn(async move {
            let _ = (config, observed);
            cancel.cancelled().await;
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
        let _ = self.task.await;
    }
}
