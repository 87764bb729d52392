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
        let written = fs::create_dir_all(directory)
            .and_then(|()| write_atomic(directory, &name(path), &copy));
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
