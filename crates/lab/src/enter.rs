//! Entering the namespaces and the cgroup of a node or a pod.
//!
//! A command is never started inside directly: `axon lab enter` is started,
//! steps inside by itself and then becomes the command. So no code runs
//! between fork and exec, and the command keeps the process id.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

/// Where a process shall live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Network namespace.
    #[arg(long)]
    pub(crate) netns: Option<PathBuf>,
    /// Cgroup.
    #[arg(long)]
    pub(crate) cgroup: Option<PathBuf>,
    /// Host name, seen in a namespace of its own.
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// File that stands for /etc/resolv.conf, in a mount namespace of its own.
    #[arg(long)]
    pub(crate) resolv_conf: Option<PathBuf>,
    /// File that stands for /etc/hosts.
    #[arg(long)]
    pub(crate) hosts: Option<PathBuf>,
}

impl Place {
    /// The command that steps inside and becomes `program`.
    ///
    /// # Errors
    /// Our own executable cannot be named.
    pub(crate) fn command(&self, program: &[OsString]) -> Result<Command> {
        let mut command = Command::new(axon()?);
        command.args(["lab", "enter", "--session"]);
        for (flag, value) in [
            ("--netns", &self.netns),
            ("--cgroup", &self.cgroup),
            ("--resolv-conf", &self.resolv_conf),
            ("--hosts", &self.hosts),
        ] {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        if let Some(name) = &self.hostname {
            command.arg("--hostname").arg(name);
        }
        command.arg("--").args(program);
        Ok(command)
    }

    /// Steps inside.
    fn enter(&self) -> Result<()> {
        if let Some(cgroup) = &self.cgroup {
            join_cgroup(cgroup)?;
        }
        if let Some(netns) = &self.netns {
            join_netns(netns)?;
        }
        if let Some(name) = &self.hostname {
            unshare(CloneFlags::CLONE_NEWUTS).context("unshare(CLONE_NEWUTS)")?;
            nix::unistd::sethostname(name).context("sethostname")?;
        }
        if self.resolv_conf.is_some() || self.hosts.is_some() {
            self.mount_files()?;
        }
        Ok(())
    }

    fn mount_files(&self) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS)")?;
        // Slave, not private: what is unmounted outside (a node's bpffs, another pod's
        // namespace) must go in here too.
        mount_flags("/", MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
        for (file, target) in [
            (&self.resolv_conf, "/etc/resolv.conf"),
            (&self.hosts, "/etc/hosts"),
        ] {
            let Some(file) = file else { continue };
            if !Path::new(target).exists() {
                continue;
            }
            mount(
                Some(file.as_path()),
                target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("mounting {} on {target}", file.display()))?;
        }
        Ok(())
    }
}

/// Arguments of `axon lab enter`.
#[derive(Debug, Args)]
pub struct EnterArgs {
    #[command(flatten)]
    place: Place,
    /// Start a session of its own.
    #[arg(long)]
    session: bool,
    /// The command.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Whether a process that was started by [`Place::command`] has still to become
/// its command. One that has ended has nothing to become.
pub(crate) fn is_on_its_way(pid: u32) -> bool {
    let told = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = told.split(|byte| *byte == 0).skip(1);
    (words.next(), words.next()) == (Some(b"lab"), Some(b"enter"))
}

/// Steps inside and becomes the command; returns only if that fails.
pub(crate) fn run(args: &EnterArgs) -> Result<std::convert::Infallible> {
    if args.session {
        nix::unistd::setsid().context("setsid")?;
    }
    become_command(&args.place, &args.command, &[])
}

/// Steps inside and becomes the command, with these variables added to the
/// environment; returns only if that fails.
pub(crate) fn become_command(
    place: &Place,
    command: &[OsString],
    env: &[(&str, OsString)],
) -> Result<std::convert::Infallible> {
    place.enter()?;
    let (program, args) = command.split_first().context("no command")?;
    let env = env.iter().map(|(name, value)| (name, value));
    let error = Command::new(program).args(args).envs(env).exec();
    Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}

/// Moves this process into a cgroup.
pub(crate) fn join_cgroup(cgroup: &Path) -> Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("entering cgroup {}", cgroup.display()))
}

/// Moves this thread into a network namespace.
pub(crate) fn join_netns(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("entering network namespace {}", path.display()))
}

/// Runs a closure on a thread of its own inside a network namespace.
pub(crate) fn in_netns<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                join_netns(path)?;
                work()
            })
            .join()
            .map_err(|_| anyhow::anyhow!("a thread in {} panicked", path.display()))?
    })
}

/// Changes the flags of a mount.
pub(crate) fn mount_flags(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("changing mount {target}"))
}

/// The search path of commands inside: `axon` itself is always at hand.
pub(crate) fn search_path() -> Result<OsString> {
    let axon = axon()?;
    let mut path = axon
        .parent()
        .unwrap_or(Path::new("/"))
        .as_os_str()
        .to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    Ok(path)
}

/// Our own executable: the lab starts itself in many parts.
pub(crate) fn axon() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot tell our own executable")?;
    // The kernel marks a file that was replaced since; what replaced it has the same name.
    match path
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"))
    {
        Some(replaced) => Ok(replaced.into()),
        None => Ok(path),
    }
}
