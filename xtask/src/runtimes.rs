//! `runtimes`: container runtimes for tests, in the cache and not installed.

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::cache;

/// What tests of the CNI plugin drive, with what it needs: about 50 MB.
const PACKAGES: &[&str] = &[
    "containerd",
    "runc",
    "podman",
    "containernetworking-plugins",
    "busybox-static",
    "iptables",
];
/// Where they are in the cache.
const PLACE: &str = "runtimes";
/// The suite with the newest containerd, whose programs need nothing of the
/// suite they come from.
const NEWEST: &str = "sid";

/// Whether they are there.
pub(crate) fn is_ready() -> bool {
    cache::path(PLACE).exists()
}

/// Fetches what is missing, or all of it; with `all`, the newest containerd
/// too, from another Debian release.
pub(crate) fn install(all: bool, force: bool) -> Result<()> {
    if force || !is_ready() {
        say("fetching containerd, podman and CNI's plugins (50 MB) ...");
        let apt = Apt::of_this_release()?;
        cache::build(&cache::path(PLACE), |into| {
            PACKAGES
                .iter()
                .try_for_each(|package| apt.unpack_with_missing(package, "", into))
        })?;
    }
    let newest = cache::path("containerd-2");
    if all && (force || !newest.exists()) {
        say("fetching the newest containerd (30 MB) ...");
        let apt = Apt::suites(&[NEWEST]).context("lists of Debian's newest release")?;
        cache::build(&newest, |into| apt.unpack(&["containerd"], into))?;
    }
    say("ok");
    Ok(())
}

fn say(state: &str) {
    println!("setup: {:<24} {state}", "container runtimes");
}
