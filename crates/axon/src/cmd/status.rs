//! `axon status`.

use std::fmt::Write as _;
use std::process::ExitCode;

use axon_api::agent::{MapUse, State, Status};

use crate::client::Common;
use crate::failure::{FAILED, Failure};
use crate::output::{or_dash, print, table};

/// Arguments of `axon status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// One line.
    #[arg(long)]
    brief: bool,
    /// What this kernel offers to the datapath instead of the agent's health.
    #[arg(long)]
    features: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if args.features {
        return super::verify::features(args.common.output).map(|()| ExitCode::SUCCESS);
    }
    let status: Status = args.common.client().get("/v1/healthz")?;
    print(args.common.output, &status, |status| {
        if args.brief {
            brief(status)
        } else {
            render(status)
        }
    })?;
    Ok(if status.cilium.state == State::Failure {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Disabled => "Disabled",
        State::Ok => "Ok",
        State::Warning => "Warning",
        State::Failure => "Failure",
    }
}

fn brief(status: &Status) -> String {
    let word = state_word(status.cilium.state);
    match status.cilium.msg.as_str() {
        msg if msg.is_empty() || msg.eq_ignore_ascii_case(word) => word.to_owned(),
        msg => format!("{word}: {msg}"),
    }
}

fn render(status: &Status) -> String {
    let mut text = format!(
        "Node:    {} (axon {}, pid {})\nStatus:  {}\nPolicy:  revision {}, enforced {}\n\n",
        status.node,
        status.version,
        status.pid,
        brief(status),
        status.policy_revision,
        status.policy_enforced_revision
    );
    let parts = status.parts.iter().map(|(name, part)| {
        [
            name.clone(),
            state_word(part.state).to_owned(),
            or_dash(&part.msg),
        ]
    });
    text.push_str(&table(["PART", "STATE", "MESSAGE"], parts));
    if !status.bpf_maps.is_empty() {
        text.push('\n');
        let maps = status.bpf_maps.iter().map(|(name, map)| {
            let entries = map
                .entries
                .map_or_else(|| "-".to_owned(), |n| n.to_string());
            [name.clone(), entries, map.capacity.to_string(), used(*map)]
        });
        text.push_str(&table(["MAP", "ENTRIES", "CAPACITY", "USED"], maps));
    }
    let remedies = status.parts.iter().filter(|(_, p)| !p.remedy.is_empty());
    for (n, (name, part)) in remedies.enumerate() {
        let lead = if n == 0 { "\nWhat to do:\n" } else { "" };
        let _ = writeln!(text, "{lead}  {name}: {}", part.remedy);
    }
    text
}

/// How full a map is, in percent.
fn used(map: MapUse) -> String {
    match map.entries {
        Some(entries) if map.capacity > 0 => {
            format!("{}%", u64::from(entries) * 100 / u64::from(map.capacity))
        }
        Some(_) | None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use axon_api::agent::{MapUse, PartStatus, State, Status};

    #[test]
    fn what_is_unwell_comes_with_its_remedy() {
        let part = |state, msg: &str, remedy: &str| PartStatus {
            state,
            msg: msg.to_owned(),
            remedy: remedy.to_owned(),
        };
        let mut status = Status {
            cilium: part(State::Warning, "conntrack", ""),
            node: "n1".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 7,
            policy_revision: 3,
            policy_enforced_revision: 2,
            ..Status::default()
        };
        for (name, part) in [
            ("sources", part(State::Ok, "4 files", "")),
            (
                "conntrack",
                part(State::Warning, "81% full", "raise bpf-ct-global-tcp-max"),
            ),
        ] {
            status.parts.insert(name.to_owned(), part);
        }
        for (name, entries) in [("axon_ct4_v1", Some(812)), ("axon_events_v1", None)] {
            let map = MapUse {
                entries,
                capacity: 1000,
            };
            status.bpf_maps.insert(name.to_owned(), map);
        }
        assert_eq!(
            super::render(&status),
            "\
Node:    n1 (axon 0.1.0, pid 7)
Status:  Warning: conntrack
Policy:  revision 3, enforced 2

PART       STATE    MESSAGE
conntrack  Warning  81% full
sources    Ok       4 files

MAP             ENTRIES  CAPACITY  USED
axon_ct4_v1     812      1000      81%
axon_events_v1  -        1000      -

What to do:
  conntrack: raise bpf-ct-global-tcp-max
"
        );
        assert_eq!(super::brief(&Status::default()), "Ok");
    }
}
