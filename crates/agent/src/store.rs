//! What must survive the agent, on disk.
//!
//! ```text
//! state-dir/agent.lock        held while an agent lives
//! state-dir/control.json      numbers of identities, policy sets and rules
//! state-dir/control.changes   what has changed of them since, a line each time,
//!                             after one that names the whole that they follow
//! state-dir/services.json     numbers of services' ports, backends and lists
//! state-dir/services.changes  what has changed of them since, in the same way
//! state-dir/ipam.json         addresses given out
//! state-dir/host.json         the node's own number among the endpoints
//! state-dir/events.json       how many lost events have been told
//! state-dir/endpoints/ID.json one file for each endpoint
//! ```
//!
//! A file is replaced whole or not at all: written beside, and renamed; lines
//! are added whole, or the last one does not count. Nothing
//! waits for the disk but what is on trial: these files tell what a kernel holds, and
//! what takes the kernel away takes that along. A file that a power cut has torn is set aside
//! as any other that makes no sense, and so are lines that follow another whole.

mod lines;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Another agent is at work.
    #[error(
        "state directory {dir} is in use by another agent; stop it, or give this one its own state-dir"
    )]
    Held { dir: String },
    /// The file system's answer.
    #[error("{what} {path} failed")]
    Io {
        what: &'static str,
        path: String,
        source: io::Error,
    },
    /// The file is none of ours.
    #[error("{path} is not what an agent writes; it was moved aside to {aside}")]
    Corrupt {
        path: String,
        aside: String,
        source: serde_json::Error,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::Io { what, path, source }
}

/// The state directory, held by this agent.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// The lock goes with the descriptor, also by kill -9.
    _lock: Option<File>,
}

impl Store {
    /// Makes the directory if need be and takes it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let directory = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(path)
                .map_err(io_error("making directory", path))
        };
        directory(&dir.join(ENDPOINTS))?;
        let path = dir.join("agent.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let dir = dir.display().to_string();
                return Err(StoreError::Held { dir });
            }
            Err(TryLockError::Error(source)) => return Err(io_error("locking", &path)(source)),
        }
        Ok(Self {
            dir: dir.to_owned(),
            _lock: Some(lock),
        })
    }

    /// A directory that others write to as well; it is made if need be.
    pub(crate) fn shared(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(io_error("making directory", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: None,
        })
    }

    /// The path of a file of the state.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file whole or not at all.
    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<Whole, StoreError> {
        self.write_and(name, value, |_| Ok(()))
    }

    /// The same, and waits for the disk: what is written outlives a power cut.
    pub(crate) fn write_through(
        &self,
        name: &str,
        value: &impl Serialize,
    ) -> Result<(), StoreError> {
        self.write_and(name, value, File::sync_data)?;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(io_error("writing", &self.dir))
    }

    fn write_and(
        &self,
        name: &str,
        value: &impl Serialize,
        settle: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<Whole, StoreError> {
        let path = self.path(name);
        let aside = path.with_extension("json.new");
        let write = || -> io::Result<Whole> {
            let text = serde_json::to_vec(value)?;
            let mut file = File::create(&aside)?;
            file.write_all(&text)?;
            settle(&file)?;
            fs::rename(&aside, &path)?;
            Ok(Whole::of(&text))
        };
        write().map_err(io_error("writing", &path))
    }

    /// Reads a file; `None` if there is none. One that cannot be understood is
    /// moved aside, so that it is neither used nor lost.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        Ok(self.read_whole(name)?.map(|(value, _)| value))
    }

    /// The same, and what the file is known by.
    pub(crate) fn read_whole<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<(T, Whole)>, StoreError> {
        let path = self.path(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("reading", &path)(error)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some((value, Whole::of(&bytes)))),
            Err(source) => {
                let aside = path.with_extension("json.corrupt");
                fs::rename(&path, &aside).map_err(io_error("moving aside", &path))?;
                Err(StoreError::Corrupt {
                    path: path.display().to_string(),
                    aside: aside.display().to_string(),
                    source,
                })
            }
        }
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Removes a file; none is as good as removed.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("removing", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what writes that were cut off have left in a directory of the
    /// state.
    pub(crate) fn tidy(&self, dir: &str) -> Result<(), StoreError> {
        let path = self.path(dir);
        for entry in fs::read_dir(&path).map_err(io_error("listing", &path))? {
            let path = entry.map_err(io_error("listing", &path))?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(&path).map_err(io_error("removing", &path))?;
            }
        }
        Ok(())
    }

    /// The names of the JSON files in a directory of the state, in order.
    pub(crate) fn list(&self, dir: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(io_error("listing", &path))? {
            let entry = entry.map_err(io_error("listing", &path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".json") && !name.starts_with('.') {
                names.push(format!("{dir}/{name}"));
            }
        }
        names.sort();
        Ok(names)
    }
}

pub(crate) use lines::Whole;

/// Directory of the endpoints' files.
pub(crate) const ENDPOINTS: &str = "endpoints";
/// File of the controller's numbers.
pub(crate) const CONTROL: &str = "control.json";
/// File of what has changed of them since it was written.
pub(crate) const CHANGES: &str = "control.changes";
/// File of the numbers of services.
pub(crate) const SERVICES: &str = "services.json";
/// File of what has changed of them since it was written.
pub(crate) const SERVICE_CHANGES: &str = "services.changes";
/// File of the losses told.
pub(crate) const EVENTS: &str = "events.json";
/// File of the addresses given out.
pub(crate) const IPAM: &str = "ipam.json";
/// The node's own number among the endpoints.
pub(crate) const HOST: &str = "host.json";
/// Whether policy of the node itself is only audited.
pub(crate) const HOST_AUDIT: &str = "host-audit.json";

#[cfg(test)]
mod tests {
    use super::{Store, StoreError};

    #[test]
    fn one_agent_holds_a_directory() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("open");
        assert!(matches!(
            Store::open(dir.path()),
            Err(StoreError::Held { .. })
        ));
        drop(store);
        Store::open(dir.path()).expect("open again");
    }

    #[test]
    fn files_are_read_as_written_and_corrupt_ones_kept_aside() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("open");
        store.write("endpoints/1.json", &vec![1, 2]).expect("write");
        assert_eq!(
            store.read::<Vec<u8>>("endpoints/1.json").expect("read"),
            Some(vec![1, 2])
        );
        assert_eq!(store.list("endpoints").expect("list"), ["endpoints/1.json"]);
        std::fs::write(dir.path().join("endpoints/1.json"), "[1,").expect("write");
        assert!(matches!(
            store.read::<Vec<u8>>("endpoints/1.json"),
            Err(StoreError::Corrupt { .. })
        ));
        assert_eq!(
            store.read::<Vec<u8>>("endpoints/1.json").expect("gone"),
            None
        );
        assert!(dir.path().join("endpoints/1.json.corrupt").exists());
        assert!(store.list("endpoints").expect("list").is_empty());
        store
            .remove("endpoints/1.json")
            .expect("absent is no error");
    }
}
