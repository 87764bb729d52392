//! The node as a router: packets of pods that leave by the stack are
//! forwarded only if the kernel is told to.

use std::fs;
use std::io;
use std::path::Path;

const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const IPV6_DEVICES: &str = "/proc/sys/net/ipv6/conf";

/// Has the calling thread's network namespace forward packets of these
/// families; says what had to be switched on.
///
/// A device that learns its routes by router advertisements goes on doing so:
/// a router needs `accept_ra` 2 for that.
///
/// # Errors
/// The kernel's answer, with the file.
pub fn ensure(ipv4: bool, ipv6: bool) -> io::Result<Vec<&'static str>> {
    let mut switched = Vec::new();
    if ipv4 && !is(Path::new(IPV4), "1")? {
        set(Path::new(IPV4), "1")?;
        switched.push("net.ipv4.ip_forward");
    }
    if ipv6 && !is(Path::new(IPV6), "1")? {
        for device in fs::read_dir(IPV6_DEVICES)?.flatten() {
            let accept = device.path().join("accept_ra");
            // A device may have gone meanwhile.
            if is(&accept, "1").unwrap_or(false) {
                let _ = set(&accept, "2");
            }
        }
        set(Path::new(IPV6), "1")?;
        switched.push("net.ipv6.conf.all.forwarding");
    }
    Ok(switched)
}

fn is(path: &Path, value: &str) -> io::Result<bool> {
    let text = fs::read_to_string(path).map_err(|e| named(path, &e))?;
    Ok(text.trim() == value)
}

fn set(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|e| named(path, &e))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
