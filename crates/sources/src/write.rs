//! Writing manifests so that no reader sees half of one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells half written files of one process from each other.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Writes `dir/name` whole or not at all: a hidden file beside it is renamed
/// onto it. Equal content is left alone. `name` ends in `.yaml`, `.yml` or
/// `.json`.
///
/// # Errors
/// What the file system says; a name that no source would read.
pub fn write_manifest_atomic(dir: &Path, name: &str, yaml: &str) -> io::Result<()> {
    check_name(name)?;
    if fs::read(dir.join(name)).is_ok_and(|old| old == yaml.as_bytes()) {
        return Ok(());
    }
    write_atomic(dir, name, yaml.as_bytes(), |_| Ok(()))
}

/// The same, and waits for the disk: what is written outlives a power cut.
///
/// # Errors
/// What the file system says; a name that no source would read.
pub fn write_manifest_durably(dir: &Path, name: &str, yaml: &str) -> io::Result<()> {
    check_name(name)?;
    write_atomic(dir, name, yaml.as_bytes(), File::sync_data)?;
    sync_directory(dir)
}

/// Removes `dir/name`; none is as good as removed.
///
/// # Errors
/// What the file system says; a name that no source would read.
pub fn remove_manifest(dir: &Path, name: &str) -> io::Result<()> {
    check_name(name)?;
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The same for any name. With [`File::sync_data`] to `settle` it, what a power
/// cut leaves is whole, too: the old or the new. Which of them it is stands once
/// the directory is settled by [`sync_directory`].
pub(crate) fn write_atomic(
    dir: &Path,
    name: &str,
    content: &[u8],
    settle: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let half = dir.join(format!(".{name}.{}.{number}", std::process::id()));
    let write = || {
        let mut file = File::create(&half)?;
        file.write_all(content)?;
        settle(&file)?;
        fs::rename(&half, dir.join(name))
    };
    let written = write();
    if written.is_err() {
        // The error that is told is the one of writing.
        let _ = fs::remove_file(&half);
    }
    written
}

/// Has the names in a directory outlive a power cut.
pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn check_name(name: &str) -> io::Result<()> {
    let ending = [".yaml", ".yml", ".json"].iter().any(|e| name.ends_with(e));
    if ending && !name.starts_with('.') && !name.contains('/') {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{name:?}: expected a plain file name that ends in .yaml, .yml or .json"),
    ))
}
