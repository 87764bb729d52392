//! Programs, pins and stubs.
//!
//! ```text
//!  device ── stub ──tail call──> axon_programs_v1[generation in force][hook]
//!  open:  lock root → maps (adopt or make) → load beside the old → switch → renew stubs → clear old
//! ```

mod cleanup;
mod clsact;
mod owner;
mod pins;
mod programs;
mod stubs;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use axon_abi::Hook;
use aya::programs::SchedClassifier;
use nix::fcntl::Flock;

pub use cleanup::{CleanupReport, cleanup};
pub use owner::Owner;
use pins::Pins;
use programs::Programs;
pub(crate) use programs::stub_name;
pub use stubs::AttachMode;
use stubs::{ENDPOINT_HOOKS, Stubs, UPLINK_HOOKS};

use crate::events::EventReader;
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
    /// How stubs hang on devices.
    pub attach: AttachMode,
    /// Entries (ring buffer: bytes) of sizable maps, by name as in
    /// [`axon_abi::MAPS`]; those not named keep the size there.
    pub map_sizes: BTreeMap<String, u32>,
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
    /// Stubs found on devices and kept.
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
    /// The kernel is too old, or built without something.
    #[error("kernel {kernel} has no {feature}, which Linux {since} and later can have")]
    Kernel {
        /// The running kernel.
        kernel: String,
        /// What it lacks.
        feature: &'static str,
        /// The least kernel that has it.
        since: &'static str,
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
    /// The root belongs to an agent of another network namespace.
    #[error(
        "{root} has {links} live links of node {:?} in network namespace {}; run the agent there, or clean up first",
        .owner.node, .owner.netns
    )]
    OtherNamespace {
        /// The bpffs root.
        root: String,
        /// Who held it.
        owner: Owner,
        /// Live links in it.
        links: usize,
    },
    /// A size was configured for what has none.
    #[error("{map} is no map whose size can be configured")]
    NotSizable {
        /// What was named.
        map: String,
    },
    /// A device.
    #[error(transparent)]
    Link(#[from] crate::link::LinkError),
    /// A path could not be used.
    #[error("{what} {path} failed")]
    Path {
        /// What was tried (`mounting a bpffs at`).
        what: &'static str,
        /// The path.
        path: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

fn path_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DatapathError + use<> {
    let path = path.display().to_string();
    move |source| DatapathError::Path { what, path, source }
}

/// The loaded datapath of a node. Dropping it leaves everything in force.
pub struct Datapath {
    root: PathBuf,
    adoption: Adoption,
    maps: Maps,
    features: Features,
    programs: Programs,
    stubs: Stubs,
    /// Held as long as this lives.
    _lock: Flock<File>,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("root", &self.root)
            .field("adoption", &self.adoption)
            .finish_non_exhaustive()
    }
}

impl Datapath {
    /// Mounts the bpffs if need be, takes the root, adopts or makes the maps,
    /// loads a new generation of programs beside the old one, switches to it,
    /// adopts the links and attaches the uplinks' stubs.
    ///
    /// Devices are those of the calling thread's network namespace, here and
    /// in every other method.
    ///
    /// # Errors
    /// [`DatapathError`]; what was in force stays.
    pub fn open(config: &DatapathConfig) -> Result<Self, DatapathError> {
        let root = config.bpf_root.as_path();
        pins::check_sizes(config)?;
        let uplinks = resolve(&config.devices)?;
        crate::mount::ensure_bpffs(root).map_err(path_error("mounting a bpffs at", root))?;
        let held = owner::lock(root)?;
        let this = Owner::this(&config.node).map_err(path_error("recording the owner in", root))?;
        let mut adoption = Adoption {
            previous: Owner::read(root),
            ..Adoption::default()
        };
        let features = Features::probe();
        if let Some(missing) = features.missing().next() {
            return Err(DatapathError::Kernel {
                kernel: features.kernel.clone(),
                feature: missing.name,
                since: missing.since,
            });
        }
        let clsact = match config.attach {
            AttachMode::Auto => !features.has(Features::TCX),
            AttachMode::Tcx => false,
            AttachMode::Clsact => true,
        };
        let (mut stubs, stale) = Stubs::adopt(root, clsact)?;
        refuse_other_namespace(root, &this, &adoption, &stubs)?;
        this.write(root)
            .map_err(path_error("recording the owner in", root))?;
        adoption.stale_links = stale;
        let mut pins = Pins::open(config, &mut adoption)?;
        let programs = Programs::load(&pins, &features)?;
        pins.carry_over(&mut adoption);
        programs.switch(&pins, &mut adoption, || {
            stubs.relink(|hook| programs.stub_fd(hook))
        })?;
        pins.carry_over(&mut adoption);
        pins.settle()?;
        adoption.links = stubs.len();
        let maps = pins.maps()?;
        let root = root.to_owned();
        let mut this = Self {
            root,
            adoption,
            maps,
            features,
            programs,
            stubs,
            _lock: held,
        };
        this.attach_uplinks(&uplinks)?;
        Ok(this)
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

    fn attach(&mut self, ifindex: u32, hooks: [Hook; 2]) -> Result<(), DatapathError> {
        for hook in hooks {
            self.stubs
                .attach(ifindex, hook, self.programs.stub_fd(hook)?)?;
        }
        Ok(())
    }

    /// Puts the stubs on an endpoint's host-side device; again is no error.
    ///
    /// # Errors
    /// [`DatapathError::Attach`].
    pub fn attach_endpoint(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.attach(ifindex, ENDPOINT_HOOKS)
    }

    /// Takes the stubs off an endpoint's device and removes their pins; a
    /// device that is gone is no error.
    ///
    /// # Errors
    /// [`DatapathError::Attach`], [`DatapathError::Path`].
    pub fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        for hook in ENDPOINT_HOOKS {
            self.stubs.detach(ifindex, hook)?;
        }
        Ok(())
    }

    /// Makes the uplinks these: attaches what is new, detaches what is gone.
    ///
    /// # Errors
    /// [`DatapathError::NoDevice`], [`DatapathError::Attach`].
    pub fn set_uplinks(&mut self, devices: &[String]) -> Result<(), DatapathError> {
        let uplinks = resolve(devices)?;
        self.attach_uplinks(&uplinks)
    }

    fn attach_uplinks(&mut self, uplinks: &[u32]) -> Result<(), DatapathError> {
        for ifindex in uplinks {
            self.attach(*ifindex, UPLINK_HOOKS)?;
            self.maps.uplink.insert(ifindex, &1)?;
        }
        for (ifindex, _) in self.maps.uplink.dump()? {
            if !uplinks.contains(&ifindex) {
                self.maps.uplink.remove(&ifindex)?;
            }
        }
        for ifindex in self.stubs.devices(&UPLINK_HOOKS) {
            if !uplinks.contains(&ifindex) {
                for hook in UPLINK_HOOKS {
                    self.stubs.detach(ifindex, hook)?;
                }
            }
        }
        Ok(())
    }

    /// Endpoints' devices, by index, that carry stubs.
    pub fn attached(&self) -> Vec<u32> {
        self.stubs.devices(&ENDPOINT_HOOKS)
    }

    /// Uplinks, by index, that carry stubs.
    pub fn uplinks(&self) -> Vec<u32> {
        self.stubs.devices(&UPLINK_HOOKS)
    }

    /// A reader of the events; there must be only one at a time.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn events(&self) -> Result<EventReader, MapError> {
        EventReader::open(&self.root)
    }

    /// The loaded program of a hook, for `BPF_PROG_TEST_RUN` ([`aya::TestRun`]).
    pub fn program(&self, hook: Hook) -> Option<&SchedClassifier> {
        self.programs.program(hook)
    }

    /// The loaded stub of a hook.
    pub fn stub(&self, hook: Hook) -> Option<&SchedClassifier> {
        self.programs.stub(hook)
    }
}

/// Indexes of devices by name.
fn resolve(devices: &[String]) -> Result<Vec<u32>, DatapathError> {
    devices
        .iter()
        .map(|name| {
            nix::net::if_::if_nametoindex(name.as_str()).map_err(|_| DatapathError::NoDevice {
                device: name.clone(),
            })
        })
        .collect()
}

/// Links name their devices by index, which means another device in another
/// namespace.
fn refuse_other_namespace(
    root: &Path,
    this: &Owner,
    adoption: &Adoption,
    stubs: &Stubs,
) -> Result<(), DatapathError> {
    match &adoption.previous {
        Some(owner) if owner.netns != this.netns && stubs.links() > 0 => {
            Err(DatapathError::OtherNamespace {
                root: root.display().to_string(),
                owner: owner.clone(),
                links: stubs.links(),
            })
        }
        _ => Ok(()),
    }
}
