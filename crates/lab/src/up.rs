//! Bringing a lab up, and taking it away.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};

use crate::control::{self, Request};
use crate::enter::{Place, axon, mount_flags};
use crate::manifest::{self, Object};
use crate::node::append;
use crate::paths::Lab;
use crate::status::tell;

/// How long a supervisor may take to make the underlay.
const START: Duration = Duration::from_secs(10);

/// Brings a lab up with these objects, or gives them to the one that is up.
/// What a crashed one left is cleared away first.
pub(crate) fn up(lab: &Lab, objects: Vec<Object>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab needs root: it makes network namespaces and loads eBPF programs");
    }
    let turn = alone(lab)?;
    if control::report(lab).is_err() {
        if exists(lab) {
            tell(&format!(
                "lab {}: clearing away what a crashed one left",
                lab.name
            ));
            down(lab)?;
        }
        start(lab)?;
    }
    drop(turn);
    let request = Request::Apply {
        objects,
        prune: false,
    };
    control::ask(lab, &request).map(drop)
}

/// Waits until no other lab is being started: of two that are brought up under
/// one name the second finds that of the first.
fn alone(lab: &Lab) -> Result<Flock<File>> {
    let labs = lab.root.parent().context("a lab is in no directory")?;
    let failed = || labs.display().to_string();
    loop {
        std::fs::create_dir_all(labs).with_context(failed)?;
        let Ok(dir) = File::open(labs) else { continue };
        let held = Flock::lock(dir, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(failed)?;
        // The last lab that goes takes the directory along, perhaps while we waited.
        let id = |metadata: std::io::Result<Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
        if id(held.metadata()) == id(std::fs::metadata(labs)) {
            return Ok(held);
        }
    }
}

/// Reads manifests, and has the agents' own reader judge them.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Object>> {
    let objects = manifest::read(paths)?;
    if objects.is_empty() {
        bail!("there is no object in {}", paths[0].display());
    }
    Ok(objects)
}

/// Whether anything of a lab is there.
pub(crate) fn exists(lab: &Lab) -> bool {
    lab.root.exists() || lab.cgroup.exists()
}

fn start(lab: &Lab) -> Result<()> {
    std::fs::create_dir_all(&lab.root).with_context(|| lab.root.display().to_string())?;
    mount(
        Some("axon-lab"),
        &lab.root,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755"),
    )
    .with_context(|| format!("mounting a tmpfs at {}", lab.root.display()))?;
    // Shared, so that what is unmounted here goes in every pod's mount namespace too.
    mount_flags(&lab.root.to_string_lossy(), MsFlags::MS_SHARED)?;
    for dir in [lab.manifests(), lab.scratch()] {
        std::fs::create_dir_all(dir)?;
    }
    let cgroup = lab.cgroup.join("supervisor");
    axon_linux::cgroup::create(&cgroup).with_context(|| cgroup.display().to_string())?;
    let out = append(&lab.log())?;
    let place = Place {
        cgroup: Some(cgroup),
        ..Place::default()
    };
    let program = [
        axon()?.into(),
        "lab".into(),
        "--name".into(),
        lab.name.clone().into(),
    ];
    let mut child = place
        .command(&[&program[..], &["supervise".into()]].concat())?
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("starting the supervisor")?;
    let end = Instant::now() + START;
    while !lab.socket().exists() {
        if let Some(status) = child.try_wait()? {
            bail!("the supervisor ended: {status}\n{}", tail(&lab.log(), 20));
        }
        if Instant::now() > end {
            bail!("the supervisor does not answer\n{}", tail(&lab.log(), 20));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Takes a lab away, whatever state it is in. What it made is found by its
/// name alone: processes by the cgroup, mounts by the run directory.
pub(crate) fn down(lab: &Lab) -> Result<()> {
    axon_linux::cgroup::kill(&lab.cgroup, Duration::from_secs(20))
        .with_context(|| format!("killing the processes of {}", lab.cgroup.display()))?;
    axon_linux::cgroup::remove(&lab.cgroup)
        .with_context(|| format!("removing {}", lab.cgroup.display()))?;
    axon_linux::mount::unmount_tree(&lab.root)
        .with_context(|| format!("unmounting {}", lab.root.display()))?;
    match std::fs::remove_dir_all(&lab.root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", lab.root.display()));
        }
        _ => {}
    }
    // The last lab takes the common directories with it; others keep them.
    for dir in [lab.root.parent(), lab.cgroup.parent()]
        .into_iter()
        .flatten()
    {
        let _ = std::fs::remove_dir(dir);
    }
    Ok(())
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    let mut out = format!("--- {} ---", path.display());
    for line in &all[from..] {
        out.push_str("\n    ");
        out.push_str(line);
    }
    out
}
