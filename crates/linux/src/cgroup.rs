//! Control groups (version 2), found from the mount table.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where cgroup2 is mounted.
///
/// # Errors
/// `NotFound` if it is not.
pub fn mount_point() -> io::Result<PathBuf> {
    Err(io::ErrorKind::NotFound.into())
}

/// Makes a group and its parents.
///
/// # Errors
/// The kernel's answer.
pub fn create(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)
}

/// The processes of a group and of all groups below it.
///
/// # Errors
/// The kernel's answer; absent is empty.
pub fn processes(_dir: &Path) -> io::Result<Vec<u32>> {
    Ok(Vec::new())
}

/// Kills every process of a group and below it, and waits for their end;
/// absent is no error.
///
/// # Errors
/// `TimedOut` if some live on.
pub fn kill(_dir: &Path, _timeout: Duration) -> io::Result<()> {
    Ok(())
}

/// Removes a group and the groups below it; absent is no error.
///
/// # Errors
/// The kernel's answer, `ResourceBusy` while processes live in it.
pub fn remove(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// The groups that the calling process is in (version 2 hierarchy), as a path
/// below [`mount_point`].
///
/// # Errors
/// `/proc/self/cgroup` cannot be read.
pub fn current() -> io::Result<PathBuf> {
    Err(io::ErrorKind::NotFound.into())
}
