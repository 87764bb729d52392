//! Switches of devices in the calling thread's network namespace.

use std::fs;
use std::io;

/// Sets a switch of a device; a switch that the kernel does not have, as
/// without IPv6, is no error.
pub(super) fn set(family: &str, device: &str, switch: &str, value: &str) -> io::Result<()> {
    let path = path(family, device, switch);
    if get(family, device, switch).as_deref() == Some(value) {
        return Ok(());
    }
    match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Reads a switch of a device.
pub(super) fn get(family: &str, device: &str, switch: &str) -> Option<String> {
    fs::read_to_string(path(family, device, switch))
        .ok()
        .map(|text| text.trim().to_owned())
}

fn path(family: &str, device: &str, switch: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{device}/{switch}")
}
