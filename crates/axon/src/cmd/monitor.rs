//! `axon monitor` and `axon observe`.

use std::io::{self, BufRead, Write as _};

use axon_cni::http::escape;
use axon_hubble::{Filter, Response, Style, line};

use crate::client::Common;
use crate::failure::Failure;
use crate::output::{Color, Format};

/// Which flows; values of one flag are alternatives, flags must all match.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(
    next_help_heading = "Which flows (values of one flag are alternatives, flags must all match)"
)]
struct Selection {
    /// drop, policy-verdict, trace, or trace:POINT such as trace:to-endpoint.
    #[arg(short = 't', long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// forwarded, dropped or audit.
    #[arg(long, value_delimiter = ',')]
    verdict: Vec<String>,
    /// Drop reason by name (POLICY_DENIED) or number (133).
    #[arg(long, value_name = "REASON")]
    drop_reason: Vec<String>,
    /// tcp, udp, sctp, icmp, icmpv4 or icmpv6.
    #[arg(long, value_delimiter = ',')]
    protocol: Vec<String>,
    /// ingress or egress, as the reporting endpoint sees it.
    #[arg(long, value_delimiter = ',')]
    direction: Vec<String>,
    /// The flow of this name (`uuid` with -o json).
    #[arg(long)]
    uuid: Vec<String>,
    /// Endpoint on either side, by number.
    #[arg(
        long,
        visible_alias = "related-to",
        value_name = "ID",
        value_delimiter = ','
    )]
    endpoint: Vec<String>,
    /// Sending endpoint, by number.
    #[arg(
        long,
        visible_alias = "from-endpoint",
        value_name = "ID",
        value_delimiter = ','
    )]
    from: Vec<String>,
    /// Receiving endpoint, by number.
    #[arg(
        long,
        visible_alias = "to-endpoint",
        value_name = "ID",
        value_delimiter = ','
    )]
    to: Vec<String>,
    /// Pod on either side: namespace/name, the beginning of one, or /name.
    #[arg(long, value_delimiter = ',')]
    pod: Vec<String>,
    /// Sending pod.
    #[arg(long, value_name = "POD", value_delimiter = ',')]
    from_pod: Vec<String>,
    /// Receiving pod.
    #[arg(long, value_name = "POD", value_delimiter = ',')]
    to_pod: Vec<String>,
    /// Namespace of the pod on either side.
    #[arg(short, long, value_delimiter = ',')]
    namespace: Vec<String>,
    /// Label of either side: `[source:]key[=value]`.
    #[arg(short, long)]
    label: Vec<String>,
    /// Label of the sender.
    #[arg(long, value_name = "LABEL")]
    from_label: Vec<String>,
    /// Label of the receiver.
    #[arg(long, value_name = "LABEL")]
    to_label: Vec<String>,
    /// Identity of either side, by number or reserved name (world).
    #[arg(long, value_delimiter = ',')]
    identity: Vec<String>,
    /// Identity of the sender.
    #[arg(long, value_name = "IDENTITY", value_delimiter = ',')]
    from_identity: Vec<String>,
    /// Identity of the receiver.
    #[arg(long, value_name = "IDENTITY", value_delimiter = ',')]
    to_identity: Vec<String>,
    /// Address or prefix of either side.
    #[arg(long, value_delimiter = ',')]
    ip: Vec<String>,
    /// Address or prefix of the sender.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    from_ip: Vec<String>,
    /// Address or prefix of the receiver.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    to_ip: Vec<String>,
    /// Port of either side.
    #[arg(long, value_delimiter = ',')]
    port: Vec<String>,
    /// Port of the sender.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    from_port: Vec<String>,
    /// Port of the receiver.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    to_port: Vec<String>,
    /// Also drops of what kernels send by themselves for every device:
    /// reports of multicast groups, searches for routers.
    #[arg(long)]
    background: bool,
}

