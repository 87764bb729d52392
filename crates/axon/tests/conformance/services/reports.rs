//! What agents tell of objects that are not right, by their status.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axon_api::agent::Status;
use axon_cni::http::Client;

use super::ask::PATIENCE;
use super::case::Report;

/// How each report ends.
const END: &str = "; it is left out";
/// How often agents are asked.
const LOOK: Duration = Duration::from_millis(20);

/// What is wrong with what all agents together report. They report when a state is in
/// force or somewhat later, so they are asked until it is right.
pub(super) fn wrong(agents: &[(String, PathBuf)], expected: &[Report]) -> Vec<String> {
    let expected: BTreeSet<Report> = expected.iter().cloned().collect();
    let end = Instant::now() + PATIENCE;
    loop {
        let told = told(agents);
        match &told {
            Ok(told) if *told == expected => return Vec::new(),
            _ if Instant::now() < end => std::thread::sleep(LOOK),
            Ok(told) => return difference(told, &expected),
            Err(problem) => return vec![problem.clone()],
        }
    }
}

fn difference(told: &BTreeSet<Report>, expected: &BTreeSet<Report>) -> Vec<String> {
    let missing = expected.difference(told);
    let missing = missing.map(|one| format!("not reported: {} {}", one.object, one.field));
    let needless = told.difference(expected);
    let needless =
        needless.map(|one| format!("reported without need: {} {}", one.object, one.field));
    missing.chain(needless).collect()
}

fn told(agents: &[(String, PathBuf)]) -> Result<BTreeSet<Report>, String> {
    let mut all = BTreeSet::new();
    for (node, socket) in agents {
        let status = Client::new(socket, PATIENCE).get::<Status>("/v1/healthz");
        let status = status.map_err(|error| format!("the agent of {node}: {error}"))?;
        let services = status.parts.get("services");
        let services = services.ok_or("an agent tells nothing of services")?;
        all.extend(reports(&services.msg)?);
    }
    Ok(all)
}

/// The reports in what an agent says of its services.
fn reports(text: &str) -> Result<Vec<Report>, String> {
    let mut reports = Vec::new();
    let mut rest = text;
    while let Some((one, after)) = rest.split_once(END) {
        rest = after;
        let mut parts = one.trim_start_matches("; ").splitn(3, ": ");
        match (parts.next(), parts.next(), parts.next()) {
            (Some(object), Some(field), Some(reason)) if !reason.is_empty() => {
                reports.push(Report {
                    object: object.to_owned(),
                    field: field.to_owned(),
                });
            }
            _ => return Err(format!("no object, field and reason: {one:?}")),
        }
    }
    // More than it names is more than any case expects.
    match reports.is_empty() || rest.is_empty() {
        true => Ok(reports),
        false => Err(format!("more than is named: {text:?}")),
    }
}

#[test]
fn reports_are_read_from_a_status() {
    let report = |object: &str, field: &str| Report {
        object: object.to_owned(),
        field: field.to_owned(),
    };
    let one = "Service a/b: spec.ports[0].port: 0 is no port: 1 to 65535; it is left out";
    let two = format!("{one}; EndpointSlice a/c: metadata.labels[d/e]: absent; it is left out");
    let b = report("Service a/b", "spec.ports[0].port");
    let c = report("EndpointSlice a/c", "metadata.labels[d/e]");
    for (text, expected) in [
        ("3 frontends, 2 backends in the maps", Some(vec![])),
        (one, Some(vec![b.clone()])),
        (&two, Some(vec![b.clone(), c.clone()])),
        (&format!("{one}; and 4 more"), None),
        ("Service a/b; it is left out", None),
    ] {
        assert_eq!(reports(text).ok(), expected, "{text}");
    }
    let told = BTreeSet::from([b.clone()]);
    assert!(difference(&told, &told).is_empty());
    assert_eq!(difference(&told, &BTreeSet::from([c])).len(), 2);
}
