//! The stubs on devices: tcx links, pinned, or filters of a clsact qdisc
//! where the kernel has no tcx.
//!
//! ```text
//!  new device ── filters, at once ──> later, when nobody waits: links, and no filters
//! ```
//!
//! To attach a link takes the kernel tens of milliseconds, during which no
//! other device can be made: a node that starts a hundred pods has no time for
//! that. For the moment in which a device has both, a packet that the link
//! lets through meets the same verdict twice; should the agent die in it, the
//! next one takes the filter away.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use axon_abi::Hook;
use nix::libc;

use super::clsact;
use super::pins::remove_pin;
use super::{Adoption, DatapathError, path_error};
use crate::link::LinkError;
use crate::sys::{Link, TcxHook};

/// Directory of the link pins under the bpffs root.
pub(super) const LINKS: &str = "links";

/// How stubs hang on devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// By tcx where the kernel has it, else by clsact.
    #[default]
    Auto,
    /// By tcx links (since Linux 6.6).
    Tcx,
    /// By filters of a clsact qdisc.
    Clsact,
}

/// Hooks of endpoints' host-side devices.
pub(super) const ENDPOINT_HOOKS: [Hook; 2] = [Hook::FromEndpoint, Hook::ToEndpoint];
/// Hooks of uplinks.
pub(super) const UPLINK_HOOKS: [Hook; 2] = [Hook::FromNetdev, Hook::ToNetdev];

/// Where on its device a hook is.
pub(super) fn side(hook: Hook) -> TcxHook {
    match hook {
        Hook::FromEndpoint | Hook::FromNetdev => TcxHook::Ingress,
        Hook::ToEndpoint | Hook::ToNetdev => TcxHook::Egress,
    }
}

/// Where a stub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StubPlace {
    /// Its device.
    pub ifindex: u32,
    /// Its hook.
    pub hook: Hook,
    /// The id of its link; `None` where a filter of clsact is what is there.
    pub(crate) link: Option<u32>,
}

/// The stubs that are on devices.
#[derive(Debug)]
pub(super) struct Stubs {
    dir: PathBuf,
    clsact: bool,
    /// `None` where a filter of clsact is what is there: for good, or for now.
    attached: BTreeMap<(u32, Hook), Option<Link>>,
    /// Links whose filter an agent that died between the two has left.
    doubled: Vec<(u32, Hook)>,
    /// Filters that the kernel would not have as links.
    refused: BTreeSet<(u32, Hook)>,
    /// Why the last link that became a filter could have no pin, until it is told.
    unpinned: Option<DatapathError>,
}

fn pin_name(ifindex: u32, hook: Hook) -> String {
    format!("{ifindex}-{}", hook.program())
}

/// The device and hook of a pin.
pub(super) fn parse_pin(name: &str) -> Option<(u32, Hook)> {
    let (ifindex, program) = name.split_once('-')?;
    let hook = Hook::ALL
        .into_iter()
        .find(|hook| hook.program() == program)?;
    Some((ifindex.parse().ok()?, hook))
}

/// The name of a device; none if there is no such device.
fn name_of(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    // `nix` 0.31 takes the C library's null for success.
    name.into_string().ok().filter(|name| !name.is_empty())
}

/// Whether there is such a device.
pub(super) fn exists(ifindex: u32) -> bool {
    name_of(ifindex).is_some()
}

/// The name of a device, for errors.
pub(super) fn device_name(ifindex: u32) -> String {
    name_of(ifindex).unwrap_or_else(|| format!("with index {ifindex}"))
}

fn failed(ifindex: u32, hook: Hook) -> impl FnOnce(io::Error) -> DatapathError {
    move |source| DatapathError::Attach {
        hook,
        device: device_name(ifindex),
        source,
    }
}

