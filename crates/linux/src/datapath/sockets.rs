//! The programs of sockets: links to the node's cgroup, pinned.
//!
//! ```text
//!  a process of the node or of a pod ── connect, sendmsg, … ──> cgroup ── link ──> program
//!  next agent: the same links, each with its new program from one call to the next
//! ```
//!
//! Programs of others at the same cgroup, above and below it stay; each sees
//! what the one before has made of the address.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use super::pins::remove_pin;
use super::{Adoption, DatapathError, path_error};
use crate::sys::{Link, ProgramKind, cgroup_programs, name_of_program};

/// Directory of the pins under the bpffs root.
pub(super) const SOCKET_LINKS: &str = "sockets";

/// Which sockets' addresses are translated, and where they are met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SocketMode {
    /// None: only packets are balanced.
    #[default]
    Off,
    /// Those of every process in a cgroup and below it.
    At {
        /// The cgroup's directory.
        cgroup: PathBuf,
        /// Only those in the node's own network namespace.
        host_only: bool,
        /// Whether ports of services may be bound to on the node.
        bind_protection: bool,
    },
}

/// What a socket does when its program is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketHook {
    /// An IPv4 address is connected to.
    Connect4,
    /// An IPv6 address is connected to.
    Connect6,
    /// A datagram is sent to an IPv4 address.
    Sendmsg4,
    /// A datagram is sent to an IPv6 address.
    Sendmsg6,
    /// The sender of a datagram is told, of IPv4.
    Recvmsg4,
    /// The sender of a datagram is told, of IPv6.
    Recvmsg6,
    /// The peer is told, of IPv4.
    Peername4,
    /// The peer is told, of IPv6.
    Peername6,
    /// An IPv4 address and port were bound to.
    PostBind4,
    /// An IPv6 address and port were bound to.
    PostBind6,
    /// The socket is closed.
    Release,
}

impl SocketHook {
    /// Every hook, in the order in which programs are put there: what leads back
    /// is there before what leads away.
    pub const ALL: [Self; 11] = [
        Self::Release,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Peername4,
        Self::Peername6,
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::PostBind4,
        Self::PostBind6,
    ];

    /// The name of the hook's program in the object file.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Connect4 => "sock4_connect",
            Self::Connect6 => "sock6_connect",
            Self::Sendmsg4 => "sock4_sendmsg",
            Self::Sendmsg6 => "sock6_sendmsg",
            Self::Recvmsg4 => "sock4_recvmsg",
            Self::Recvmsg6 => "sock6_recvmsg",
            Self::Peername4 => "sock4_peername",
            Self::Peername6 => "sock6_peername",
            Self::PostBind4 => "sock4_post_bind",
            Self::PostBind6 => "sock6_post_bind",
            Self::Release => "sock_release",
        }
    }

    pub(crate) const fn kind(self) -> ProgramKind {
        use bpf_attach_type as at;
        use bpf_prog_type as of;
        const SOCKET: u32 = of::BPF_PROG_TYPE_CGROUP_SOCK as u32;
        const ADDRESS: u32 = of::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
        let (kind, attach_type) = match self {
            Self::Connect4 => (ADDRESS, at::BPF_CGROUP_INET4_CONNECT),
            Self::Connect6 => (ADDRESS, at::BPF_CGROUP_INET6_CONNECT),
            Self::Sendmsg4 => (ADDRESS, at::BPF_CGROUP_UDP4_SENDMSG),
            Self::Sendmsg6 => (ADDRESS, at::BPF_CGROUP_UDP6_SENDMSG),
            Self::Recvmsg4 => (ADDRESS, at::BPF_CGROUP_UDP4_RECVMSG),
            Self::Recvmsg6 => (ADDRESS, at::BPF_CGROUP_UDP6_RECVMSG),
            Self::Peername4 => (ADDRESS, at::BPF_CGROUP_INET4_GETPEERNAME),
            Self::Peername6 => (ADDRESS, at::BPF_CGROUP_INET6_GETPEERNAME),
            Self::PostBind4 => (SOCKET, at::BPF_CGROUP_INET4_POST_BIND),
            Self::PostBind6 => (SOCKET, at::BPF_CGROUP_INET6_POST_BIND),
            Self::Release => (SOCKET, at::BPF_CGROUP_INET_SOCK_RELEASE),
        };
        ProgramKind {
            kind,
            attach_type: attach_type as u32,
        }
    }

    fn attach_type(self) -> u32 {
        self.kind().attach_type
    }

    fn of_program(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == name)
    }
}

