//! Who holds a bpffs root.
//!
//! The lock is on the root directory itself and ends with the process that
//! holds it; the record beside it, in a map of one entry, says who that is or
//! was.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use axon_abi::{MapKind, MapSpec};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{DatapathError, path_error};
use crate::sys::RawMap;

const RECORD_LEN: usize = 512;

pub(super) const RECORD: MapSpec = MapSpec {
    name: "axon_owner_v1",
    kind: MapKind::Array,
    key_size: 4,
    value_size: RECORD_LEN as u32,
    max_entries: 1,
    sizable: false,
    on_demand: false,
};

/// Who holds a bpffs root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Name of the node.
    pub node: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Process id of the agent.
    pub pid: u32,
    /// What the programs in force were made from (a digest); empty while they
    /// are exchanged.
    #[serde(default)]
    pub programs: String,
}

impl Owner {
    /// The calling process, as the agent of a node.
    pub(super) fn this(node: &str) -> io::Result<Self> {
        Ok(Self {
            node: node.to_owned(),
            boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
                .trim()
                .to_owned(),
            netns: crate::netns::inode()?,
            pid: std::process::id(),
            programs: String::new(),
        })
    }

    /// Who held the root last, if anybody did.
    pub(crate) fn read(root: &Path) -> Option<Self> {
        let map = RawMap::open(&root.join(RECORD.name), true).ok()?;
        let mut bytes = vec![0; map.value_len()];
        map.lookup(&0_u32.to_ne_bytes(), &mut bytes).ok()?;
        let text = bytes.split(|byte| *byte == 0).next()?;
        serde_json::from_slice(text).ok()
    }

    /// Writes the record.
    pub(super) fn write(&self, root: &Path) -> io::Result<()> {
        let path = root.join(RECORD.name);
        let map = match RawMap::open(&path, false) {
            Ok(map) if map.value_len() == RECORD_LEN => map,
            other => {
                if other.is_ok() {
                    std::fs::remove_file(&path)?;
                }
                let map = RawMap::create(&RECORD, 1)?;
                map.pin(&path)?;
                map
            }
        };
        let mut bytes = serde_json::to_vec(self)?;
        if bytes.len() >= RECORD_LEN {
            return Err(io::Error::other(format!(
                "node name {:?} is too long",
                self.node
            )));
        }
        bytes.resize(RECORD_LEN, 0);
        map.update(&0_u32.to_ne_bytes(), &bytes, 0)
    }
}

/// Whether a lock is on the root as it is now: another file system may have
/// been mounted there, or nothing.
pub(super) fn is_held(root: &Path, lock: &File) -> bool {
    let id = |metadata: io::Result<Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    let held = id(lock.metadata());
    held.is_some() && held == id(std::fs::metadata(root))
}

/// Takes the root, or says who holds it.
pub(super) fn lock(root: &Path) -> Result<Flock<File>, DatapathError> {
    let dir = File::open(root).map_err(path_error("opening", root))?;
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            DatapathError::Held {
                root: root.display().to_string(),
                owner: Owner::read(root).unwrap_or_default(),
            }
        } else {
            path_error("locking", root)(errno.into())
        }
    })
}
