//! `deps`: the architecture's rules that a machine can check.
//!
//! ```text
//!  cargo metadata ──► graph (crates, what they use, what that brings along)
//!                       └──► rules (floors, bans) ──► violations ──► failure
//!  source files  ──► sources (unsafe code, lengths) ──┤
//!  documents     ──► documents (paths that they name) ┘
//! ```

mod documents;
mod floors;
mod graph;
mod rules;
mod sources;

use std::path::Path;

use anyhow::{Result, bail};

use crate::workspace;

/// Checks the workspace and the detached BPF crate; prints warnings, fails on violations.
pub(crate) fn check() -> Result<()> {
    let metadata = workspace::metadata(&workspace::root().join("Cargo.toml"), true)?;
    let mut crates = graph::crates(&metadata);
    for manifest in workspace::detached() {
        // Its external crates belong to another target: what it declares is enough.
        crates.extend(graph::crates(&workspace::metadata(&manifest, false)?));
    }
    let mut violations = rules::violations(&crates);
    for member in &crates {
        violations.extend(sources::violations(member));
    }
    violations.extend(documents::violations(workspace::root())?);
    let warnings = sources::long_files(workspace::root())?;
    warnings
        .iter()
        .for_each(|warning| println!("warning: {warning}"));
    if violations.is_empty() {
        println!("deps: {} crates keep the rules", crates.len());
        return Ok(());
    }
    bail!(
        "{} broken:\n{}",
        count(violations.len()),
        violations.join("\n")
    )
}

fn count(violations: usize) -> String {
    if violations == 1 {
        "one rule".into()
    } else {
        format!("{violations} rules")
    }
}

/// A path as the reader of a message wants it.
fn relative(path: &Path) -> String {
    let root = workspace::root().canonicalize().unwrap_or_default();
    path.strip_prefix(&root)
        .unwrap_or(path)
        .display()
        .to_string()
}
