//! Programs, pins and stubs.
//!
//! ```text
//!  device ── stub ──tail call──> axon_programs_v1[generation in force][hook]
//!  open:  lock root → maps (adopt or make) → load beside the old → switch → renew stubs → clear old
//! ```

mod adoption;
mod alone;
mod cleanup;
mod clsact;
mod error;
mod others;
mod owner;
mod pins;
mod programs;
mod sockets;
#[cfg(test)]
mod stub_tests;
mod stubs;
#[cfg(test)]
mod upgrade_tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axon_abi::{Hook, MIGRATIONS, Migration};
use aya::programs::SchedClassifier;
use nix::fcntl::Flock;

pub use adoption::{Adoption, RecreatedMap, Repair};
pub use alone::maps_alone;
pub use cleanup::{CleanupReport, cleanup};
pub use error::DatapathError;
use error::path_error;
pub use others::{Hanging, OtherProgram, Standing, others};
pub use owner::Owner;
use pins::Pins;
use programs::{Constants, Programs};
pub(crate) use programs::{load_one, stub_name};
use sockets::Sockets;
pub use sockets::{OtherSocketProgram, SocketHook, SocketMode};
pub use stubs::{AttachMode, StubPlace};
use stubs::{ENDPOINT_HOOKS, Stubs, UPLINK_HOOKS};

use crate::events::EventReader;
use crate::maps::{MapError, Maps};
use crate::probe::Features;
use crate::sys::RawMap;

/// What the datapath of a node is made from.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Where a bpffs is or is to be mounted; the pins live in it.
    pub bpf_root: PathBuf,
    /// Name of the node that owns the pins.
    pub node: String,
    /// Names of the uplinks.
    pub devices: Vec<String>,
    /// How stubs hang on devices.
    pub attach: AttachMode,
    /// Which sockets are translated.
    pub sockets: SocketMode,
    /// Entries (ring buffer: bytes) of sizable maps, by name as in
    /// [`axon_abi::MAPS`]; those not named keep the size there.
    pub map_sizes: BTreeMap<String, u32>,
    /// How entries of earlier layouts become those of the present ones.
    pub migrations: &'static [Migration],
    /// Whether to load the programs also where the same are in force.
    pub reload: bool,
}

impl Default for DatapathConfig {
    fn default() -> Self {
        Self {
            bpf_root: PathBuf::new(),
            node: String::new(),
            devices: Vec::new(),
            attach: AttachMode::default(),
            sockets: SocketMode::default(),
            map_sizes: BTreeMap::new(),
            migrations: MIGRATIONS,
            reload: false,
        }
    }
}

/// The loaded datapath of a node. Dropping it leaves everything in force.
pub struct Datapath {
    root: PathBuf,
    owner: Owner,
    adoption: Adoption,
    raw: BTreeMap<&'static str, Arc<RawMap>>,
    maps: Maps,
    features: Features,
    programs: Programs,
    stubs: Stubs,
    sockets: Sockets,
    /// On the root, held as long as this lives.
    lock: Flock<File>,
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
    /// adopts the links and attaches the uplinks' stubs. Programs that are in
    /// force and would be loaded again as they are stay: an agent that starts
    /// anew need not wait for the verifier.
    ///
    /// Devices are those of the calling thread's network namespace, here and
    /// in every other method.
    ///
    /// # Errors
    /// [`DatapathError`]; what was in force stays.
    pub fn open(config: &DatapathConfig) -> Result<Self, DatapathError> {
        Self::open_with(config, |_| {})
    }

