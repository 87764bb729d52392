//! Mounts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// The machine's own bpffs, which only systemd mounts by itself.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";

/// A mount, as `/proc/self/mounts` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub path: PathBuf,
    /// The filesystem's type.
    pub fstype: String,
}

/// Every mount, in the order they were made.
///
/// # Errors
/// `/proc/self/mounts` cannot be read.
pub fn list() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mounts")?))
}

fn parse(mounts: &str) -> Vec<Mount> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = PathBuf::from(unescape(fields.next()?));
            let fstype = fields.next()?.to_owned();
            Some(Mount { path, fstype })
        })
        .collect()
}

/// The kernel writes space, tab, newline and backslash as octal escapes.
fn unescape(field: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(field.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

/// Whether a directory lies on a bpffs.
///
/// # Errors
/// The kernel's answer.
pub fn is_bpffs(dir: &Path) -> io::Result<bool> {
    Ok(statfs(dir).map_err(io::Error::from)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether something is mounted exactly at a directory.
///
/// # Errors
/// `/proc/self/mounts` cannot be read.
pub fn is_mount_point(dir: &Path) -> io::Result<bool> {
    let dir = dir.canonicalize()?;
    Ok(list()?.iter().any(|mount| mount.path == dir))
}

/// Makes a directory lie on a bpffs: it is made if need be, and one is mounted
/// there unless it lies on one already. Says whether one was mounted.
///
/// # Errors
/// The directory holds files of another file system, which a mount would hide;
/// the kernel's answer.
pub fn ensure_bpffs(dir: &Path) -> io::Result<bool> {
    let system = Path::new(SYSTEM_BPFFS);
    if dir.starts_with(system) && !is_bpffs(system)? {
        mount_bpffs(system)?;
    }
    fs::create_dir_all(dir)?;
    if is_bpffs(dir)? {
        return Ok(false);
    }
    if let Some(entry) = fs::read_dir(dir)?.next() {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        return Err(io::Error::new(
            io::ErrorKind::DirectoryNotEmpty,
            format!("it is no bpffs and holds {name:?}, expected a bpffs or an empty directory"),
        ));
    }
    mount_bpffs(dir)?;
    Ok(true)
}

fn mount_bpffs(dir: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), dir, Some("bpf"), flags, Some("mode=0700")).map_err(io::Error::from)
}

/// Unmounts lazily whatever is mounted at a path or below it, the latest
/// first; says how many.
///
/// # Errors
/// The kernel's answer.
pub fn unmount_tree(path: &Path) -> io::Result<usize> {
    let Ok(path) = path.canonicalize() else {
        return Ok(0);
    };
    let mut unmounted = 0;
    for mount in list()?
        .iter()
        .rev()
        .filter(|mount| mount.path.starts_with(&path))
    {
        umount2(&mount.path, MntFlags::MNT_DETACH).map_err(io::Error::from)?;
        unmounted += 1;
    }
    Ok(unmounted)
}

#[cfg(test)]
mod tests {
    use super::{Mount, parse};

    #[test]
    fn mounts_are_read_with_their_escapes() {
        let text = "none /sys/fs/cgroup/unified cgroup2 rw 0 0\nbpf /tmp/a\\040b bpf rw 0 0\nbad\n";
        let mount = |path: &str, fstype: &str| Mount {
            path: path.into(),
            fstype: fstype.into(),
        };
        assert_eq!(
            parse(text),
            [
                mount("/sys/fs/cgroup/unified", "cgroup2"),
                mount("/tmp/a b", "bpf")
            ]
        );
    }
}
