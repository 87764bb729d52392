//! The cache outside the repository: toolchains, tools and kernels that are slow to get.
//!
//! ```text
//!  $AXON_CACHE, else $XDG_CACHE_HOME/axoneme, else ~/.cache/axoneme
//!  ├── bpf-toolchain/   rustc, bpf-linker, llvm-*: wrappers at a stable place, and `env`
//!  ├── rustc/VERSION/   Debian's compiler with the source of `core`, unpacked
//!  ├── bpf-linker/KEY/  built once per version and LLVM
//!  ├── tools/bin/       cargo-deny
//!  ├── apt/             package lists and downloads of our own
//!  ├── runtimes/        containerd, podman, CNI's plugins, unpacked; containerd-2/ likewise
//!  └── vm/              QEMU, busybox, kernels
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache's folder, whether it exists or not.
pub(crate) fn root() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("AXON_CACHE") {
        return folder.into();
    }
    let base = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("axoneme")
}

/// A path inside the cache.
pub(crate) fn path(relative: impl AsRef<Path>) -> PathBuf {
    root().join(relative)
}

/// Makes a folder and its parents.
pub(crate) fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Removes a folder with all that is in it; it may be absent.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Builds a folder beside its place and moves it there when it is complete.
///
/// So a folder that exists is whole, whatever interrupted us; nothing else needs checking.
pub(crate) fn build(place: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = beside(place);
    remove(&partial)?;
    folder(&partial)?;
    let filled = fill(&partial).and_then(|()| {
        remove(place)?;
        fs::rename(&partial, place).with_context(|| format!("cannot create {}", place.display()))
    });
    if filled.is_err() {
        remove(&partial)?;
    }
    filled
}

/// Replaces a file at once, so that a reader sees the old or the new one.
pub(crate) fn write(file: &Path, content: &[u8], executable: bool) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let partial = beside(file);
    let mode = if executable { 0o755 } else { 0o644 };
    fs::write(&partial, content)
        .and_then(|()| fs::set_permissions(&partial, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&partial, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// The name under which something is made before it takes its place.
fn beside(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    name.into()
}
