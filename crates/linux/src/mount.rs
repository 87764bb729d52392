//! Mounts.

use std::io;
use std::path::{Path, PathBuf};

/// A mount, as `/proc/self/mountinfo` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub path: PathBuf,
    /// The filesystem's type.
    pub fstype: String,
}

/// Every mount.
///
/// # Errors
/// `/proc/self/mounts` cannot be read.
pub fn list() -> io::Result<Vec<Mount>> {
    Ok(Vec::new())
}

/// Mounts a bpffs at a directory, which is made if need be; says whether it
/// was not there yet.
///
/// # Errors
/// The kernel's answer.
pub fn ensure_bpffs(_dir: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Whether a bpffs is mounted exactly at a directory.
///
/// # Errors
/// The kernel's answer.
pub fn is_bpffs(_dir: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Unmounts lazily whatever is mounted at a path or below it, deepest first;
/// says how many.
///
/// # Errors
/// The kernel's answer.
pub fn unmount_tree(_path: &Path) -> io::Result<usize> {
    Ok(0)
}
