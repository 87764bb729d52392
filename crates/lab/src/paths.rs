//! Where a lab keeps what: everything follows from its name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Above every lab's run directory.
const RUN: &str = "/run/axon-lab";

/// A lab by its name, and where it keeps things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lab {
    /// Its name.
    pub(crate) name: String,
    /// Its run directory: a tmpfs of its own.
    pub(crate) root: PathBuf,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
}

impl Lab {
    /// The lab of that name, whether it is up or not.
    ///
    /// # Errors
    /// The name does not fit, or no cgroup2 is mounted.
    pub(crate) fn named(name: &str) -> Result<Self> {
        check_name("lab", name, 32)?;
        let cgroup2 = axon_linux::cgroup::mount_point()
            .context("no cgroup2 file system is mounted; mount one at /sys/fs/cgroup")?;
        Ok(Self {
            name: name.to_owned(),
            root: Path::new(RUN).join(name),
            cgroup: cgroup2.join("axon-lab").join(name),
        })
    }

    /// The supervisor's control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("lab.sock")
    }

    /// The supervisor's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    /// The directory that every agent watches.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// Where a file is written before it is renamed to its place.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// The names that the lab's name server knows.
    pub(crate) fn names(&self) -> PathBuf {
        self.root.join("names.json")
    }

    /// The namespace of the bridge between the nodes.
    pub(crate) fn underlay(&self) -> PathBuf {
        self.root.join("netns/underlay")
    }

    /// The namespace of the world outside.
    pub(crate) fn outside(&self) -> PathBuf {
        self.root.join("netns/outside")
    }

    /// Where a node keeps things.
    pub(crate) fn node(&self, name: &str) -> NodePaths {
        NodePaths {
            root: self.root.join("nodes").join(name),
            cgroup: self.cgroup.join(name),
        }
    }

    /// Where a pod keeps things.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> PodPaths {
        PodPaths {
            root: self.root.join("pods").join(namespace).join(name),
        }
    }
}

/// Where a node keeps things.
#[derive(Clone, Debug)]
pub(crate) struct NodePaths {
    /// Its directory.
    pub(crate) root: PathBuf,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
}

impl NodePaths {
    /// Its network namespace.
    pub(crate) fn netns(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// Its bpffs.
    pub(crate) fn bpf(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// Its agent's state.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Its agent's API socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("axon.sock")
    }

    /// Its agent's Hubble socket.
    pub(crate) fn hubble(&self) -> PathBuf {
        self.root.join("hubble.sock")
    }

    /// Its agent's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("agent.log")
    }

    /// Its agent's config directory: one file per option.
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// Its network configuration list, for the CNI plugin.
    pub(crate) fn conflist(&self) -> PathBuf {
        self.root.join("10-axon.conflist")
    }

    /// The cgroup of the node's own processes.
    pub(crate) fn host_cgroup(&self) -> PathBuf {
        self.cgroup.join("host")
    }

    /// The cgroup of a pod of that unique id.
    pub(crate) fn pod_cgroup(&self, uid: &str) -> PathBuf {
        self.cgroup.join("pods").join(uid)
    }
}

/// Where a pod keeps things.
#[derive(Clone, Debug)]
pub(crate) struct PodPaths {
    /// Its directory.
    pub(crate) root: PathBuf,
}

impl PodPaths {
    /// Its network namespace.
    pub(crate) fn netns(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// How its processes are placed, for `axon lab exec`.
    pub(crate) fn place(&self) -> PathBuf {
        self.root.join("place.json")
    }

    /// Its name server.
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.root.join("resolv.conf")
    }

    /// Its own names.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.root.join("hosts")
    }

    /// The log of a container.
    pub(crate) fn log(&self, container: &str) -> PathBuf {
        self.root.join(format!("{container}.log"))
    }
}

/// Refuses a name that would not do as the name of a file, or of anything of
/// Kubernetes.
pub(crate) fn check_name(what: &str, name: &str, max: usize) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edges = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() > max
        || !name.chars().all(fits)
        || !edges(name.chars().next())
        || !edges(name.chars().last())
    {
        bail!(
            "{what} name {name:?} does not fit; expected at most {max} of a-z, 0-9, `-` and `.`, \
             with a letter or digit at both ends"
        );
    }
    Ok(())
}

/// Writes a file in one step, so that nobody reads half of it.
pub(crate) fn write_whole(scratch: &Path, path: &Path, content: &[u8]) -> Result<()> {
    let name = path.file_name().context("no file name")?;
    let draft = scratch.join(name);
    std::fs::write(&draft, content).with_context(|| format!("writing {}", draft.display()))?;
    std::fs::rename(&draft, path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_that_would_escape_are_refused() {
        for name in ["default", "a", "star-wars.2"] {
            assert!(check_name("lab", name, 32).is_ok(), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "-a",
            "a-",
            "A",
            "a b",
            &"x".repeat(33),
        ] {
            assert!(check_name("lab", name, 32).is_err(), "{name}");
        }
    }
}
