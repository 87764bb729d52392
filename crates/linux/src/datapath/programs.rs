//! Loading a generation of programs, and switching to it.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use axon_abi::{GENERATIONS, Hook, program_slot};
use aya::programs::{Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};

use super::pins::Pins;
use super::sockets::SocketHook;
use super::{Adoption, DatapathError};
use crate::maps::MapError;
use crate::object::OBJECT;
use crate::probe::Features;
use crate::sys::{RawMap, tag_of_program, wait_for_running_programs};

pub(super) const PROGRAMS: &str = "axon_programs_v1";
pub(super) const GENERATION: &str = "axon_generation_v1";

/// The programs of this process's object, loaded, or in force already.
pub(super) struct Programs {
    ebpf: Ebpf,
    in_force: Option<InForce>,
}

/// Programs that an agent before this one has put in force.
#[derive(Clone, Copy)]
pub(super) struct InForce {
    generation: u32,
    /// Of `from_endpoint`, see [`Programs::tag`].
    tag: u64,
}

/// The programs in force; none if one is missing.
pub(super) fn in_force(pins: &Pins) -> Option<InForce> {
    let (programs, generation) = (map(pins, PROGRAMS).ok()?, map(pins, GENERATION).ok()?);
    let mut bytes = [0; 4];
    generation.lookup(&[0; 4], &mut bytes).ok()?;
    let generation = u32::from_ne_bytes(bytes) % GENERATIONS;
    let mut tag = None;
    for hook in Hook::ALL {
        let slot = program_slot(generation, hook).to_ne_bytes();
        if !programs.lookup(&slot, &mut bytes).ok()? {
            return None;
        }
        if hook == Hook::FromEndpoint {
            tag = tag_of_program(u32::from_ne_bytes(bytes)).ok();
        }
    }
    tag.map(|tag| InForce { generation, tag })
}

/// What is put into the object before it is loaded: what this kernel has, and
/// what an agent is told for its life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Constants {
    features: Vec<(&'static str, u32)>,
    host_netns_cookie: u64,
    socket_host_only: u32,
}

impl Constants {
    pub(super) fn new(features: &Features, host_only: bool) -> Self {
        Self {
            features: features.constants().to_vec(),
            // Before 5.14 it is not told; programs then take the kernel's first namespace for it.
            host_netns_cookie: crate::netns::cookie().unwrap_or(0),
            socket_host_only: u32::from(host_only),
        }
    }

    fn put_into<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for (name, value) in &self.features {
            loader.override_global(name, value, false);
        }
        loader.override_global("HOST_NETNS_COOKIE", &self.host_netns_cookie, false);
        loader.override_global("SOCKET_HOST_ONLY", &self.socket_host_only, false);
    }
}

/// What programs are made from: the object, what is put into it for this
/// kernel, and the maps they are loaded onto, by their numbers. Programs of one
/// recipe are the same; numbers are not given out twice before the node boots
/// again, which ends all programs.
pub(super) fn recipe(pins: &Pins, constants: &Constants) -> String {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    constants.hash(&mut hasher);
    for (name, map) in &pins.raw {
        (name, map.info().id).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Name of a hook's stub in the object.
pub(crate) fn stub_name(hook: Hook) -> String {
    format!("stub_{}", hook.program())
}

fn classifier<'a>(ebpf: &'a Ebpf, name: &str) -> Option<&'a SchedClassifier> {
    ebpf.program(name)
        .and_then(|program| program.try_into().ok())
}

/// Has the kernel verify these programs, all at once: one takes as long as
/// all others together, and an agent that starts waits for them.
fn verify_all(ebpf: &mut Ebpf, names: &BTreeSet<String>) -> Result<(), DatapathError> {
    let mut missing = names.clone();
    let loaded: Vec<Result<(), DatapathError>> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (name, program) in ebpf
            .programs_mut()
            .filter(|(name, _)| names.contains(*name))
        {
            missing.remove(name);
            let name = name.to_owned();
            threads.push(scope.spawn(move || verify_one(name, program)));
        }
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    loaded.into_iter().collect::<Result<(), _>>()?;
    missing.into_iter().next().map_or(Ok(()), |program| {
        Err(DatapathError::Program {
            program,
            source: ProgramError::NotLoaded,
        })
    })
}

fn verify_one(name: String, program: &mut Program) -> Result<(), DatapathError> {
    load_one(program).map_err(|source| DatapathError::Program {
        program: name,
        source,
    })
}

/// Loads a program of one of the kinds that the object has.
pub(crate) fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

impl Programs {
    /// Loads every hook's program and stub onto the pinned maps; of programs
    /// that are `in_force`, the stubs alone, for devices to come. Nothing that
    /// is in force changes.
    pub(super) fn load(
        pins: &Pins,
        constants: &Constants,
        in_force: Option<InForce>,
    ) -> Result<Self, DatapathError> {
        let mut loader = EbpfLoader::new();
        // The programs touch no kernel type that moves about.
        loader.btf(None);
        for (name, path) in &pins.paths {
            loader.map_pin_path(name, path.as_path());
        }
        constants.put_into(&mut loader);
        let mut ebpf = loader.load(OBJECT)?;
        let mut names: BTreeSet<String> = Hook::ALL.into_iter().map(stub_name).collect();
        if in_force.is_none() {
            names.extend(Hook::ALL.map(|hook| hook.program().to_owned()));
        }
        verify_all(&mut ebpf, &names)?;
        Ok(Self { ebpf, in_force })
    }

