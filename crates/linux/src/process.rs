//! Processes in namespaces and control groups of their own.
//!
//! Everything is prepared before the fork; between fork and exec the child
//! makes system calls only, and allocates nothing.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{self as posix, kill};
use nix::unistd::{Pid, setsid};

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

/// What the child needs, opened and spelt out beforehand.
struct Prepared {
    netns: Option<File>,
    mntns: Option<File>,
    binds: Vec<(CString, CString)>,
    cgroup: Option<File>,
    session: bool,
    dies_with_parent: bool,
}

impl Place {
    fn prepare(&self) -> io::Result<Prepared> {
        let open = |what: &str, path: &Option<PathBuf>, writable: bool| {
            path.as_ref()
                .map(|path| {
                    OpenOptions::new()
                        .read(!writable)
                        .write(writable)
                        .open(path)
                        .map_err(|error| {
                            io::Error::new(
                                error.kind(),
                                format!("{what} {}: {error}", path.display()),
                            )
                        })
                })
                .transpose()
        };
        let c_path = |path: &Path| {
            fs::metadata(path).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("bind mount {}: {error}", path.display()),
                )
            })?;
            CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
        };
        let procs = self.cgroup.as_ref().map(|dir| dir.join("cgroup.procs"));
        Ok(Prepared {
            netns: open("network namespace", &self.netns, false)?,
            mntns: open("mount namespace", &self.mntns, false)?,
            binds: self
                .binds
                .iter()
                .map(|(from, to)| Ok((c_path(from)?, c_path(to)?)))
                .collect::<io::Result<_>>()?,
            cgroup: open("control group", &procs, true)?,
            session: self.session,
            dies_with_parent: self.dies_with_parent,
        })
    }
}

impl Prepared {
    /// Enters the place. Called in the child before exec: system calls only.
    fn enter(&self) -> io::Result<()> {
        if let Some(procs) = &self.cgroup {
            // "0" stands for whoever writes.
            nix::unistd::write(procs, b"0")?;
        }
        if let Some(netns) = &self.netns {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        if let Some(mntns) = &self.mntns {
            setns(mntns.as_fd(), CloneFlags::CLONE_NEWNS)?;
        }
        if !self.binds.is_empty() {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
            mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
        }
        for (from, to) in &self.binds {
            let (from, to) = (from.as_c_str(), to.as_c_str());
            mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        if self.session {
            setsid()?;
        }
        if self.dies_with_parent {
            prctl::set_pdeathsig(posix::Signal::SIGKILL)?;
        }
        Ok(())
    }
}

fn arrange(command: &mut Command, place: &Place) -> io::Result<()> {
    let prepared = place.prepare()?;
    // SAFETY: `enter` makes system calls on what was opened before the fork; it takes no lock and
    // allocates nothing.
    unsafe { command.pre_exec(move || prepared.enter()) };
    Ok(())
}

/// Starts a command in a place; everything is in force before it runs.
///
/// # Errors
/// The place cannot be entered or the command not started; the error names
/// which.
pub fn spawn(mut command: Command, place: &Place) -> io::Result<Child> {
    arrange(&mut command, place)?;
    command.spawn().map_err(|error| named(&command, &error))
}

/// Replaces the calling process by a command in a place; returns only if that
/// fails.
pub fn exec(mut command: Command, place: &Place) -> io::Error {
    match arrange(&mut command, place) {
        Ok(()) => {
            let error = command.exec();
            named(&command, &error)
        }
        Err(error) => error,
    }
}

fn named(command: &Command, error: &io::Error) -> io::Error {
    let program = command.get_program().to_string_lossy();
    io::Error::new(
        error.kind(),
        format!("{program} cannot be started: {error}"),
    )
}

/// Whether a process lives (zombies do not).
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            // The state follows the name, which is in parentheses and may hold anything.
            let (_, rest) = stat.rsplit_once(')')?;
            rest.trim_start().chars().next()
        })
        .is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Sends a signal; a process that is gone is no error.
///
/// # Errors
/// The kernel's answer.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Term => posix::Signal::SIGTERM,
        Signal::Kill => posix::Signal::SIGKILL,
        Signal::Interrupt => posix::Signal::SIGINT,
        Signal::Hangup => posix::Signal::SIGHUP,
    };
    // 0 and beyond would name groups of processes.
    let pid = i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{pid} is no process id"),
            )
        })?;
    match kill(Pid::from_raw(pid), number) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
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
