//! Cargo's helpers that checks call, built once into the cache.

use std::path::PathBuf;

use anyhow::Result;

use super::say;
use crate::{cache, cmd};

/// Name and version; the version is part of what keeps continuous integration repeatable.
const TOOLS: &[(&str, &str)] = &[("cargo-deny", "0.20.2")];

/// Whether every tool is there.
pub(super) fn is_ready() -> bool {
    TOOLS.iter().all(|(name, _)| find(name).is_some())
}

/// Where a tool is: the cache's first, for its known version.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let cached = folder().join("bin").join(name);
    if cached.exists() {
        Some(cached)
    } else {
        cmd::which(name)
    }
}

/// Builds what is missing, or all of it.
pub(super) fn install(force: bool) -> Result<()> {
    for (name, version) in TOOLS {
        if !force && find(name).is_some() {
            say(name, "ok");
            continue;
        }
        say(
            name,
            &format!("building {version}, once (some minutes) ..."),
        );
        let mut cargo = cmd::cargo();
        cargo.args([
            "install",
            "--locked",
            "--quiet",
            "--force",
            name,
            "--version",
            version,
        ]);
        cargo
            .arg("--root")
            .arg(folder())
            .arg("--target-dir")
            .arg(cache::path("tools-build"));
        // What is run for a second once a day need not be optimised for an hour.
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
        cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "false");
        cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
        cmd::run(&mut cargo)?;
        cache::remove(&cache::path("tools-build"))?;
    }
    Ok(())
}

fn folder() -> PathBuf {
    cache::path("tools")
}