impl Stubs {
    /// Opens the pinned links; those whose device is gone are unpinned, and
    /// counted in `adoption`. What is no link of ours is told there and left
    /// alone. Filters are looked for on the namespace's devices.
    pub(super) fn adopt(
        root: &Path,
        clsact: bool,
        adoption: &mut Adoption,
    ) -> Result<Self, DatapathError> {
        let dir = root.join(LINKS);
        fs::create_dir_all(&dir).map_err(path_error("making", &dir))?;
        let mut attached = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(path_error("reading", &dir))? {
            let entry = entry.map_err(path_error("reading", &dir))?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let key = parse_pin(&name);
            let (Some((ifindex, hook)), Ok(link)) = (key, Link::open(&path)) else {
                adoption.foreign.push(format!("{LINKS}/{name}"));
                continue;
            };
            let info = link
                .info()
                .map_err(path_error("asking about the link", &path))?;
            if info.ifindex == ifindex {
                attached.insert((ifindex, hook), Some(link));
            } else {
                remove_pin(&path)?;
                adoption.stale_links += 1;
            }
        }
        let mut doubled = Vec::new();
        for key in clsact::find()? {
            match attached.entry(key) {
                Entry::Occupied(_) => doubled.push(key),
                Entry::Vacant(place) => {
                    place.insert(None);
                }
            }
        }
        Ok(Self {
            dir,
            clsact,
            attached,
            doubled,
            refused: BTreeSet::new(),
            unpinned: None,
        })
    }

    /// How many stubs were adopted.
    pub(super) fn len(&self) -> usize {
        self.attached.len()
    }

    /// How many of them are links, which may be of another namespace.
    pub(super) fn links(&self) -> usize {
        self.attached.values().flatten().count()
    }