impl SocketMode {
    /// The hooks that have a program.
    pub(super) fn hooks(&self) -> Vec<SocketHook> {
        let Self::At {
            bind_protection, ..
        } = self
        else {
            return Vec::new();
        };
        let is_bind =
            |hook: &SocketHook| matches!(hook, SocketHook::PostBind4 | SocketHook::PostBind6);
        let hooks = SocketHook::ALL.into_iter();
        hooks
            .filter(|hook| *bind_protection || !is_bind(hook))
            .collect()
    }

    pub(super) fn host_only(&self) -> bool {
        matches!(
            self,
            Self::At {
                host_only: true,
                ..
            }
        )
    }
}

/// A program of another that sockets of the node meet too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherSocketProgram {
    /// The hook.
    pub hook: SocketHook,
    /// Its name; empty if its loader gave none.
    pub name: String,
    /// Its id.
    pub id: u32,
}

/// A cgroup by its directory.
#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
    dir: File,
    /// The kernel's number of it, which is its inode's.
    id: u64,
}

impl Cgroup {
    fn open(path: &Path) -> io::Result<Self> {
        let dir = File::open(path)?;
        let id = dir.metadata()?.ino();
        Ok(Self {
            path: path.to_owned(),
            dir,
            id,
        })
    }
}

/// The links of sockets' programs.
#[derive(Debug)]
pub(super) struct Sockets {
    dir: PathBuf,
    mode: SocketMode,
    cgroup: Option<Cgroup>,
    links: BTreeMap<SocketHook, Link>,
    /// Why sockets are not translated as they should be.
    problem: Option<String>,
}

fn failed(hook: SocketHook, cgroup: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    let cgroup = cgroup.display().to_string();
    move |source| DatapathError::AttachSocket {
        hook,
        cgroup,
        source,
    }
}

impl Sockets {
    /// Opens the pinned links. What is no link of ours is told in `adoption` and
    /// left alone.
    pub(super) fn adopt(
        root: &Path,
        mode: &SocketMode,
        adoption: &mut Adoption,
    ) -> Result<Self, DatapathError> {
        let dir = root.join(SOCKET_LINKS);
        let mut links = BTreeMap::new();
        if dir.exists() {
            for entry in fs::read_dir(&dir).map_err(path_error("reading", &dir))? {
                let entry = entry.map_err(path_error("reading", &dir))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let hook = SocketHook::of_program(&name);
                let (Some(hook), Ok(link)) = (hook, Link::open(&entry.path())) else {
                    adoption.foreign.push(format!("{SOCKET_LINKS}/{name}"));
                    continue;
                };
                links.insert(hook, link);
            }
        }
        let mut problem = None;
        let cgroup = match mode {
            SocketMode::Off => None,
            SocketMode::At { cgroup, .. } => Cgroup::open(cgroup)
                .map_err(|error| problem = Some(format!("cgroup {}: {error}", cgroup.display())))
                .ok(),
        };
        Ok(Self {
            dir,
            mode: mode.clone(),
            cgroup,
            links,
            problem,
        })
    }

    /// Whether every hook has its link at the node's cgroup, and none has one
    /// that shall have none.
    pub(super) fn are_linked(&self) -> bool {
        let wanted: BTreeSet<SocketHook> = self.mode.hooks().into_iter().collect();
        let there: BTreeSet<SocketHook> = self.links.keys().copied().collect();
        wanted == there && wanted.into_iter().all(|hook| self.is_live(hook))
    }

    /// Whether a hook's program sees sockets of the node's cgroup.
    fn is_live(&self, hook: SocketHook) -> bool {
        let (Some(link), Some(cgroup)) = (self.links.get(&hook), &self.cgroup) else {
            return false;
        };
        link.cgroup_info()
            .is_ok_and(|info| info.cgroup == cgroup.id)
    }