impl Selection {
    /// The flags as pairs of a query, refused here if the agent would.
    fn pairs(&self) -> Result<Vec<(&'static str, &str)>, Failure> {
        let keys: [(&'static str, &[String]); 25] = [
            ("type", &self.types),
            ("verdict", &self.verdict),
            ("drop-reason", &self.drop_reason),
            ("protocol", &self.protocol),
            ("direction", &self.direction),
            ("uuid", &self.uuid),
            ("endpoint", &self.endpoint),
            ("from-endpoint", &self.from),
            ("to-endpoint", &self.to),
            ("pod", &self.pod),
            ("from-pod", &self.from_pod),
            ("to-pod", &self.to_pod),
            ("namespace", &self.namespace),
            ("label", &self.label),
            ("from-label", &self.from_label),
            ("to-label", &self.to_label),
            ("identity", &self.identity),
            ("from-identity", &self.from_identity),
            ("to-identity", &self.to_identity),
            ("ip", &self.ip),
            ("from-ip", &self.from_ip),
            ("to-ip", &self.to_ip),
            ("port", &self.port),
            ("from-port", &self.from_port),
            ("to-port", &self.to_port),
        ];
        let mut filter = Filter::default();
        let mut pairs = Vec::new();
        if !self.background() {
            pairs.push(("background", "false"));
        }
        for (key, values) in keys {
            for value in values {
                filter
                    .add(key, value)
                    .map_err(|e| Failure::usage(e.to_string()))?;
                pairs.push((key, value.as_str()));
            }
        }
        Ok(pairs)
    }
}

/// How lines look.
#[derive(Clone, Debug, clap::Args)]
struct Look {
    /// When colours are used: auto, always or never.
    #[arg(
        hide_possible_values = true,
        long,
        value_enum,
        default_value_t,
        value_name = "WHEN"
    )]
    color: Color,
    /// Addresses instead of names of pods.
    #[arg(long)]
    numeric: bool,
    /// Say in each line which node tells.
    #[arg(long)]
    print_node_name: bool,
}

/// Arguments of `axon monitor`.
#[derive(Debug, clap::Args)]
pub(crate) struct MonitorArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    look: Look,
}

impl Selection {
    /// Whether drops of background are wanted: a reason that is asked for by
    /// name is wanted whatever it was.
    fn background(&self) -> bool {
        self.background || !self.drop_reason.is_empty()
    }
}

/// Arguments of `axon observe`.
#[derive(Debug, clap::Args)]
pub(crate) struct ObserveArgs {
    #[command(flatten)]
    common: Common,
    /// How many flows, at most.
    #[arg(long, default_value_t = 20, value_name = "N")]
    last: usize,
    /// Go on with new ones.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    look: Look,
}

pub(crate) fn monitor(args: &MonitorArgs) -> Result<(), Failure> {
    stream(&args.common, &args.look, &args.selection.pairs()?, 0, true)
}

pub(crate) fn observe(args: &ObserveArgs) -> Result<(), Failure> {
    let pairs = args.selection.pairs()?;
    stream(&args.common, &args.look, &pairs, args.last, args.follow)
}

/// The path and query of the stream.
fn path(pairs: &[(&str, &str)], last: usize, follow: bool) -> String {
    let mut path = format!("/v1/monitor?last={last}&follow={follow}");
    for (key, value) in pairs {
        path.push_str(&format!("&{key}={}", escape(value)));
    }
    path
}

fn stream(
    common: &Common,
    look: &Look,
    pairs: &[(&str, &str)],
    last: usize,
    follow: bool,
) -> Result<(), Failure> {
    let style = Style {
        color: look.color.is_on(),
        node: look.print_node_name,
        numeric: look.numeric,
    };
    let client = common.client();
    let mut lines = client.stream(&path(pairs, last, follow))?.lines();
    let mut stdout = io::stdout().lock();
    loop {
        let gone = |what: &dyn std::fmt::Display| {
            Failure::new(format!(
                "the stream from {} ended: {what}",
                client.socket().display()
            ))
            .remedy("look at the agent's log; `axon status` tells whether it is back")
            .code(crate::failure::UNREACHABLE)
        };
        let text = match lines.next() {
            Some(Ok(text)) => text,
            Some(Err(error)) => return Err(gone(&error)),
            None if follow => return Err(gone(&"the agent stopped")),
            None => return Ok(()),
        };
        if text.is_empty() {
            continue;
        }
        match common.output {
            Format::Json => writeln!(stdout, "{text}")?,
            Format::Table => {
                let response: Response = serde_json::from_str(&text)?;
                writeln!(stdout, "{}", line(&response, style))?;
            }
        }
        stdout.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::Selection;

    #[test]
    fn flags_become_a_query() {
        let selection = Selection {
            types: vec!["drop".to_owned()],
            pod: vec!["default/xwing".to_owned()],
            label: vec!["k8s:a=b".to_owned()],
            ..Selection::default()
        };
        let pairs = selection.pairs().expect("pairs");
        assert_eq!(
            super::path(&pairs, 5, false),
            "/v1/monitor?last=5&follow=false&background=false&type=drop&pod=default%2Fxwing&label=k8s:a%3Db"
        );
        let by_name = Selection {
            drop_reason: vec!["176".to_owned()],
            ..Selection::default()
        };
        assert_eq!(
            by_name.pairs().expect("pairs"),
            [("drop-reason", "176")],
            "what is asked for by name is not left out"
        );
        let wrong = Selection {
            port: vec!["http".to_owned()],
            ..Selection::default()
        };
        let failure = wrong.pairs().expect_err("no port").text();
        assert!(
            failure.contains("port") && failure.contains("http"),
            "{failure}"
        );
    }
}
