//! `axon explain`.
//!
//! ```text
//! --from, --to, --port  │ --flow ── ask ──> packet ─┐
//! agent │ --dump ── archive ──> state ──────────────┴─ axon_replay ── show
//! ```

mod archive;
mod ask;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axon_api::state::NodeState;
use axon_cni::http::escape;
use axon_hubble::Uuid;
use axon_replay::{Node, NotHere, Outcome, Packet, explain, explain_new};

use crate::client::Common;
use crate::failure::{ABSENT, FAILED, Failure};
use crate::output::print;

/// Arguments of `axon explain`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["from", "flow"]))]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// The sender: `namespace/pod`, `pod`, `node:NAME`, or an address.
    #[arg(long, value_name = "END", requires = "to")]
    from: Option<String>,
    /// The receiver, likewise, or a service: `service:namespace/name`, or the name
    /// alone where no workload is called so.
    #[arg(long, value_name = "END", requires = "from")]
    to: Option<String>,
    /// The port that is opened: `80`, `53/udp`, `5000/sctp`, `icmp`, or a type of
    /// ICMP as `8/icmp`.
    #[arg(long, value_name = "PORT[/PROTOCOL]", default_value = "80/tcp")]
    port: String,
    /// By IPv6, where both ends have both.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// A flow that was seen: its uuid, a file that holds it as JSON, as `axon
    /// observe -o json` prints it, or `-` for standard input; of several the first.
    #[arg(long, value_name = "UUID|FILE", conflicts_with_all = ["from", "to", "ipv6"])]
    flow: Option<String>,
    /// A request on the connection: `GET /path`, or `GET http://host/path`.
    #[arg(long, value_name = "REQUEST")]
    http: Option<String>,
    /// A header of the request; may be given several times.
    #[arg(long, value_name = "NAME: VALUE", requires = "http")]
    header: Vec<String>,
    /// Over the state in an archive of `axon sysdump`, or in its
    /// `api/state.json`, and not over that of the agent. Takes no privileges.
    #[arg(long, value_name = "ARCHIVE")]
    dump: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let request = args
        .http
        .as_deref()
        .map(|text| ask::request(text, &args.header));
    let request = request.transpose()?;
    let flow = args.flow.as_deref().map(|flow| seen(args, flow));
    let flow = flow.transpose()?;
    let state = match &args.dump {
        Some(path) => archive::state(path)?,
        None => {
            // A new connection is none of those that are known.
            let nobody = "0.0.0.0".to_owned();
            let [source, destination] = match &flow {
                Some(packet) => [packet.source.to_string(), packet.destination.to_string()],
                None => [nobody.clone(), nobody],
            };
            args.common.client().get::<NodeState>(&format!(
                "/v1/debug/state?source={}&destination={}",
                escape(&source),
                escape(&destination)
            ))?
        }
    };
    let node = Node::load(state).map_err(|error| {
        Failure::usage(error.to_string()).remedy("use the version of axon that has written it")
    })?;
    let explained = match (flow, &args.from, &args.to) {
        (Some(packet), ..) => explain(&node, &packet, request.as_ref()),
        (None, Some(from), Some(to)) => {
            let packet = ask::packet(&node, [from, to], &args.port, args.ipv6)?;
            explain_new(&node, &packet, request.as_ref())
        }
        (None, ..) => return Err(Failure::usage("no packet; give --from and --to, or --flow")),
    };
    let explanation = explained.map_err(|error| absent(&error))?;
    print(args.common.output, &explanation, show::text)?;
    Ok(match explanation.verdict {
        Outcome::Allowed => ExitCode::SUCCESS,
        Outcome::Denied | Outcome::Depends => ExitCode::from(FAILED),
    })
}

/// The packet of a flow that was seen: by the agent, when a sysdump was taken,
/// or by whoever has written it down.
fn seen(args: &Args, flow: &str) -> Result<Packet, Failure> {
    let Ok(uuid) = flow.parse::<Uuid>() else {
        return ask::flow(Path::new(flow));
    };
    let line = match &args.dump {
        Some(path) => archive::flow(path, uuid)?,
        None => {
            let path = format!("/v1/monitor?last=1&follow=false&uuid={uuid}");
            Some(args.common.client().get_text(&path)?)
        }
    };
    let line = line.filter(|line| !line.trim().is_empty()).ok_or_else(|| {
        Failure::new(format!("no flow {uuid} is remembered"))
            .remedy("the last 4095 of a node are; keep those of interest with axon observe -o json")
            .code(ABSENT)
    })?;
    ask::packet_of(line.trim()).map_err(|what| Failure::new(format!("flow {uuid}: {what}")))
}

fn absent(error: &NotHere) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        NotHere::Elsewhere { .. } => failure
            .remedy("ask the agent of a node that one of them is on, or take its sysdump")
            .code(ABSENT),
        NotHere::Itself { .. } | NotHere::NoUplink { .. } => failure.code(ABSENT),
        NotHere::Packet(_) => Failure::usage(error.to_string()),
    }
}