    /// Makes every hook have this process's program, and takes those away that
    /// shall not be there. No call of a socket meets none meanwhile. What does not
    /// work is told by [`Self::problem`]; packets are balanced without it.
    ///
    /// Programs that could not be `loaded` leave what is there.
    pub(super) fn put_in_force<'a>(
        &mut self,
        loaded: Result<(), DatapathError>,
        program: impl Fn(SocketHook) -> Result<BorrowedFd<'a>, DatapathError>,
    ) {
        if loaded.is_err() {
            return self.note(loaded);
        }
        let wanted = self.mode.hooks();
        let stale: Vec<SocketHook> = self.links.keys().copied().collect();
        let stale = stale.into_iter().filter(|hook| !wanted.contains(hook));
        for hook in stale.collect::<Vec<_>>() {
            let taken = self.take_off(hook);
            self.note(taken);
        }
        if self.cgroup.is_none() {
            return;
        }
        for hook in wanted {
            let attached = program(hook).and_then(|program| self.attach(hook, program));
            self.note(attached);
        }
    }

    /// Keeps the first thing that did not work.
    fn note(&mut self, result: Result<(), DatapathError>) {
        let Err(error) = result else { return };
        if self.problem.is_none() {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            self.problem = Some(text);
        }
    }

    fn attach(&mut self, hook: SocketHook, program: BorrowedFd<'_>) -> Result<(), DatapathError> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(());
        };
        if self.is_live(hook)
            && let Some(link) = self.links.get(&hook)
        {
            link.update(program).map_err(failed(hook, &cgroup.path))?;
            return self.pin(hook);
        }
        let link = Link::create_at_cgroup(program, cgroup.dir.as_fd(), hook.attach_type())
            .map_err(failed(hook, &cgroup.path))?;
        // The new one is there before the old one goes, which was at another group or at none.
        let pinned = self.take_off(hook);
        self.links.insert(hook, link);
        pinned.and_then(|()| self.pin(hook))
    }

    /// Pins a link that has no pin.
    fn pin(&self, hook: SocketHook) -> Result<(), DatapathError> {
        let path = self.dir.join(hook.program());
        let Some(link) = self.links.get(&hook).filter(|_| !path.exists()) else {
            return Ok(());
        };
        fs::create_dir_all(&self.dir).map_err(path_error("making", &self.dir))?;
        if !crate::mount::is_bpffs(&self.dir).map_err(path_error("asking about", &self.dir))? {
            let error = io::Error::other("it is not on a bpffs");
            return Err(path_error("pinning the link", &path)(error));
        }
        link.pin(&path)
            .map_err(path_error("pinning the link", &path))
    }

    /// Takes a program off and removes its pin.
    fn take_off(&mut self, hook: SocketHook) -> Result<(), DatapathError> {
        if let Some(link) = self.links.remove(&hook) {
            // The group may be gone, and the link with it.
            let _ = link.detach();
        }
        remove_pin(&self.dir.join(hook.program()))
    }

    /// Puts back what others have taken away; says how many pins and links. What
    /// did not work at the start is not tried again.
    pub(super) fn repair<'a>(
        &mut self,
        program: impl Fn(SocketHook) -> Result<BorrowedFd<'a>, DatapathError>,
    ) -> Result<(usize, usize), DatapathError> {
        let (mut pins, mut links) = (0, 0);
        if self.problem.is_some() {
            return Ok((0, 0));
        }
        for hook in self.mode.hooks() {
            if !self.is_live(hook) {
                self.attach(hook, program(hook)?)?;
                links += 1;
            } else if !self.dir.join(hook.program()).exists() {
                self.pin(hook)?;
                pins += 1;
            }
        }
        Ok((pins, links))
    }

    /// Whether there is nothing to put back.
    pub(super) fn are_whole(&self) -> bool {
        let pinned = |hook: &SocketHook| self.dir.join(hook.program()).exists();
        self.problem.is_some() || (self.are_linked() && self.mode.hooks().iter().all(pinned))
    }

    /// How many links there are that see sockets.
    pub(super) fn live(&self) -> usize {
        let hooks = self.mode.hooks().into_iter();
        hooks.filter(|hook| self.is_live(*hook)).count()
    }

    pub(super) fn mode(&self) -> &SocketMode {
        &self.mode
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Programs of others at our hooks, of this cgroup and of those above.
    pub(super) fn others(&self) -> io::Result<Vec<OtherSocketProgram>> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for hook in self.mode.hooks() {
            let own = self.links.get(&hook).and_then(|link| link.info().ok());
            let ids = cgroup_programs(cgroup.dir.as_fd(), hook.attach_type())?;
            let others = ids
                .into_iter()
                .filter(|id| own.map(|own| own.program) != Some(*id));
            found.extend(others.map(|id| OtherSocketProgram {
                hook,
                // It may have gone since.
                name: name_of_program(id).unwrap_or_default(),
                id,
            }));
        }
        Ok(found)
    }
}
