//! Parts of the cases, each played in a lab by a process of its own: a process is
//! among those of one node at a time.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::case::{self, Case};
use super::play::{in_a_lab, row};
use super::world::unasked;
use crate::report::{Outcome, Row};

/// Names the file with its share, to a process that is to play one.
const SHARE: &str = "AXON_CONFORMANCE_SHARE";

/// What a process is to play.
#[derive(Debug, Serialize, Deserialize)]
struct Share {
    collection: std::path::PathBuf,
    names: BTreeSet<String>,
}

/// Plays cases of a collection in so many labs, and tells what came of all of them;
/// none if agents do not serve services, or if that takes privileges that are not there.
pub(super) fn play(collection: &Path, cases: &[Case], labs: usize) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    let mut played = Vec::new();
    for case in cases {
        match case.skipped().or_else(|| unasked(case)) {
            Some(reason) => rows.push(row(case, Outcome::Skipped(reason))),
            None => played.push(case),
        }
    }
    played.sort_by_cached_key(|case| (case.lab(), case.name.clone()));
    let shares = cut(&played, labs);
    let of_shares: Vec<Option<Vec<Row>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .map(|names| Share {
                collection: collection.to_owned(),
                names,
            })
            .map(|share| scope.spawn(move || by_a_child(&share)))
            .collect();
        let ends = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ends.map(|end| end.expect("a share is played")).collect()
    });
    for of_share in of_shares {
        rows.extend(of_share?);
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Some(rows)
}

/// Parts that take about as long each, of cases that are sorted by their labs: to
/// become another one takes a lab about as long as a state.
fn cut(cases: &[&Case], parts: usize) -> Vec<BTreeSet<String>> {
    let mut before = None;
    let weights: Vec<usize> = cases
        .iter()
        .map(|case| {
            let lab = Some(case.lab());
            let changes = usize::from(before != lab);
            before = lab;
            case.states().len() + changes
        })
        .collect();
    let all: usize = weights.iter().sum();
    let mut shares = vec![BTreeSet::new(); parts.max(1)];
    let mut sum = 0;
    for (case, weight) in cases.iter().zip(weights) {
        // That in the middle of which the case is.
        let at = (2 * sum + weight) * shares.len() / (2 * all);
        if let Some(share) = shares.get_mut(at) {
            share.insert(case.name.clone());
        }
        sum += weight;
    }
    shares.retain(|share| !share.is_empty());
    shares
}

fn by_a_child(share: &Share) -> Option<Vec<Row>> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("share.json");
    let text = serde_json::to_vec(share).expect("JSON");
    std::fs::write(&file, text).expect("a file is written");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "services::share", "--nocapture"])
        // Else the first line is the harness's too.
        .arg("--test-threads=2")
        .env(SHARE, &file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // Its harness tells of itself too.
    let is_ours = |line: &String| {
        !line.is_empty()
            && !["running ", "test "]
                .iter()
                .any(|word| line.starts_with(word))
    };
    for line in lines.map_while(Result::ok).filter(is_ours) {
        println!("{line}");
    }
    let status = child.wait().expect("it ends");
    assert!(status.success(), "cases were not played: {status}");
    let rows = std::fs::read(rows_of(&file)).expect("what came of the cases");
    serde_json::from_slice(&rows).expect("rows")
}

fn rows_of(share: &Path) -> std::path::PathBuf {
    share.with_extension("rows")
}

/// Plays a share, in a process that is started for that.
pub(super) fn play_own() {
    let Some(file) = std::env::var_os(SHARE) else {
        return;
    };
    let share = std::fs::read(&file).expect("a share");
    let share: Share = serde_json::from_slice(&share).expect("a share");
    let mut cases = case::read(&share.collection);
    cases.retain(|case| share.names.contains(&case.name));
    cases.sort_by_cached_key(|case| (case.lab(), case.name.clone()));
    let rows = in_a_lab(&cases);
    let text = serde_json::to_vec(&rows).expect("JSON");
    std::fs::write(rows_of(Path::new(&file)), text).expect("a file is written");
}

#[test]
fn parts_hold_every_case_once_and_split_no_more_labs_than_they_must() {
    let case = |n: usize| -> Case {
        let node = serde_json::json!({"kind": "Node", "metadata": {"name": format!("n{}", n / 5)}});
        let tree = serde_json::json!({
            "name": format!("c{n:02}"), "title": "t", "kind": "k", "manifests": [node],
        });
        serde_json::from_value(tree).expect("a case")
    };
    let cases: Vec<Case> = (0..20).map(case).collect();
    let cases: Vec<&Case> = cases.iter().collect();
    for parts in [1, 2, 3, 4, 50] {
        let shares = cut(&cases, parts);
        let names: Vec<&String> = shares.iter().flatten().collect();
        let expected: Vec<&String> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names, expected, "{parts}");
        assert_eq!(shares.len(), parts.min(cases.len()));
    }
    let sizes: Vec<usize> = cut(&cases, 4).iter().map(BTreeSet::len).collect();
    assert_eq!(sizes, [5, 5, 5, 5]);
    assert_eq!(cut(&[], 2).len(), 0);
}
