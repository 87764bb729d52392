//! Last good contents on disk, so that a restart forgets none of them.
//!
//! A copy is a file named by a hash of the manifest's path; its first line is
//! a comment with the path, so that a clash of hashes is seen.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use axon_api::manifest::{self, Document};

use crate::write::write_atomic;

/// Where copies are kept.
#[derive(Debug)]
pub(crate) struct Keep {
    directory: Option<PathBuf>,
}

impl Keep {
    /// Copies in a directory, which is made; none: nothing is kept.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Keeps a manifest's content.
    pub(crate) fn put(&self, path: &Path, content: &[u8]) {
        let Some(directory) = &self.directory else {
            return;
        };
        let mut copy = head(path);
        copy.extend_from_slice(content);
        let name = name(path);
        // An agent that starts again finds most of them as it has left them.
        if fs::read(directory.join(&name)).is_ok_and(|kept| kept == copy) {
            return;
        }
        let written =
            fs::create_dir_all(directory).and_then(|()| write_atomic(directory, &name, &copy));
        if let Err(error) = written {
            tracing::warn!(
                directory = %directory.display(),
                %error,
                "last good content is not kept across a restart"
            );
        }
    }

    /// The documents of a manifest's last good content, if it was kept.
    pub(crate) fn get(&self, path: &Path) -> Option<Vec<Document>> {
        let copy = fs::read(self.directory.as_ref()?.join(name(path))).ok()?;
        let content = copy.strip_prefix(head(path).as_slice())?;
        Some(manifest::parse(content).ok()?.documents)
    }

    /// Forgets a manifest that was removed.
    pub(crate) fn remove(&self, path: &Path) {
        if let Some(directory) = &self.directory {
            forget(&directory.join(name(path)));
        }
    }

    /// Forgets every manifest but these.
    pub(crate) fn retain<'a>(&self, paths: impl Iterator<Item = &'a Path>) {
        let Some(directory) = &self.directory else {
            return;
        };
        let names: BTreeSet<String> = paths.map(name).collect();
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            let known = entry
                .file_name()
                .to_str()
                .is_some_and(|n| names.contains(n));
            if !known {
                forget(&entry.path());
            }
        }
    }
}

fn forget(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a kept content stays");
        }
        _ => {}
    }
}

fn head(path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_encoded_bytes().escape_ascii();
    format!("# {path}\n").into_bytes()
}

/// The name of a path's copy: FNV-1a, which stays the same in every build.
fn name(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}.yaml")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::{Keep, name};

    #[test]
    fn what_is_kept_already_is_not_written_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let (keep, manifest) = (Keep::new(Some(dir.path().into())), Path::new("/m/a.yaml"));
        let copy = dir.path().join(name(manifest));
        let put = |content: &[u8]| {
            keep.put(manifest, content);
            fs::metadata(&copy).expect("kept").ino()
        };
        let first = put(b"a: 1\n");
        assert_eq!(put(b"a: 1\n"), first);
        // Both are there at once, so that the number is another one.
        assert_ne!(put(b"a: 2\n"), first);
        assert!(fs::read(&copy).expect("kept").ends_with(b"\na: 2\n"));
    }
}
