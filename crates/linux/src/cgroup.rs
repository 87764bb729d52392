//! Control groups (version 2), found from the mount table.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{self, Signal};

/// How often the end of killed processes is looked for.
const POLL: Duration = Duration::from_millis(5);

/// Where cgroup2 is mounted.
///
/// # Errors
/// `NotFound` if it is not.
pub fn mount_point() -> io::Result<PathBuf> {
    crate::mount::list()?
        .into_iter()
        .find(|mount| mount.fstype == "cgroup2")
        .map(|mount| mount.path)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 filesystem is mounted"))
}

/// Makes a group and its parents.
///
/// # Errors
/// The kernel's answer.
pub fn create(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

/// A file or directory that goes away meanwhile is as good as empty: `ENODEV`
/// is what reading a group says that is being removed.
fn absent_is_default<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => Ok(T::default()),
        result => result,
    }
}

/// The groups right below a group.
fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let read = || {
        let mut dirs = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
        Ok(dirs)
    };
    absent_is_default(read())
}

/// The processes of a group and of all groups below it.
///
/// # Errors
/// The kernel's answer; absent is empty.
pub fn processes(dir: &Path) -> io::Result<Vec<u32>> {
    let own = absent_is_default(fs::read_to_string(dir.join("cgroup.procs")))?;
    let mut pids: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(dir)? {
        pids.extend(processes(&child)?);
    }
    Ok(pids)
}

/// Kills every process of a group and below it, and waits for their end;
/// absent is no error.
///
/// # Errors
/// `TimedOut` if some live on.
pub fn kill(dir: &Path, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        // The kernel's own switch (since 5.14) misses nobody who forks meanwhile.
        let switched = fs::write(dir.join("cgroup.kill"), "1").is_ok();
        // Not by the list of processes: the dying are no longer in it, but still hold the group.
        if !populated(dir)? {
            return Ok(());
        }
        let pids = processes(dir)?;
        if !switched {
            for pid in &pids {
                process::signal(*pid, Signal::Kill)?;
            }
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("processes {pids:?} of {} do not end", dir.display()),
            ));
        }
        thread::sleep(POLL);
    }
}

/// Whether a process lives, or has not quite died, in a group or below it.
fn populated(dir: &Path) -> io::Result<bool> {
    let events = absent_is_default(fs::read_to_string(dir.join("cgroup.events")))?;
    Ok(events.lines().any(|line| line == "populated 1"))
}

/// Removes a group and the groups below it; absent is no error.
///
/// # Errors
/// The kernel's answer, `ResourceBusy` while processes live in it.
pub fn remove(dir: &Path) -> io::Result<()> {
    for child in children(dir)? {
        remove(&child)?;
    }
    absent_is_default(fs::remove_dir(dir))
}

/// Moves a process into a group.
///
/// # Errors
/// The kernel's answer.
pub fn enter(dir: &Path, pid: u32) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), pid.to_string())
}

/// The group of the calling process, as a path below [`mount_point`].
///
/// # Errors
/// `/proc/self/cgroup` cannot be read or tells of no version 2 group.
pub fn current() -> io::Result<PathBuf> {
    fs::read_to_string("/proc/self/cgroup")?
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 group"))
}