    /// The same; `fill` may write rows before any packet meets the programs at a
    /// device that has no stubs yet.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn open_with(
        config: &DatapathConfig,
        fill: impl FnOnce(&Maps),
    ) -> Result<Self, DatapathError> {
        let root = config.bpf_root.as_path();
        pins::check_sizes(config)?;
        let uplinks = resolve(&config.devices)?;
        crate::mount::ensure_bpffs(root).map_err(path_error("mounting a bpffs at", root))?;
        let held = owner::lock(root)?;
        let mut this =
            Owner::this(&config.node).map_err(path_error("recording the owner in", root))?;
        let mut adoption = Adoption {
            previous: Owner::read(root),
            ..Adoption::default()
        };
        let features = Features::probe();
        if features.realtime {
            return Err(DatapathError::Realtime {
                kernel: features.kernel.clone(),
            });
        }
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
        let mut stubs = Stubs::adopt(root, clsact, &mut adoption)?;
        refuse_other_namespace(root, &this, &adoption, &stubs)?;
        this.write(root)
            .map_err(path_error("recording the owner in", root))?;
        let mut pins = Pins::open(config, &mut adoption)?;
        let constants = Constants::new(&features, config.sockets.host_only());
        let recipe = programs::recipe(&pins, &constants);
        let before = adoption.previous.as_ref();
        let same = before.is_some_and(|before| before.programs == recipe) && !config.reload;
        let in_force = programs::in_force(&pins).filter(|_| same);
        let mut programs = Programs::load(&pins, &constants, in_force)?;
        let mut sockets = Sockets::adopt(root, &config.sockets, &mut adoption)?;
        pins.carry_over(&mut adoption);
        if programs.are_in_force(&mut adoption) {
            stubs.single_out();
        } else {
            programs.switch(&pins, &mut adoption, || {
                stubs.relink(|hook| programs.stub_fd(hook))
            })?;
        }
        pins.carry_over(&mut adoption);
        pins.settle(&mut adoption)?;
        if !(adoption.resumed && sockets.are_linked()) {
            let loaded = programs.load_sockets(&config.sockets.hooks());
            sockets.put_in_force(loaded, |hook| programs.socket_fd(hook));
        }
        adoption.links = stubs.len();
        adoption.programs = programs.tag();
        this.programs = recipe;
        this.write(root)
            .map_err(path_error("recording the owner in", root))?;
        let maps = pins.maps()?;
        fill(&maps);
        let mut this = Self {
            root: root.to_owned(),
            owner: this,
            adoption,
            raw: pins.raw,
            maps,
            features,
            programs,
            stubs,
            sockets,
            lock: held,
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

    /// Puts the stubs on the host-side device of a new endpoint without
    /// waiting for the kernel; again is no error. [`Datapath::settle`] finishes
    /// it when there is time.
    ///
    /// # Errors
    /// [`DatapathError::Attach`].
    pub fn attach_endpoint_at_once(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let [from, to] = ENDPOINT_HOOKS;
        let stubs = [
            (from, self.programs.stub_fd(from)?),
            (to, self.programs.stub_fd(to)?),
        ];
        self.stubs.attach_at_once(ifindex, &stubs)
    }

    /// Finishes one stub of what [`Datapath::attach_endpoint_at_once`] has
    /// begun, which takes some milliseconds; `false` if nothing is left to do.
    ///
    /// # Errors
    /// [`DatapathError::Attach`]; the stub works as it did, and the others get
    /// their turn.
    pub fn settle(&mut self) -> Result<bool, DatapathError> {
        let Some((ifindex, hook)) = self.stubs.unsettled() else {
            return Ok(false);
        };
        match self.stubs.has_filter(ifindex, hook) {
            Ok(true) => {}
            Ok(false) => {
                // The device has gone, and its index may be another's. If somebody has taken the
                // filter away, a repair puts it back.
                self.stubs.forget_filter(ifindex, hook)?;
                return Ok(true);
            }
            Err(error) => {
                // Else it would be the next one again, and none of the others ever.
                self.stubs.refuse(ifindex, hook);
                return Err(error);
            }
        }
        let stub = self.programs.stub_fd(hook);
        let settled = stub.and_then(|stub| self.stubs.attach(ifindex, hook, stub));
        if settled.is_err() && !stubs::exists(ifindex) {
            // The device went away meanwhile.
            self.stubs.forget_device(ifindex)?;
            return Ok(true);
        }
        if settled.is_err() {
            self.stubs.refuse(ifindex, hook);
        }
        settled.map(|()| true)
    }

    /// Forgets an endpoint's device that is deleted, and removes its pins. One
    /// that is still there keeps its stubs.
    ///
    /// # Errors
    /// [`DatapathError::Path`].
    pub fn forget_endpoint(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.stubs.forget_device(ifindex)
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

    /// Where the stubs are.
    pub fn stubs(&self) -> Vec<StubPlace> {
        self.stubs.places()
    }

    /// Which sockets are to be translated.
    pub fn socket_mode(&self) -> &SocketMode {
        self.sockets.mode()
    }

    /// How many programs of sockets are at the node's cgroup.
    pub fn socket_programs(&self) -> usize {
        self.sockets.live()
    }

    /// Why sockets are not translated as they should be.
    pub fn socket_problem(&self) -> Option<&str> {
        self.sockets.problem()
    }

    /// Programs of others that sockets of the node's cgroup meet too.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn other_socket_programs(&self) -> io::Result<Vec<OtherSocketProgram>> {
        self.sockets.others()
    }

    /// Whether an endpoint's device still carries stubs: a device that goes
    /// leaves its index to another, which has none.
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.stubs.is_any_live(ifindex, &ENDPOINT_HOOKS)
    }

    /// Uplinks, by index, that carry stubs.
    pub fn uplinks(&self) -> Vec<u32> {
        self.stubs.devices(&UPLINK_HOOKS)
    }

    /// Puts back what others have taken away: the bpffs, pins, and stubs from
    /// these endpoints' devices and uplinks. What was not taken away stays in
    /// force meanwhile, as this process holds it open. Where there is no place
    /// for pins, stubs become filters, which outlive this process: they drop
    /// everything once the programs have gone with it. They become links again
    /// when there is a place ([`Datapath::settle`]).
    ///
    /// # Errors
    /// [`DatapathError::Path`], [`DatapathError::Held`], [`DatapathError::Attach`].
    pub fn repair(&mut self, endpoints: &[u32], uplinks: &[u32]) -> Result<Repair, DatapathError> {
        // The stubs whatever became of the place: without them everything would pass.
        let place = self.repair_place();
        let stubs = self
            .stubs
            .repair(place.is_ok(), endpoints, uplinks, |hook| {
                self.programs.stub_fd(hook)
            });
        let unpinned = self.stubs.take_unpinned();
        let mounted = place?;
        let maps = self.repair_maps()?;
        let (stubs, links) = stubs?;
        let (socket_pins, sockets) = self.repair_sockets()?;
        let repair = Repair {
            mounted,
            pins: maps + links + socket_pins,
            stubs,
            sockets,
        };
        if mounted || repair.pins > 0 {
            // What kept links from having pins is over.
            self.stubs.forgive();
            return Ok(repair);
        }
        unpinned.map_or(Ok(repair), Err)
    }

    /// Whether everything that this process made is where it was: what
    /// [`Datapath::repair`] would put back, but for stubs of devices that never
    /// got any. It asks of no device, so it is cheap with hundreds of them.
    pub fn is_whole(&self) -> bool {
        let root = self.root.as_path();
        crate::mount::is_bpffs(root).unwrap_or(false)
            && owner::is_held(root, &self.lock)
            && self.raw.keys().all(|name| root.join(name).exists())
            && self.stubs.are_whole()
            && self.sockets.are_whole()
    }

    /// Says how many pins and links of sockets' programs were missing.
    fn repair_sockets(&mut self) -> Result<(usize, usize), DatapathError> {
        if self.sockets.problem().is_none() && !self.sockets.are_linked() {
            self.programs.load_sockets(&self.sockets.mode().hooks())?;
        }
        self.sockets.repair(|hook| self.programs.socket_fd(hook))
    }

    /// Makes the root a bpffs that this process holds; whether one was mounted.
    fn repair_place(&mut self) -> Result<bool, DatapathError> {
        let root = self.root.as_path();
        let mounted =
            crate::mount::ensure_bpffs(root).map_err(path_error("mounting a bpffs at", root))?;
        if !owner::is_held(root, &self.lock) {
            self.lock = owner::lock(root)?;
            self.owner
                .write(root)
                .map_err(path_error("recording the owner in", root))?;
        }
        Ok(mounted)
    }

    /// Pins the maps that have no pin; says how many.
    fn repair_maps(&self) -> Result<usize, DatapathError> {
        let mut pins = 0;
        for (name, raw) in &self.raw {
            let path = self.root.join(name);
            if !path.exists() {
                raw.pin(&path)
                    .map_err(path_error("pinning the map", &path))?;
                pins += 1;
            }
        }
        Ok(pins)
    }

    /// A reader of the events; there must be only one at a time.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn events(&self) -> Result<EventReader, MapError> {
        EventReader::open(&self.root)
    }

    /// The program of a hook, for `BPF_PROG_TEST_RUN` ([`aya::TestRun`]); none
    /// if it was in force already, see [`DatapathConfig::reload`].
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
