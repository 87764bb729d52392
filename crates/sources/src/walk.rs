//! Which manifest files there are.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::DirectoryError;

/// Directories within each other.
const DEPTH_MAX: usize = 16;
/// Files of one source.
const FILES_MAX: usize = 50_000;

/// What a walk has found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The files, in order of their paths, each with what the file system
    /// says of it (or why it says nothing).
    pub(crate) files: Vec<(PathBuf, io::Result<Stamp>)>,
    /// Directories that cannot be read: what is known below them stays.
    pub(crate) unreadable: Vec<DirectoryError>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    /// Bytes.
    pub(crate) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether it is a regular file: nothing else is opened, for opening a
    /// pipe waits for its writer.
    pub(crate) regular: bool,
}

impl Stamp {
    /// The state of a file as it is now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            regular: metadata.is_file(),
        }
    }

    /// When it last changed in any way, in nanoseconds since 1970.
    pub(crate) fn changed_ns(&self) -> i128 {
        i128::from(self.changed.0) * 1_000_000_000 + i128::from(self.changed.1)
    }
}

/// Walks the directories. Hidden names are passed over: `..data` of a mounted
/// ConfigMap, half written files of ours and of editors.
pub(crate) fn walk(directories: &[PathBuf]) -> Walk {
    let mut walk = Walk::default();
    for directory in directories {
        walk.directory(directory, &mut Vec::new());
    }
    walk.files.sort_by(|(a, _), (b, _)| a.cmp(b));
    walk.files.dedup_by(|(a, _), (b, _)| a == b);
    walk
}

impl Walk {
    /// `above` holds the directories on the way, to end at a link to one.
    fn directory(&mut self, path: &Path, above: &mut Vec<(u64, u64)>) {
        match self.entries(path, above) {
            Ok(()) => {}
            // One below the roots that is gone is not there: its parent was
            // read. A root that is gone tells nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !above.is_empty() => {}
            Err(error) => self.unreadable.push(DirectoryError {
                path: path.to_owned(),
                reason: error.to_string(),
            }),
        }
    }

    fn entries(&mut self, path: &Path, above: &mut Vec<(u64, u64)>) -> io::Result<()> {
        let metadata = fs::metadata(path)?;
        let id = (metadata.dev(), metadata.ino());
        if above.contains(&id) {
            return Ok(());
        }
        if above.len() >= DEPTH_MAX {
            return Err(io::Error::other(format!(
                "is deeper than {DEPTH_MAX} directories"
            )));
        }
        // Read the listing whole before anything is made of it: half of one
        // would remove the other half.
        let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        above.push(id);
        for entry in entries {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.directory(&path, above),
                metadata if is_manifest(&path) => {
                    if self.files.len() >= FILES_MAX {
                        above.pop();
                        return Err(io::Error::other(format!(
                            "holds more than {FILES_MAX} manifest files"
                        )));
                    }
                    self.files.push((path, metadata.map(|m| Stamp::of(&m))));
                }
                _ => {}
            }
        }
        above.pop();
        Ok(())
    }

    /// Whether a path lies below a directory that could not be read.
    pub(crate) fn is_unknown(&self, path: &Path) -> bool {
        self.unreadable.iter().any(|d| path.starts_with(&d.path))
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}
