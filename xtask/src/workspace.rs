//! What cargo and git know about this repository.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cmd;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The crates with a lock file of their own, outside the workspace, that exist.
pub(crate) fn detached() -> Vec<PathBuf> {
    ["crates/bpf/Cargo.toml", "fuzz/Cargo.toml"]
        .map(|manifest| root().join(manifest))
        .into_iter()
        .filter(|manifest| manifest.exists())
        .collect()
}

/// `cargo metadata` of one manifest; `resolve` adds the graph of external crates.
pub(crate) fn metadata(manifest: &Path, resolve: bool) -> Result<Value> {
    let mut cargo = cmd::cargo();
    cargo
        .args(["metadata", "--format-version=1", "--manifest-path"])
        .arg(manifest);
    if resolve {
        // What only other systems would pull in is not ours to judge.
        cargo.args([
            "--filter-platform",
            &format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
        ]);
    } else {
        cargo.arg("--no-deps");
    }
    let text = cmd::output(&mut cargo)?;
    serde_json::from_str(&text).context("cargo metadata")
}

/// The workspace's `cargo metadata` without external crates.
pub(crate) fn members() -> Result<Value> {
    metadata(&root().join("Cargo.toml"), false)
}

/// The elements of a JSON array; none if it is something else.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// A JSON string; empty if it is something else.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
