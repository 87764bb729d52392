//! What the documents say of the tree.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::relative;

/// What lies below them is in the tree, not made.
const FOLDERS: [&str; 6] = [
    "crates/",
    "docs/",
    "bench/",
    "xtask/",
    "examples/",
    "deploy/",
];

/// Paths in backquotes, in the root's documents and those of `docs`, that do not exist.
pub(super) fn violations(root: &Path) -> Result<Vec<String>> {
    let mut documents = Vec::new();
    markdown(root, &mut documents)?;
    markdown(&root.join("docs"), &mut documents)?;
    markdown(&root.join("docs/decisions"), &mut documents)?;
    documents.sort();
    let mut found = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document)
            .with_context(|| format!("cannot read {}", document.display()))?;
        for (line, path) in paths(&text) {
            if !root.join(path).exists() {
                let name = relative(&document);
                found.push(format!("{name}:{line}: there is no {path}"));
            }
        }
    }
    Ok(found)
}

fn markdown(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let cannot = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            into.push(path);
        }
    }
    Ok(())
}

/// Paths below [`FOLDERS`] that stand in backquotes, with their lines.
fn paths(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().zip(1..);
    lines.flat_map(|(line, number)| {
        let quoted = line.split('`').skip(1).step_by(2);
        quoted
            .filter(|text| is_path(text))
            .map(move |path| (number, path))
    })
}

/// Words in capitals stand for any name.
fn is_path(text: &str) -> bool {
    let is_pattern = |part: &str| {
        part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase())
            || part.contains(['*', '<', '{', ' '])
    };
    FOLDERS.iter().any(|folder| text.starts_with(folder)) && !text.split('/').any(is_pattern)
}

#[cfg(test)]
mod tests {
    use super::paths;

    #[test]
    fn only_paths_of_the_tree_in_backquotes_are_looked_for() {
        let text = "See `crates/agent` and `docs/a.md`, not crates/no,\n\
             nor `crates/NAME`, `crates/*/src`, `bench/run it` or `fuzz/findings`;\n\
             | `bench/src/main.rs` | `deploy/` |\n";
        let found: Vec<_> = paths(text).collect();
        assert_eq!(
            found,
            [
                (1, "crates/agent"),
                (1, "docs/a.md"),
                (3, "bench/src/main.rs"),
                (3, "deploy/")
            ]
        );
    }
}
