//! Where the observed tables come from.
//!
//! ```text
//! directories of manifests ── walk ──> files ── parse ──> documents ── merge ──> observed tables
//!        └── watcher: something changed                       └── SourceStatus: files, errors,
//!                                                                 refusals, conflicts
//! ```
//!
//! Invariants: a file that does not parse, that is empty, or that its writer
//! has not closed keeps its last good content in force, across restarts too
//! (its objects go when it is removed, or when it has other documents and
//! not those); a directory that cannot be read removes
//! nothing; tables are complete only after a scan that read everything, and
//! not while the content that should stay in force is lost; the same files
//! give the same rows, in whatever order they came.
//!
//! This crate must not know: the kernel, policy decisions, endpoints of this
//! node.
#![forbid(unsafe_code)]

mod copy;
mod directory;
mod files;
mod keep;
mod merge;
mod status;
mod walk;
mod watcher;
mod write;

pub use copy::CopyError;
pub use directory::{Config, DirectorySource, SourceBroken, SourceHandle};
pub use status::{
    Conflict, DirectoryError, FileError, FileStatus, NotKept, PolicyRefusal, SourceStatus,
};
pub use write::{remove_manifest, write_manifest_atomic, write_manifest_durably};
