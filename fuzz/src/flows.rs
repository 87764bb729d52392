//! Recorded flows, as `axon policy suggest` and `axon policy diff --flows` read
//! them: lines of JSON, from Hubble or from us. The first byte says what is
//! asked of them.

use std::sync::LazyLock;

use axon_api::manifest;
use axon_evaluate::{Beyond, Described, Flows, Options, Problem, Record, Suggestion, World};

/// Lines of one input; what follows is passed over.
const LINES_MAX: usize = 64;
/// Bytes of a field's path, of what is wrong with it, and of a note, whatever the
/// line is.
const ERROR_MAX: usize = 303;
const NOTE_MAX: usize = 500;

/// Who is described: a node, and two pods of it.
const CLUSTER: &str = "\
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 172.16.0.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: farm, labels: {app: web}}, spec: {nodeName: n1, containers: [{name: c}]}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: farm, labels: {app: db}}, spec: {nodeName: n1, containers: [{name: c}]}, status: {podIP: 10.0.0.2}}
";

static DESCRIBED: LazyLock<(Described, World)> = LazyLock::new(|| {
    let described = read(CLUSTER).expect("the cluster is described");
    let world = described.world(&described.settings());
    (described, world.expect("a cluster"))
});

/// Takes every line, and says what follows from all.
///
/// # Panics
/// If an error does not say where and why, or is as long as the line likes; if
/// what is suggested is no manifest, or does not tell which lines are left out.
pub fn run(data: &[u8]) {
    let (asked, text) = data.split_first().unwrap_or((&0, &[]));
    let (described, world) = &*DESCRIBED;
    let known = (asked & 1 != 0).then_some((described, world));
    let mut record = Record::new(options(*asked), known);
    let mut flows = Flows::new(described, world);
    let mut refused = None;
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n').take(LINES_MAX)) {
        if let Err(problem) = record.add(number, line) {
            says(&problem);
            record.note(number, &format!("left out: {problem}"));
            refused.get_or_insert((number, problem));
        }
        if let Err(problem) = flows.add(line) {
            says(&problem);
        }
    }
    let judged = flows.judge(world, world).expect("everybody is there");
    for flow in judged {
        assert_eq!(flow.before, flow.after, "nothing has changed");
    }
    let suggestion = record.suggest();
    suggested(&suggestion);
    if let Some((number, problem)) = refused {
        let told = suggestion.notes.iter().any(|note| names(note, number));
        assert!(told, "line {number}, {problem}: {:?}", suggestion.notes);
    }
}

fn options(asked: u8) -> Options {
    Options {
        beyond: match asked >> 1 & 3 {
            0 => Beyond::Names,
            1 => Beyond::Addresses,
            _ => Beyond::World,
        },
        denied: asked & 8 != 0,
        // One direction or both, as `--only` has it.
        ingress: asked & 48 != 16,
        egress: asked & 48 != 32,
        namespaces: (asked & 64 != 0)
            .then(|| "farm".to_owned())
            .into_iter()
            .collect(),
    }
}

/// A problem names its field and what is wrong with it, in a line or two.
fn says(problem: &Problem) {
    for said in [&problem.path, &problem.message] {
        assert!(
            (1..=ERROR_MAX).contains(&said.len()),
            "where, and why: {problem}"
        );
    }
}

/// Whether a note is about a line: `lines 1, 3 and 2 more: left out: ...`.
fn names(note: &str, number: u64) -> bool {
    let (lines, why) = note.split_once(": ").unwrap_or_default();
    let mut lines = lines.split([' ', ',']);
    why.starts_with("left out: ") && lines.any(|word| word == number.to_string())
}

/// What is suggested can be applied, and is shown line by line.
fn suggested(suggestion: &Suggestion) {
    for note in &suggestion.notes {
        assert!(note.len() <= NOTE_MAX, "{} bytes: {note}", note.len());
    }
    for text in [suggestion.yaml(), suggestion.list().to_string()] {
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "a terminal would obey: {text:?}"
        );
        let again = read(&text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
        assert_eq!(again.policies.len(), suggestion.len(), "{text}");
    }
}

fn read(text: &str) -> Result<Described, String> {
    let manifest = manifest::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    if let Some(refused) = manifest.refused.first() {
        return Err(format!("{refused:?}"));
    }
    let objects = manifest.documents.into_iter().filter_map(|d| d.object);
    Described::of(objects).map_err(|problem| problem.to_string())
}
