//! Taking everything of ours away.

use std::fs;
use std::path::Path;

use axon_abi::MAPS;

use super::owner::lock;
use super::pins::remove_pin;
use super::sockets::SOCKET_LINKS;
use super::stubs::LINKS;
use super::{DatapathError, clsact, path_error};
use crate::link::{self, LinkError, is_host_name};
use crate::sys::Link;

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
/// [`DatapathError::Held`] while an agent lives, [`DatapathError::Path`],
/// [`DatapathError::Link`].
pub fn cleanup(bpf_root: &Path, devices: bool) -> Result<CleanupReport, DatapathError> {
    let mut report = CleanupReport::default();
    if bpf_root.exists() && crate::mount::is_bpffs(bpf_root).unwrap_or(false) {
        let held = lock(bpf_root)?;
        report.links += remove_links(&bpf_root.join(SOCKET_LINKS))?;
        report.links += remove_links(&bpf_root.join(LINKS))?;
        remove_maps(bpf_root, &mut report)?;
        drop(held);
        remove_root(bpf_root, &mut report)?;
    }
    report.links += clsact::detach_all()?;
    report.routes += crate::routes::delete_all()?;
    if devices {
        report.devices += delete_endpoint_devices()?;
    }
    Ok(report)
}

/// Takes the links of a directory of pins off; says how many.
fn remove_links(dir: &Path) -> Result<usize, DatapathError> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(0);
    };
    let mut links = 0;
    for entry in entries {
        let path = entry.map_err(path_error("reading", dir))?.path();
        if let Ok(link) = Link::open(&path) {
            // The device or the cgroup may be gone, and the link with it.
            let _ = link.detach();
        }
        remove_pin(&path)?;
        links += 1;
    }
    fs::remove_dir(dir).map_err(path_error("removing", dir))?;
    Ok(links)
}

/// Removes the maps of this version of the layouts and of others.
fn remove_maps(root: &Path, report: &mut CleanupReport) -> Result<(), DatapathError> {
    for entry in fs::read_dir(root).map_err(path_error("reading", root))? {
        let entry = entry.map_err(path_error("reading", root))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("axon_")) {
            remove_pin(&entry.path())?;
            report.maps += usize::from(MAPS.iter().any(|spec| name == spec.name));
        }
    }
    Ok(())
}

/// Removes the root if nothing of others is in it.
fn remove_root(root: &Path, report: &mut CleanupReport) -> Result<(), DatapathError> {
    let mut others = fs::read_dir(root)
        .map_err(path_error("reading", root))?
        .flatten();
    // Names with dots are the kernel's own files, in every bpffs.
    let empty = !others.any(|entry| !entry.file_name().as_encoded_bytes().contains(&b'.'));
    if !empty || root == Path::new("/sys/fs/bpf") {
        return Ok(());
    }
    if crate::mount::is_mount_point(root).map_err(path_error("looking for", root))? {
        crate::mount::unmount_tree(root).map_err(path_error("unmounting", root))?;
        report.unmounted = true;
    }
    fs::remove_dir(root).map_err(path_error("removing", root))
}

fn delete_endpoint_devices() -> Result<usize, LinkError> {
    let mut deleted = 0;
    for device in crate::device::list()? {
        if device.kind == "veth" && is_host_name(&device.name) {
            link::delete(&device.name)?;
            deleted += 1;
        }
    }
    Ok(deleted)
}
