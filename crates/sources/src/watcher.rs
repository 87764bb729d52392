//! Notices that something in the directories has changed.
//!
//! Only that: what has changed is found by a walk. Notifications can be lost,
//! and a directory may live where there are none; then walks come by time.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Watches directories, and files that somebody is writing.
pub(crate) struct Watcher {
    watcher: Option<RecommendedWatcher>,
    /// What is watched, by the file that the path was.
    watched: HashMap<PathBuf, (u64, u64)>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    changed: Notify,
    /// Files written to and not closed since, as far as is known.
    open: Mutex<HashMap<PathBuf, Instant>>,
}

impl Watcher {
    pub(crate) fn new() -> Self {
        let state = Arc::<State>::default();
        let told = Arc::clone(&state);
        let watcher = notify::recommended_watcher(move |event| told.tell(event));
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "changes of manifests are noticed by time only");
                None
            }
        };
        Self {
            watcher,
            watched: HashMap::new(),
            state,
        }
    }

    /// Watches the directories as they are now. A directory that was replaced
    /// is watched anew; whether that was so.
    pub(crate) fn follow(&mut self, directories: &[PathBuf]) -> bool {
        let mut news = false;
        for directory in directories {
            news |= self.watch(directory, RecursiveMode::Recursive);
            // The swap of a link is seen in the directory that holds it.
            let link = fs::symlink_metadata(directory).is_ok_and(|m| m.is_symlink());
            if let (true, Some(parent)) = (link, directory.parent()) {
                self.watch(parent, RecursiveMode::NonRecursive);
            }
        }
        news
    }

    fn watch(&mut self, path: &Path, mode: RecursiveMode) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let Ok(metadata) = fs::metadata(path) else {
            return false;
        };
        let id = (metadata.dev(), metadata.ino());
        if self.watched.get(path) == Some(&id) {
            return false;
        }
        if self.watched.contains_key(path) {
            // It may be gone with the directory it was on.
            let _ = watcher.unwatch(path);
        }
        match watcher.watch(path, mode) {
            Ok(()) => {
                self.watched.insert(path.to_owned(), id);
                true
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "changes are noticed by time only");
                false
            }
        }
    }

    /// Waits for a change.
    pub(crate) async fn changed(&self) {
        self.state.changed.notified().await;
    }

    /// The files that are being written just now, and how long ago they were
    /// last written to.
    pub(crate) fn open(&self) -> HashMap<PathBuf, Duration> {
        let open = lock(&self.state.open);
        let since = |(path, since): (&PathBuf, &Instant)| (path.clone(), since.elapsed());
        open.iter().map(since).collect()
    }
}

impl State {
    fn tell(&self, event: notify::Result<notify::Event>) {
        let Ok(event) = event else {
            self.changed.notify_one();
            return;
        };
        let mut open = lock(&self.open);
        if event.need_rescan() {
            // Notifications were lost, and with them perhaps who has closed what.
            open.clear();
        }
        match event.kind {
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
                let now = Instant::now();
                open.extend(event.paths.into_iter().map(|path| (path, now)));
            }
            // Our own reading comes by here.
            EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => return,
            _ => {
                for path in &event.paths {
                    open.remove(path);
                }
            }
        }
        drop(open);
        self.changed.notify_one();
    }
}

/// A panic while it was held leaves whole entries: go on.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
