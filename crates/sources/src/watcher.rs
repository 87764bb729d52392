//! Notices that something in the directories has changed, and who is writing.
//!
//! Only that: what has changed is found by a walk. Notifications can be lost,
//! and a directory may live where there are none; then walks come by time.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// How long after a file was written to the other end of its rename is waited for.
const MOVING_MAX: Duration = Duration::from_secs(60);

/// Watches directories, and files that somebody is writing.
pub(crate) struct Watcher {
    watcher: Option<RecommendedWatcher>,
    /// What is watched, by the file that the path was.
    watched: HashMap<PathBuf, (u64, u64)>,
    state: Arc<State>,
}

struct State {
    /// Until when not everything was seen: the start, or the last notification
    /// that was lost.
    blind: Mutex<Instant>,
    /// Somebody writes.
    changed: Notify,
    /// Somebody is done: a file was closed, renamed or removed.
    done: Notify,
    files: Mutex<HashMap<PathBuf, Seen>>,
    /// Files that are open, and have lost their names by the rename of this number.
    moving: Mutex<HashMap<usize, Seen>>,
}

/// What was seen of a file last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    is_open: bool,
    at: Instant,
}

/// What a file's writers are known to be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    /// It was written to and not closed since; for so long nothing was written.
    Open(Duration),
    /// It was closed by its writer, or renamed to its name after that.
    Closed,
}

impl Watcher {
    pub(crate) fn new() -> Self {
        let state = Arc::new(State::new());
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

    /// Waits until somebody writes: the file is of no use before it is closed.
    pub(crate) async fn changed(&self) {
        self.state.changed.notified().await;
    }

    /// Waits until somebody is done with a file.
    pub(crate) async fn done(&self) {
        self.state.done.notified().await;
    }

    /// What is known of files that somebody has written or writes just now;
    /// all that was done before the call. What was closed longer than `memory`
    /// ago is forgotten.
    pub(crate) fn files(&mut self, memory: Duration) -> HashMap<PathBuf, FileState> {
        self.catch_up();
        let mut files = lock(&self.state.files);
        files.retain(|_, seen| seen.is_open || seen.at.elapsed() <= memory);
        let state = |(path, seen): (&PathBuf, &Seen)| {
            let state = match seen.is_open {
                true => FileState::Open(seen.at.elapsed()),
                false => FileState::Closed,
            };
            (path.clone(), state)
        };
        files.iter().map(state).collect()
    }

    /// For how long everything was seen.
    pub(crate) fn seen_for(&self) -> Duration {
        lock(&self.state.blind).elapsed()
    }

    /// Waits until every notification has been told that the kernel has queued.
    ///
    /// The thread that reads them answers here too. It may answer before it
    /// reads what it was woken for at the same time, but not twice.
    fn catch_up(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            for _ in 0..2 {
                // An error says that the thread has ended: nothing comes any more.
                let _ = watcher.configure(notify::Config::default());
            }
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            blind: Mutex::new(Instant::now()),
            changed: Notify::new(),
            done: Notify::new(),
            files: Mutex::default(),
            moving: Mutex::default(),
        }
    }

    fn tell(&self, event: notify::Result<notify::Event>) {
        let Ok(event) = event else {
            self.done.notify_one();
            return;
        };
        let mut files = lock(&self.files);
        let mut moving = lock(&self.moving);
        if event.need_rescan() {
            // Notifications were lost, and with them perhaps who has closed what.
            files.clear();
            moving.clear();
            *lock(&self.blind) = Instant::now();
        }
        let at = Instant::now();
        let seen = |is_open| move |path: PathBuf| (path, Seen { is_open, at });
        let is_done = match event.kind {
            EventKind::Create(CreateKind::File) if !event.paths.iter().all(|p| is_new(p)) => {
                for path in &event.paths {
                    files.remove(path);
                }
                false
            }
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
                files.extend(event.paths.into_iter().map(seen(true)));
                false
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                files.extend(event.paths.into_iter().map(seen(false)));
                true
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                let left = event.paths.iter().filter_map(|path| files.remove(path));
                let open = left.filter(|seen| seen.is_open).last();
                // Its other end comes right behind it, or was never watched.
                moving.retain(|_, seen| seen.at.elapsed() < MOVING_MAX);
                moving.extend(event.tracker().zip(open));
                true
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                let number = event.tracker();
                let open = number.and_then(|number| moving.remove(&number));
                let state = open.unwrap_or(Seen { is_open: false, at });
                files.extend(event.paths.into_iter().map(|path| (path, state)));
                !state.is_open
            }
            // Both ends of a rename, of which each was told.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            // Our own reading comes by here.
            EventKind::Access(_) => return,
            // Its writer may still be at it.
            EventKind::Modify(ModifyKind::Metadata(_)) => false,
            _ => {
                for path in &event.paths {
                    files.remove(path);
                }
                true
            }
        };
        drop((files, moving));
        if is_done {
            self.done.notify_one();
        } else {
            self.changed.notify_one();
        }
    }
}

/// Whether a name that was made is a file's first one, and its writer still to
/// begin. Nobody will close a link by its name; what is written is told anew.
fn is_new(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.nlink() == 1 && m.len() == 0)
}

/// A panic while it was held leaves whole entries: go on.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use notify::event::{Event, EventKind, Flag};

    use super::{Watcher, lock};

    #[test]
    fn what_was_lost_is_known_to_be_lost() {
        let watcher = Watcher::new();
        let blind = || *lock(&watcher.state.blind);
        let start = blind();
        watcher.state.tell(Ok(Event::new(EventKind::Other)));
        assert_eq!(blind(), start, "nothing was");
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        watcher.state.tell(Ok(lost));
        assert!(blind() > start);
    }
}
