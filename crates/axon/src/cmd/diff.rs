//! `axon policy diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use axon_evaluate::{Change, Changes, Decision, Described, FlowChange, Flows, changes};
use serde::Serialize;

use super::described::{Side, Whose, describe, live};
use super::flows::{Last, Source, each, source};
use crate::client::Common;
use crate::failure::{FAILED, Failure};
use crate::output::{or_dash, print, table};

/// Bad lines that are told one by one.
const BAD_LINES_MAX: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// What would be applied: files, or directories of .yaml, .yml and .json
    /// files. Policies and CIDR groups in them count.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    proposed: Vec<PathBuf>,
    /// What there is: Namespaces, Nodes, Pods, Services, EndpointSlices,
    /// CiliumCIDRGroups and policies, as `kubectl get -o yaml` prints them too.
    /// Without it, what this node's agent knows, and the policies that it has in
    /// force.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    current: Vec<PathBuf>,
    /// The proposed policies are all there will be.
    #[arg(long)]
    prune: bool,
    /// Recorded flows, as `axon observe -o json` and `hubble observe -o json`
    /// print them; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    flows: Option<PathBuf>,
    /// The last flows of this node's agent instead of a file: so many, or those of
    /// so long (1h, 30m, 10s).
    #[arg(long, value_name = "N|DURATION", conflicts_with = "flows")]
    last: Option<Last>,
    /// Rows of a table at most.
    #[arg(long, default_value_t = 500, value_name = "ROWS")]
    limit: usize,
}

/// What would change.
#[derive(Debug, Default, Serialize)]
struct Difference {
    #[serde(flatten)]
    changes: Changes,
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<FlowDifference>,
    /// What the answer leaves out.
    notes: Vec<String>,
}

/// What would become of recorded flows: how many there are of each kind, with
/// repetitions, and those that change.
#[derive(Debug, Default, Serialize)]
struct FlowDifference {
    stay: u64,
    denied: u64,
    allowed: u64,
    /// To the proxy, or past it.
    otherwise: u64,
    changes: Vec<FlowChange>,
}

pub(crate) fn run(args: &DiffArgs, common: &Common) -> Result<ExitCode, Failure> {
    let mut notes = Vec::new();
    let current = match args.current.as_slice() {
        [] => live(&common.client(), &mut notes)?,
        paths => describe(paths, Whose::Current, &mut notes)?,
    };
    let proposed = describe(&args.proposed, Whose::Proposed, &mut notes)?;
    let after = current.with(&proposed, args.prune);
    let (before, after) = worlds(current, after, &mut notes)?;
    let cannot = |problem: axon_evaluate::Problem| Failure::usage(problem.to_string());
    let mut difference = Difference {
        changes: changes(&before.1, &after.1).map_err(cannot)?,
        ..Difference::default()
    };
    let recorded = source(args.flows.as_ref(), args.last, || common.client());
    if let Some(recorded) = &recorded {
        let mut flows = Flows::new(&before.0, &before.1);
        record(recorded, &mut flows, &mut notes)?;
        let judged = flows.judge(&before.1, &after.1).map_err(cannot)?;
        difference.flows = Some(summary(judged));
        notes.extend(left_out(&flows));
    }
    difference.notes = notes;
    print(common.output, &difference, |difference| {
        render(difference, args.limit)
    })?;
    let of_flows = difference
        .flows
        .iter()
        .any(|flows| !flows.changes.is_empty());
    let same = difference.changes.changes.is_empty() && !of_flows;
    Ok(ExitCode::from(if same { 0 } else { FAILED }))
}

/// Both states, under the same settings.
fn worlds(
    mut current: Described,
    after: Described,
    notes: &mut Vec<String>,
) -> Result<(Side, Side), Failure> {
    let cannot = |problem: axon_evaluate::Problem| Failure::usage(problem.to_string());
    let mut settings = current.settings();
    settings.host_firewall |= after.settings().host_firewall;
    for (origin, why) in current.refused(&settings).map_err(cannot)? {
        notes.push(format!(
            "{} {origin}: {why}; it is not in force",
            origin.kind
        ));
        current.policies.remove(&origin);
    }
    let mut proposed = after;
    for (origin, why) in proposed.refused(&settings).map_err(cannot)? {
        notes.push(format!(
            "{} {origin}: {why}; it would not be in force",
            origin.kind
        ));
        proposed.policies.remove(&origin);
    }
    let before = current.world(&settings).map_err(cannot)?;
    let after = proposed.world(&settings).map_err(cannot)?;
    Ok(((current, before), (proposed, after)))
}

