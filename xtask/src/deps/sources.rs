//! Rules that only the source text shows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::floors::{Place, rule};
use super::graph::Crate;
use super::relative;

const FORBID: &str = "#![forbid(unsafe_code)]";
/// Lines above which a file ought to be cut by state or stage.
const LONG: usize = 600;
/// The highest floor whose crates get time, randomness and environment as arguments.
const PURE_FLOORS: u8 = 3;

/// Roots that do not forbid unsafe code, and pure crates without the lint file that keeps them so.
pub(super) fn violations(member: &Crate) -> Vec<String> {
    let Some(rule) = rule(&member.name) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for root in member.roots.iter().filter(|_| !rule.allows_unsafe) {
        match fs::read_to_string(root) {
            Ok(source) if forbids_unsafe(&source) => {}
            Ok(_) => found.push(format!("{}: must begin with {FORBID}", relative(root))),
            Err(error) => found.push(format!("{}: {error}", relative(root))),
        }
    }
    let lints = member.folder.join("clippy.toml");
    if matches!(rule.place, Place::Floor(floor) if floor <= PURE_FLOORS) && !lints.exists() {
        found.push(format!(
            "{}: missing; floors 0 to {PURE_FLOORS} link to xtask/clippy/pure.toml",
            relative(&lints)
        ));
    }
    found
}

/// Whether the attribute stands in the source, not in a comment.
fn forbids_unsafe(source: &str) -> bool {
    source.lines().any(|line| line.trim() == FORBID)
}

/// A warning for each Rust file that has grown long.
pub(super) fn long_files(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "fuzz", "bench"] {
        rust_files(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut warnings = Vec::new();
    for file in files {
        let source =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if source.lines().count() > LONG {
            let name = relative(&file.canonicalize().unwrap_or(file));
            warnings.push(format!(
                "{name}: {} lines (limit {LONG})",
                source.lines().count()
            ));
        }
    }
    Ok(warnings)
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", folder.display()))?
            .path();
        if path.is_dir() && !path.is_symlink() && !path.ends_with("target") {
            rust_files(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::forbids_unsafe;

    #[test]
    fn the_attribute_counts_only_as_one() {
        assert!(forbids_unsafe(
            "//! Doc.\n#![no_std]\n  #![forbid(unsafe_code)]\n"
        ));
        assert!(!forbids_unsafe(
            "//! Has no #![forbid(unsafe_code)]\n// #![forbid(unsafe_code)]\n"
        ));
        assert!(!forbids_unsafe("#![deny(unsafe_code)]\n"));
    }
}