    /// Makes every adopted device have the stubs of this process; no packet
    /// sees none. A device keeps the stub that it has if it cannot be renewed,
    /// which is an error.
    pub(super) fn relink<'a>(
        &mut self,
        stub: impl Fn(Hook) -> Result<BorrowedFd<'a>, DatapathError>,
    ) -> Result<(), DatapathError> {
        let keys: Vec<(u32, Hook)> = self.attached.keys().copied().collect();
        for (ifindex, hook) in keys {
            let renewed = match self.attached.get(&(ifindex, hook)) {
                Some(Some(link)) => link.update(stub(hook)?),
                Some(None) => clsact::attach(ifindex, hook, stub(hook)?).map_err(io::Error::other),
                None => continue,
            };
            match renewed {
                Err(source) if self.is_live(ifindex, hook) => {
                    return Err(failed(ifindex, hook)(source));
                }
                // The device went away since; its pin goes too.
                Err(_) => self.forget(ifindex, hook)?,
                Ok(()) => {}
            }
        }
        self.single_out();
        Ok(())
    }

    /// Takes away the filters of devices that have a link too.
    pub(super) fn single_out(&mut self) {
        for (ifindex, hook) in std::mem::take(&mut self.doubled) {
            // It may have gone with its device.
            let _ = clsact::remove_filter(ifindex, hook);
        }
    }

    /// Every stub, with the id of its link if it is one.
    pub(super) fn places(&self) -> Vec<StubPlace> {
        let place = |((ifindex, hook), link): (&(u32, Hook), &Option<Link>)| StubPlace {
            ifindex: *ifindex,
            hook: *hook,
            link: link.as_ref().and_then(|link| Some(link.info().ok()?.id)),
        };
        self.attached.iter().map(place).collect()
    }

    /// Whether a stub still sees packets.
    fn is_live(&self, ifindex: u32, hook: Hook) -> bool {
        match self.attached.get(&(ifindex, hook)) {
            // A link of a device that is gone reports no index: the index was given out anew.
            Some(Some(link)) => link.info().is_ok_and(|info| info.ifindex == ifindex),
            Some(None) => exists(ifindex),
            None => false,
        }
    }

    /// Whether any of these stubs still sees packets.
    pub(super) fn is_any_live(&self, ifindex: u32, hooks: &[Hook]) -> bool {
        hooks.iter().any(|hook| self.is_live(ifindex, *hook))
    }

    /// Puts a stub on a device, or renews the one that is there.
    pub(super) fn attach(
        &mut self,
        ifindex: u32,
        hook: Hook,
        stub: BorrowedFd<'_>,
    ) -> Result<(), DatapathError> {
        if let Some(Some(link)) = self.attached.get(&(ifindex, hook)) {
            if self.is_live(ifindex, hook) {
                let renewed = link.update(stub);
                if renewed.is_ok() || self.is_live(ifindex, hook) {
                    return renewed.map_err(failed(ifindex, hook));
                }
            }
            self.forget(ifindex, hook)?;
        }
        if self.clsact {
            clsact::attach(ifindex, hook, stub)
                .map_err(|error| failed(ifindex, hook)(io::Error::other(error)))?;
            self.attached.insert((ifindex, hook), None);
            return Ok(());
        }
        let link = Link::create(stub, ifindex, side(hook)).map_err(failed(ifindex, hook))?;
        let pinned = self.pin(&link, ifindex, hook);
        let before = self.attached.insert((ifindex, hook), Some(link));
        if let Err(error) = pinned {
            self.unpinned = Some(error);
            // If that does not work either the link stays, and a repair tries again.
            return self.fall_back(ifindex, hook, stub);
        }
        if let Some(None) = before {
            // The filter of the device's first moments. It may have gone with its qdisc, which
            // anyone may remove.
            let _ = clsact::remove_filter(ifindex, hook);
        }
        Ok(())
    }

    fn pin(&self, link: &Link, ifindex: u32, hook: Hook) -> Result<(), DatapathError> {
        let path = self.dir.join(pin_name(ifindex, hook));
        // Elsewhere what has the name of a pin is somebody's file.
        match crate::mount::is_bpffs(&self.dir) {
            Ok(true) => remove_pin(&path)?,
            Ok(false) => {
                let error = io::Error::other("it is not on a bpffs");
                return Err(path_error("pinning the link", &path)(error));
            }
            Err(error) => return Err(path_error("pinning the link", &path)(error)),
        }
        link.pin(&path)
            .map_err(path_error("pinning the link", &path))
    }

    /// Makes a stub a filter where its link has no pin and can have none: the
    /// link would go with this process, and everything would pass.
    fn fall_back(
        &mut self,
        ifindex: u32,
        hook: Hook,
        stub: BorrowedFd<'_>,
    ) -> Result<(), DatapathError> {
        clsact::attach(ifindex, hook, stub)
            .map_err(|error| failed(ifindex, hook)(io::Error::other(error)))?;
        if let Some(Some(link)) = self.attached.insert((ifindex, hook), None) {
            // It would else go when this process does: the pin in the bpffs that was unmounted
            // lives as long as anything in there is held.
            let _ = link.detach();
        }
        self.refused.insert((ifindex, hook));
        Ok(())
    }

    /// Why the last link that became a filter could have no pin.
    pub(super) fn take_unpinned(&mut self) -> Option<DatapathError> {
        self.unpinned.take()
    }

    /// Lets filters that could be no links be tried again.
    pub(super) fn forgive(&mut self) {
        self.refused.clear();
    }

    /// Puts stubs on a new device without waiting for the kernel, as filters;
    /// [`Self::unsettled`] tells what is to be made a link when there is time.
    /// Links that are there are renewed.
    pub(super) fn attach_at_once(
        &mut self,
        ifindex: u32,
        stubs: &[(Hook, BorrowedFd<'_>)],
    ) -> Result<(), DatapathError> {
        // What kept others from being links may be over.
        self.refused.clear();
        let mut filters = Vec::new();
        for (hook, stub) in stubs {
            if let Some(Some(_)) = self.attached.get(&(ifindex, *hook)) {
                self.attach(ifindex, *hook, *stub)?;
            } else {
                filters.push((*hook, *stub));
            }
        }
        let Some((first, _)) = filters.first().copied() else {
            return Ok(());
        };
        match clsact::attach_all(ifindex, &filters) {
            Ok(()) => {
                for (hook, _) in filters {
                    self.attached.insert((ifindex, hook), None);
                }
                Ok(())
            }
            Err(LinkError::Occupied { .. }) if !self.clsact => self.link_all(ifindex, &filters),
            Err(error) => Err(failed(ifindex, first)(io::Error::other(error))),
        }
    }

    /// Puts stubs on a device as links, which see packets before every filter,
    /// and takes filters of ours away that are there.
    fn link_all(
        &mut self,
        ifindex: u32,
        stubs: &[(Hook, BorrowedFd<'_>)],
    ) -> Result<(), DatapathError> {
        for (hook, stub) in stubs {
            self.attach(ifindex, *hook, *stub)?;
            if let Some(Some(_)) = self.attached.get(&(ifindex, *hook)) {
                let _ = clsact::remove_filter(ifindex, *hook);
            }
        }
        Ok(())
    }

    /// A device and hook whose filter is to become a link.
    pub(super) fn unsettled(&self) -> Option<(u32, Hook)> {
        if self.clsact {
            return None;
        }
        let waits = |(key, link): &(&(u32, Hook), &Option<Link>)| {
            link.is_none() && !self.refused.contains(*key)
        };
        self.attached.iter().find(waits).map(|(key, _)| *key)
    }

    /// Whether a stub that is a filter is still on its device, as the kernel
    /// says.
    pub(super) fn has_filter(&self, ifindex: u32, hook: Hook) -> Result<bool, DatapathError> {
        clsact::has(ifindex, hook).map_err(|error| failed(ifindex, hook)(io::Error::other(error)))
    }

    /// Forgets a stub that was a filter, and is no more.
    pub(super) fn forget_filter(&mut self, ifindex: u32, hook: Hook) -> Result<(), DatapathError> {
        self.forget(ifindex, hook)
    }

    /// Leaves a filter what it is until another device comes, so that the
    /// others get their turn.
    pub(super) fn refuse(&mut self, ifindex: u32, hook: Hook) {
        self.refused.insert((ifindex, hook));
    }

    /// Forgets the stubs of a device that is gone. One that is not keeps them:
    /// without them everything would pass.
    pub(super) fn forget_device(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        for hook in Hook::ALL {
            let is_link = matches!(self.attached.get(&(ifindex, hook)), Some(Some(_)));
            if self.attached.contains_key(&(ifindex, hook))
                && !(is_link && self.is_live(ifindex, hook))
            {
                self.forget(ifindex, hook)?;
            }
        }
        Ok(())
    }

    /// Puts back what others have taken away: stubs from these endpoints'
    /// devices and uplinks, pins of links. Says how many of each. Where there
    /// is no `place` for pins, or it takes none, links become filters.
    pub(super) fn repair<'a>(
        &mut self,
        place: bool,
        endpoints: &[u32],
        uplinks: &[u32],
        stub: impl Fn(Hook) -> Result<BorrowedFd<'a>, DatapathError>,
    ) -> Result<(usize, usize), DatapathError> {
        let mut refused = None;
        if place {
            let made = fs::create_dir_all(&self.dir).map_err(path_error("making", &self.dir));
            refused = made.err();
        }
        let mut pins = 0;
        for (ifindex, hook) in self.without_pin(place) {
            let Some(Some(link)) = self.attached.get(&(ifindex, hook)) else {
                continue;
            };
            let pinned = place.then(|| self.pin(link, ifindex, hook));
            if matches!(pinned, Some(Ok(()))) {
                pins += 1;
                continue;
            }
            let hung = self.fall_back(ifindex, hook, stub(hook)?);
            refused = refused.or(pinned.and_then(Result::err)).or(hung.err());
        }
        let on = self.seeing()?;
        // One that cannot be put back does not keep the others away.
        let mut stubs = 0;
        for (devices, hooks) in [(endpoints, ENDPOINT_HOOKS), (uplinks, UPLINK_HOOKS)] {
            for ifindex in devices {
                let missing = |hook: &Hook| !on.contains(&(*ifindex, *hook));
                // Asked of each device only once something is amiss.
                for hook in hooks.into_iter().filter(missing) {
                    if !exists(*ifindex) {
                        continue;
                    }
                    match self.attach(*ifindex, hook, stub(hook)?) {
                        Ok(()) => stubs += 1,
                        Err(error) => refused = refused.or(Some(error)),
                    }
                }
            }
        }
        refused.map_or(Ok((stubs, pins)), Err)
    }

    /// Whether each stub is a link that sees packets and has its pin. Of filters
    /// only the kernel's list of them tells: they are not taken for whole.
    pub(super) fn are_whole(&self) -> bool {
        let live = |(ifindex, hook): &(u32, Hook)| self.is_live(*ifindex, *hook);
        self.attached.values().all(Option::is_some)
            && self.attached.keys().all(live)
            && self.without_pin(true).is_empty()
    }

    /// Live links without a pin. What lies in a place that is not for pins is
    /// none, whatever its name.
    fn without_pin(&self, place: bool) -> Vec<(u32, Hook)> {
        let names = || {
            let entries = fs::read_dir(&self.dir).ok()?;
            Some(entries.flatten().map(|entry| entry.file_name()).collect())
        };
        let pinned: BTreeSet<OsString> = place.then(names).flatten().unwrap_or_default();
        let links = self.attached.iter().filter(|(_, link)| link.is_some());
        links
            .map(|(key, _)| *key)
            .filter(|(ifindex, hook)| !pinned.contains(OsStr::new(&pin_name(*ifindex, *hook))))
            .filter(|(ifindex, hook)| self.is_live(*ifindex, *hook))
            .collect()
    }

    /// The stubs that see packets now.
    fn seeing(&self) -> Result<BTreeSet<(u32, Hook)>, DatapathError> {
        let filters: BTreeSet<(u32, Hook)> = if self.attached.values().any(Option::is_none) {
            clsact::find()?.into_iter().collect()
        } else {
            BTreeSet::new()
        };
        let sees = |key: &(u32, Hook), link: &Option<Link>| match link {
            Some(_) => self.is_live(key.0, key.1),
            None => filters.contains(key),
        };
        let seeing = self.attached.iter().filter(|(key, link)| sees(key, link));
        Ok(seeing.map(|(key, _)| *key).collect())
    }

    /// Takes a stub off a device; a device that is gone is no error.
    pub(super) fn detach(&mut self, ifindex: u32, hook: Hook) -> Result<(), DatapathError> {
        match self.attached.get(&(ifindex, hook)) {
            Some(Some(link)) => match link.detach() {
                Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
                    return Err(failed(ifindex, hook)(error));
                }
                _ => {}
            },
            Some(None) => {
                // What cannot be found cannot be detached: the device is gone.
                let _ = clsact::detach(ifindex, hook);
            }
            None => {}
        }
        self.forget(ifindex, hook)
    }

    fn forget(&mut self, ifindex: u32, hook: Hook) -> Result<(), DatapathError> {
        self.attached.remove(&(ifindex, hook));
        self.refused.remove(&(ifindex, hook));
        remove_pin(&self.dir.join(pin_name(ifindex, hook)))
    }

    /// Devices with any of these hooks.
    pub(super) fn devices(&self, hooks: &[Hook]) -> Vec<u32> {
        let mut devices: Vec<u32> = self
            .attached
            .keys()
            .filter(|(_, hook)| hooks.contains(hook))
            .map(|(ifindex, _)| *ifindex)
            .collect();
        devices.dedup();
        devices
    }
}

#[cfg(test)]
mod tests {
    use axon_abi::Hook;

    use super::{parse_pin, pin_name};

    #[test]
    fn pins_name_device_and_hook() {
        for hook in Hook::ALL {
            assert_eq!(parse_pin(&pin_name(17, hook)), Some((17, hook)));
        }
        for other in ["", "17", "17-nothing", "x-from_endpoint"] {
            assert_eq!(parse_pin(other), None, "{other}");
        }
    }
}
