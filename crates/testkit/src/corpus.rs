//! The fuzzer's corpus, replayed by ordinary tests.

use std::fs;
use std::path::PathBuf;

fn folder(target: &str) -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");
    PathBuf::from(root).join(target)
}

/// Runs a fuzz target over every input of its corpus.
///
/// # Panics
/// If there is no corpus; or as the target does, after the input's name was
/// printed.
pub fn replay(target: &str, run: fn(&[u8])) {
    let folder = folder(target);
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("corpus {}: {error}", folder.display()));
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    assert!(!files.is_empty(), "corpus {} is empty", folder.display());
    for file in files {
        // Shown only if the target panics.
        println!("input {}", file.display());
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        run(&bytes);
    }
}

/// Adds an input to the corpus of a target.
///
/// # Panics
/// If it cannot be written.
pub fn keep(target: &str, name: &str, bytes: &[u8]) {
    let folder = folder(target);
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join(name), bytes))
        .unwrap_or_else(|error| panic!("corpus {}: {error}", folder.display()));
}