    /// Loads the programs of sockets that are not loaded yet.
    pub(super) fn load_sockets(&mut self, hooks: &[SocketHook]) -> Result<(), DatapathError> {
        let missing = hooks.iter().filter(|hook| self.socket_fd(**hook).is_err());
        let names = missing.map(|hook| hook.program().to_owned()).collect();
        verify_all(&mut self.ebpf, &names)
    }

    /// The descriptor of a socket hook's program.
    pub(super) fn socket_fd(&self, hook: SocketHook) -> Result<BorrowedFd<'_>, DatapathError> {
        let failed = |source| DatapathError::Program {
            program: hook.program().to_owned(),
            source,
        };
        let program = self.ebpf.program(hook.program());
        let program = program.ok_or_else(|| failed(ProgramError::NotLoaded))?;
        program.fd().map(AsFd::as_fd).map_err(failed)
    }

    /// Whether there is nothing to switch to; `adoption` is told.
    pub(super) fn are_in_force(&self, adoption: &mut Adoption) -> bool {
        if let Some(in_force) = self.in_force {
            adoption.resumed = true;
            adoption.generation = in_force.generation;
        }
        self.in_force.is_some()
    }

    /// The program of a hook.
    pub(super) fn program(&self, hook: Hook) -> Option<&SchedClassifier> {
        classifier(&self.ebpf, hook.program())
    }

    /// The stub of a hook.
    pub(super) fn stub(&self, hook: Hook) -> Option<&SchedClassifier> {
        classifier(&self.ebpf, &stub_name(hook))
    }

    /// The tag of `from_endpoint`: the same for the same instructions.
    pub(super) fn tag(&self) -> String {
        let loaded = || {
            self.program(Hook::FromEndpoint)
                .and_then(|program| program.info().ok())
        };
        let tag = match self.in_force {
            Some(in_force) => Some(in_force.tag),
            None => loaded().map(|info| info.tag()),
        };
        tag.map_or_else(String::new, |tag| format!("{tag:016x}"))
    }

    /// The descriptor of a hook's stub.
    pub(super) fn stub_fd(&self, hook: Hook) -> Result<BorrowedFd<'_>, DatapathError> {
        fd(self.stub(hook), || stub_name(hook))
    }

    /// Puts the programs into the slots of the generation that is not in
    /// force, and switches to it by one write. `relink` then moves the devices
    /// to the new stubs; the old programs stay callable until that is done.
    pub(super) fn switch(
        &self,
        pins: &Pins,
        adoption: &mut Adoption,
        relink: impl FnOnce() -> Result<(), DatapathError>,
    ) -> Result<(), DatapathError> {
        let (programs, generation) = (map(pins, PROGRAMS)?, map(pins, GENERATION)?);
        let mut now = [0; 4];
        let failed = |map, call| move |source| MapError::Syscall { map, call, source };
        generation
            .lookup(&[0; 4], &mut now)
            .map_err(failed(GENERATION, "lookup"))?;
        let old = u32::from_ne_bytes(now) % GENERATIONS;
        let new = (old + 1) % GENERATIONS;
        for hook in Hook::ALL {
            let program = fd(self.program(hook), || hook.program().to_owned())?;
            let slot = program_slot(new, hook).to_ne_bytes();
            programs
                .update(&slot, &program.as_raw_fd().to_ne_bytes(), 0)
                .map_err(failed(PROGRAMS, "update"))?;
        }
        generation
            .update(&[0; 4], &new.to_ne_bytes(), 0)
            .map_err(failed(GENERATION, "update"))?;
        adoption.generation = new;
        relink()?;
        // A stub that has read the old number may not have called its program yet.
        wait_for_running_programs();
        for hook in Hook::ALL {
            let slot = program_slot(old, hook).to_ne_bytes();
            programs.delete(&slot).map_err(failed(PROGRAMS, "delete"))?;
        }
        Ok(())
    }
}

fn map<'a>(pins: &'a Pins, name: &'static str) -> Result<&'a RawMap, MapError> {
    pins.raw
        .get(name)
        .map(AsRef::as_ref)
        .ok_or_else(|| MapError::Absent {
            map: name,
            path: String::new(),
        })
}

fn fd(
    program: Option<&SchedClassifier>,
    name: impl Fn() -> String,
) -> Result<BorrowedFd<'_>, DatapathError> {
    let failed = |source| DatapathError::Program {
        program: name(),
        source,
    };
    let program = program.ok_or_else(|| failed(ProgramError::NotLoaded))?;
    program.fd().map(AsFd::as_fd).map_err(failed)
}
