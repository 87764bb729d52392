//! The API's socket.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// Root and the group may speak to the agent, nobody else.
const MODE: u32 = 0o660;

/// The file of a socket that somebody listens at; it goes with this value.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Which file it is: another agent may have put its own in its place.
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: inode(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens at a path. A socket that nobody answers at is replaced; the new one
/// appears with its owner and mode already set.
pub(crate) fn bind(path: &Path, group: &str) -> anyhow::Result<(UnixListener, SocketFile)> {
    if UnixStream::connect(path).is_ok() {
        bail!(
            "socket-path {}: another agent answers there",
            path.display()
        );
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making directory {}", dir.display()))?;
    }
    let aside = path.with_extension("sock.new");
    remove(&aside)?;
    let listener = UnixListener::bind(&aside)
        .with_context(|| format!("socket-path {}: listening failed", path.display()))?;
    let gid = group_id(group);
    if gid.is_none() && !group.is_empty() {
        tracing::debug!(
            group,
            "socket-group does not exist: only root may use the API"
        );
    }
    chown(&aside, None, gid).with_context(|| format!("giving {} to {group}", aside.display()))?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(MODE))?;
    fs::rename(&aside, path).with_context(|| format!("socket-path {}", path.display()))?;
    let file = SocketFile::new(path).with_context(|| format!("socket-path {}", path.display()))?;
    Ok((listener, file))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The number of a group of `/etc/group`. Other directories are not asked: a
/// static binary cannot.
fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::bind;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("run/axon.sock");
        let (first, file) = bind(&path, "no-such-group").expect("bind");
        let mode = std::fs::metadata(&path)
            .expect("socket")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(bind(&path, "").is_err(), "somebody listens");
        drop(first);
        assert!(path.exists(), "stale");
        let (second, own) = bind(&path, "").expect("bind again");
        drop(file);
        assert!(path.exists(), "another's file stays");
        drop((second, own));
        assert!(!path.exists(), "one's own goes");
    }
}