/// Takes recorded flows.
fn record(
    source: &Source<'_>,
    flows: &mut Flows<'_>,
    notes: &mut Vec<String>,
) -> Result<(), Failure> {
    let mut bad = 0_usize;
    let lacking = each(source, |number, line| {
        let added = line.and_then(|line| flows.add(line).map_err(|problem| problem.to_string()));
        if let Err(why) = added {
            bad += 1;
            if bad <= BAD_LINES_MAX {
                notes.push(format!("flows, line {number}: {why}"));
            }
        }
    })?;
    if bad > BAD_LINES_MAX {
        notes.push(format!(
            "flows: {} more lines like that",
            bad - BAD_LINES_MAX
        ));
    }
    notes.extend(lacking);
    Ok(())
}

/// What was not judged of the flows.
fn left_out(flows: &Flows<'_>) -> Vec<String> {
    let told = [
        (flows.strangers, "of pods that are not described"),
        (flows.others, "that hold no connection"),
        (
            flows.beyond,
            "beyond the number of different flows that are kept",
        ),
    ];
    let told = told.into_iter().filter(|(count, _)| *count > 0);
    told.map(|(count, what)| format!("flows: {count} lines {what} are left out"))
        .collect()
}

fn summary(judged: Vec<FlowChange>) -> FlowDifference {
    let mut difference = FlowDifference::default();
    for flow in judged {
        let counter = match (flow.before.verdict, flow.after.verdict) {
            (before, after) if before == after => {
                difference.stay += flow.count;
                continue;
            }
            (_, "deny") => &mut difference.denied,
            ("deny", _) => &mut difference.allowed,
            _ => &mut difference.otherwise,
        };
        *counter += flow.count;
        difference.changes.push(flow);
    }
    difference
}

fn render(difference: &Difference, limit: usize) -> String {
    let Changes { pairs, changes } = &difference.changes;
    let mut text = match changes.len() {
        0 => format!("Nothing changes in the {pairs} pairs described.\n"),
        count => format!(
            "Changes: {count}, in {pairs} pairs.\n\n{}",
            pairwise(changes, limit)
        ),
    };
    if let Some(flows) = &difference.flows {
        text.push_str(&format!(
            "\nRecorded flows: {} stay, {} would be denied, {} newly allowed",
            flows.stay, flows.denied, flows.allowed
        ));
        if flows.otherwise > 0 {
            text.push_str(&format!(", {} to or past the proxy", flows.otherwise));
        }
        text.push('\n');
        if !flows.changes.is_empty() {
            text.push_str(&format!("\n{}", recorded(&flows.changes, limit)));
        }
    }
    if !difference.notes.is_empty() {
        text.push_str("\nNotes:\n");
        for note in &difference.notes {
            text.push_str(&format!("  {note}\n"));
        }
    }
    text
}

fn word(decision: &Decision) -> String {
    match decision.said.as_slice() {
        [] => decision.verdict.to_owned(),
        said => format!("{}: {}", decision.verdict, said.join("; ")),
    }
}

fn pairwise(changes: &[Change], limit: usize) -> String {
    let rows = changes.iter().take(limit).map(|change| {
        [
            change.from.clone(),
            change.to.clone(),
            change.port.clone(),
            word(&change.before),
            word(&change.after),
            or_dash(&change.before.by),
            or_dash(&change.after.by),
        ]
    });
    let header = ["FROM", "TO", "PORT", "NOW", "THEN", "NOW BY", "THEN BY"];
    table(header, rows) + &more(changes.len(), limit)
}

fn recorded(flows: &[FlowChange], limit: usize) -> String {
    let rows = flows.iter().take(limit).map(|flow| {
        [
            flow.count.to_string(),
            flow.from.clone(),
            flow.to.clone(),
            flow.port.clone(),
            word(&flow.before),
            word(&flow.after),
            or_dash(&flow.after.by),
        ]
    });
    let header = ["FLOWS", "FROM", "TO", "PORT", "NOW", "THEN", "THEN BY"];
    table(header, rows) + &more(flows.len(), limit)
}

fn more(count: usize, limit: usize) -> String {
    match count.saturating_sub(limit) {
        0 => String::new(),
        more => format!("... and {more} more (--limit, or -o json)\n"),
    }
}
