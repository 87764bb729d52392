//! How a source is doing.

use std::path::PathBuf;

use axon_api::manifest::ManifestError;

use crate::copy::CopyError;

/// How a directory source is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceStatus {
    /// Whether a first scan has read everything, and what is not in force of it
    /// has something to stay in its place.
    pub complete: bool,
    /// The manifest files, in order of their paths.
    pub files: Vec<FileStatus>,
    /// Objects in force.
    pub objects: usize,
    /// Directories that cannot be read; what they held stays in force.
    pub directories: Vec<DirectoryError>,
    /// Objects that several files define.
    pub conflicts: Vec<Conflict>,
    /// Policies that are refused; an earlier version stays in force.
    pub refused: Vec<PolicyRefusal>,
    /// Files of which a restart would not find what is in force now.
    pub not_kept: Vec<NotKept>,
    /// Documents of kinds that nobody here uses.
    pub ignored: usize,
}

impl SourceStatus {
    /// Whether there is nothing that somebody should look at.
    pub fn is_ok(&self) -> bool {
        self.complete
            && self.directories.is_empty()
            && self.conflicts.is_empty()
            && self.refused.is_empty()
            && self.not_kept.is_empty()
            && self.files.iter().all(FileStatus::is_ok)
    }
}

/// How a file is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct FileStatus {
    /// Its path.
    pub path: PathBuf,
    /// Objects of it that are in force.
    pub objects: usize,
    /// Why its present content is not in force; its last good content is.
    pub error: Option<FileError>,
    /// Why that is not known, or not of all its policies that are refused.
    /// Tables are not complete meanwhile: what is in the kernel stays.
    pub lost: Option<CopyError>,
}

impl FileStatus {
    fn is_ok(&self) -> bool {
        self.error.is_none() && self.lost.is_none()
    }
}

/// A file whose last good content is not on disk, or still is although the file
/// is gone; or the directory of these contents, if files may be gone of which
/// there still are some in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotKept {
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Why a file's content is not in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(String),
    /// Its writer has not closed it.
    #[error("is still being written: nobody has closed it")]
    Open,
    /// It holds nothing any more.
    #[error("holds no document; remove the file if its objects are to go")]
    Empty,
    /// It is no manifest.
    #[error(transparent)]
    Parse(#[from] ManifestError),
}

/// A directory that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryError {
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// An object that several files define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The kind.
    pub kind: String,
    /// `namespace/name`, or the name.
    pub object: String,
    /// The file whose definition is in force: the first by path.
    pub winner: PathBuf,
    /// The file whose definition is not.
    pub loser: PathBuf,
}

/// A policy that cannot be put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRefusal {
    /// The file.
    pub path: PathBuf,
    /// The kind.
    pub kind: String,
    /// `namespace/name`, or the name.
    pub object: String,
    /// Why, with line and field.
    pub error: ManifestError,
    /// Whether an earlier version of it stays in force.
    pub earlier_in_force: bool,
}
