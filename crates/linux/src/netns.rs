//! Network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Where named namespaces live, as `ip netns` has it.
pub const DIR: &str = "/run/netns";

/// Makes a named namespace (as `ip netns add`), with its loopback up.
///
/// # Errors
/// The kernel's answer; `AlreadyExists` if the name is taken.
pub fn create(_name: &str) -> io::Result<PathBuf> {
    Err(io::Error::other("not made"))
}

/// Deletes a named namespace; absent is no error. It lives on while processes
/// or descriptors hold it.
///
/// # Errors
/// The kernel's answer.
pub fn delete(_name: &str) -> io::Result<()> {
    Ok(())
}

/// Makes a namespace without a name, with its loopback up; it lives as long as
/// the descriptor or its processes.
///
/// # Errors
/// The kernel's answer.
pub fn create_anonymous() -> io::Result<File> {
    Err(io::Error::other("not made"))
}

/// The path of a named namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Inode of the calling thread's namespace.
///
/// # Errors
/// The kernel's answer.
pub fn inode() -> io::Result<u64> {
    inode_of(Path::new("/proc/thread-self/ns/net"))
}

/// Inode of the namespace at a path.
///
/// # Errors
/// The kernel's answer.
pub fn inode_of(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(path)?.ino())
}

/// Runs something inside a namespace, in a thread of its own; the calling
/// thread stays where it is.
///
/// # Errors
/// The namespace cannot be entered.
pub fn within<R: Send>(_netns: BorrowedFd<'_>, _run: impl FnOnce() -> R + Send) -> io::Result<R> {
    Err(io::Error::other("not entered"))
}

/// As [`within`], by path.
///
/// # Errors
/// The namespace cannot be opened or entered.
pub fn within_path<R: Send>(netns: &Path, run: impl FnOnce() -> R + Send) -> io::Result<R> {
    use std::os::fd::AsFd;
    within(File::open(netns)?.as_fd(), run)
}
