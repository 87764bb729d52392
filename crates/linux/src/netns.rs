//! Network namespaces.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink::Netlink;

/// Where named namespaces live, as `ip netns` has it.
pub const DIR: &str = "/run/netns";

/// The present namespace of whatever thread looks.
const OWN: &str = "/proc/thread-self/ns/net";

/// Makes a named namespace (as `ip netns add`), with its loopback up.
///
/// # Errors
/// The kernel's answer; `AlreadyExists` if the name is taken.
pub fn create(name: &str) -> io::Result<PathBuf> {
    prepare_dir()?;
    let path = path(name);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let target = path.clone();
    let made = in_new_namespace(move || {
        mount(
            Some(OWN),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(io::Error::from)
    });
    if let Err(error) = made.and_then(|result| result) {
        fs::remove_file(&path)?;
        return Err(error);
    }
    Ok(path)
}

/// As `ip netns` does: the directory is a shared mount of its own, so that
/// names appear in every mount namespace.
fn prepare_dir() -> io::Result<()> {
    let dir = Path::new(DIR);
    fs::create_dir_all(dir)?;
    if crate::mount::is_mount_point(dir)? {
        return Ok(());
    }
    mount(
        Some(dir),
        dir,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )?;
    mount(
        None::<&str>,
        dir,
        None::<&str>,
        MsFlags::MS_SHARED | MsFlags::MS_REC,
        None::<&str>,
    )?;
    Ok(())
}

/// Deletes a named namespace; absent is no error. It lives on while processes
/// or descriptors hold it.
///
/// # Errors
/// The kernel's answer.
pub fn delete(name: &str) -> io::Result<()> {
    let path = path(name);
    if !path.exists() {
        return Ok(());
    }
    // A file that nothing is mounted on is what a crash between two steps leaves.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    fs::remove_file(&path)
}

/// The names of the named namespaces.
///
/// # Errors
/// The directory cannot be read; absent is empty.
pub fn list() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Makes a namespace without a name, with its loopback up; it lives as long as
/// the descriptor or its processes.
///
/// # Errors
/// The kernel's answer.
pub fn create_anonymous() -> io::Result<File> {
    in_new_namespace(|| File::open(OWN))?
}

/// Runs something in a new namespace whose loopback is up.
fn in_new_namespace<R: Send>(run: impl FnOnce() -> R + Send) -> io::Result<R> {
    in_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Netlink::open()
            .and_then(|mut netlink| netlink.set_up_loopback())
            .map_err(io::Error::other)?;
        Ok(run())
    })
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
    inode_of(Path::new(OWN))
}

/// Inode of the namespace at a path.
///
/// # Errors
/// The kernel's answer.
pub fn inode_of(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// What the kernel's programs know the calling thread's namespace by; `None`
/// before Linux 5.14, which does not tell.
pub fn cookie() -> Option<u64> {
    crate::sys::netns_cookie().ok()
}

/// Runs something inside a namespace, in a thread of its own; the calling
/// thread stays where it is.
///
/// # Errors
/// The namespace cannot be entered.
pub fn within<R: Send>(netns: BorrowedFd<'_>, run: impl FnOnce() -> R + Send) -> io::Result<R> {
    in_own_thread(move || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(run())
    })
}

/// As [`within`], by path.
///
/// # Errors
/// The namespace cannot be opened or entered.
pub fn within_path<R: Send>(netns: &Path, run: impl FnOnce() -> R + Send) -> io::Result<R> {
    within(File::open(netns)?.as_fd(), run)
}

fn in_own_thread<R: Send>(run: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
