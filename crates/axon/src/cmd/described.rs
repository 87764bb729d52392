//! Clusters to ask about: as files describe them, or as this node's agent does.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use axon_api::cluster::ClusterView;
use axon_api::manifest::{self, Object};
use axon_cni::http::Client;
use axon_evaluate::{Described, World};

use crate::failure::Failure;

/// Bytes of one file of manifests.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Kinds that stand for pods which they do not name.
const MAKERS: [&str; 6] = [
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "ReplicaSet",
    "StatefulSet",
];

/// A cluster, and what is in force there.
pub(crate) type Side = (Described, World);

/// Who is described, whatever policy does there.
pub(crate) fn people(mut described: Described) -> Result<Side, Failure> {
    let cannot = |problem: axon_evaluate::Problem| Failure::usage(problem.to_string());
    described.policies.clear();
    let world = described.world(&described.settings()).map_err(cannot)?;
    Ok((described, world))
}

/// Which side files describe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// What is refused there is not in force.
    Current,
    /// What is refused there cannot be applied.
    Proposed,
}

/// What these files and directories say.
pub(crate) fn describe(
    paths: &[PathBuf],
    whose: Whose,
    notes: &mut Vec<String>,
) -> Result<Described, Failure> {
    let mut objects = Vec::new();
    for path in paths {
        for file in files(path)? {
            objects.extend(read(&file, whose, notes)?);
        }
    }
    Described::of(objects).map_err(|problem| Failure::usage(problem.to_string()))
}

/// What this node's agent knows, and has in force.
pub(crate) fn live(client: &Client, notes: &mut Vec<String>) -> Result<Described, Failure> {
    let view: ClusterView = client.get("/v1/cluster")?;
    let (described, left_out) = Described::seen(view);
    notes.extend(
        left_out
            .into_iter()
            .map(|what| format!("the agent: {what}")),
    );
    Ok(described)
}

/// The files that a path means.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let wrong = |e: io::Error| Failure::usage(format!("{}: {e}", path.display()));
    if !fs::metadata(path).map_err(wrong)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        let kind = file.extension().and_then(|e| e.to_str());
        if kind.is_some_and(|kind| ["yaml", "yml", "json"].contains(&kind)) {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

fn read(file: &Path, whose: Whose, notes: &mut Vec<String>) -> Result<Vec<Object>, Failure> {
    let named = |what: String| format!("{}: {what}", file.display());
    let wrong = |what: String| Failure::usage(named(what));
    let opened = File::open(file).map_err(|e| wrong(e.to_string()))?;
    let mut text = Vec::new();
    let mut bounded = opened.take(FILE_BYTES_MAX + 1);
    bounded
        .read_to_end(&mut text)
        .map_err(|e| wrong(e.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    let manifest = manifest::parse(&text).map_err(|e| wrong(e.to_string()))?;
    for refusal in &manifest.refused {
        let what = format!("{} {}: {}", refusal.kind, refusal.key, refusal.error);
        match whose {
            Whose::Proposed => return Err(wrong(what)),
            Whose::Current => notes.push(named(format!("{what}; it is not in force"))),
        }
    }
    let makers = manifest.documents.iter();
    let makers = makers.filter(|document| MAKERS.contains(&document.kind.as_str()));
    let makers = makers.count();
    if makers > 0 && whose == Whose::Current {
        notes.push(named(format!(
            "{makers} Deployments and the like are left out: only Pods count, which `kubectl get \
             pods -o yaml` gives"
        )));
    }
    let objects = manifest.documents.into_iter();
    Ok(objects.filter_map(|document| document.object).collect())
}
