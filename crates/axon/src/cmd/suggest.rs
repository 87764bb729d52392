//! `axon policy suggest`.

use std::path::PathBuf;
use std::process::ExitCode;

use axon_evaluate::{Beyond, Options, Record};

use super::described::{Whose, describe, live, people};
use super::flows::{self, Last};
use crate::client::Common;
use crate::failure::{FAILED, Failure};
use crate::output::{Format, print};

#[derive(Debug, clap::Args)]
pub(crate) struct SuggestArgs {
    /// Recorded flows, as `axon observe -o json` and `hubble observe -o json`
    /// print them; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "last")]
    flows: Option<PathBuf>,
    /// The last flows of this node's agent instead: so many, or those of so long
    /// (1h, 30m, 10s).
    #[arg(long, value_name = "N|DURATION", conflicts_with = "flows")]
    last: Option<Last>,
    /// Policies for workloads of these namespaces alone.
    #[arg(short, long, value_name = "NAMESPACE", value_delimiter = ',')]
    namespace: Vec<String>,
    /// What there is, as `kubectl get namespaces,nodes,pods -A -o yaml` prints it:
    /// the labels that are chosen tell workloads from those without flows too, and
    /// pods are known by name where flows lack labels. With --last it is what the
    /// agent knows, if nothing else is given.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    current: Vec<PathBuf>,
    /// How addresses outside are told apart.
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    outside: Outside,
    /// One direction alone; the other stays as it is.
    #[arg(long, value_enum, value_name = "DIRECTION")]
    only: Option<Only>,
    /// Allow what policy denied, too.
    #[arg(long)]
    allow_denied: bool,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Outside {
    /// By name where flows have names (toFQDNs), else by address.
    #[default]
    Names,
    /// By address.
    Addresses,
    /// Not at all: whoever is outside.
    World,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Ingress,
    Egress,
}

pub(crate) fn run(args: &SuggestArgs, common: &Common) -> Result<ExitCode, Failure> {
    let options = Options {
        namespaces: args.namespace.iter().cloned().collect(),
        beyond: match args.outside {
            Outside::Names => Beyond::Names,
            Outside::Addresses => Beyond::Addresses,
            Outside::World => Beyond::World,
        },
        denied: args.allow_denied,
        ingress: args.only != Some(Only::Egress),
        egress: args.only != Some(Only::Ingress),
    };
    let mut notes = Vec::new();
    let current = match args.current.as_slice() {
        [] if args.last.is_some() => Some(people(live(&common.client(), &mut notes)?)?),
        [] => None,
        paths => Some(people(describe(paths, Whose::Current, &mut notes)?)?),
    };
    let current = current
        .as_ref()
        .map(|(described, world)| (described, world));
    let mut record = Record::new(options, current);
    let source = flows::source(args.flows.as_ref(), args.last, || common.client())
        .ok_or_else(|| Failure::usage("no flows; expected FILE or --last N".to_owned()))?;
    let lacking = flows::each(&source, |number, line| {
        let added = line.and_then(|line| record.add(number, line).map_err(|e| e.to_string()));
        if let Err(why) = added {
            record.note(number, &format!("left out: {why}"));
        }
    })?;
    let mut suggestion = record.suggest();
    notes.extend(lacking);
    notes.append(&mut suggestion.notes);
    suggestion.notes = notes;
    if common.output == Format::Json {
        for note in &suggestion.notes {
            eprintln!("note: {}", note.escape_debug());
        }
    }
    print(common.output, &suggestion.list(), |_| suggestion.yaml())?;
    Ok(ExitCode::from(if suggestion.is_empty() {
        FAILED
    } else {
        0
    }))
}
