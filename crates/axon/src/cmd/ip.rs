//! `axon ip`.

use axon_api::agent::IpView;

use crate::client::Asking;
use crate::failure::Failure;
use crate::output::{or_dash, print, table};

/// Arguments of `axon ip`.
pub(crate) type Args = Asking<Verb>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Every prefix with its identity, its pod, the node that serves it, and
    /// where that is known from.
    List,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Verb::List = args.verb;
    let ips: Vec<IpView> = args.common.client().get("/v1/ip")?;
    print(args.common.output, &ips, |ips| list(ips))
}

fn list(ips: &[IpView]) -> String {
    let rows = ips.iter().map(|ip| {
        [
            ip.cidr.clone(),
            super::maps::identity_text(ip.identity),
            or_dash(&ip.pod),
            or_dash(&ip.host_ip),
            or_dash(&ip.source),
        ]
    });
    table(["CIDR", "IDENTITY", "POD", "NODE", "SOURCE"], rows)
}

#[cfg(test)]
mod tests {
    use axon_api::agent::IpView;

    #[test]
    fn reserved_identities_have_names() {
        let ips = [
            IpView {
                cidr: "0.0.0.0/0".to_owned(),
                identity: 9,
                source: "world".to_owned(),
                ..IpView::default()
            },
            IpView {
                cidr: "10.0.0.1/32".to_owned(),
                identity: 300,
                pod: "default/xwing".to_owned(),
                source: "endpoint".to_owned(),
                ..IpView::default()
            },
        ];
        assert_eq!(
            super::list(&ips),
            "\
CIDR         IDENTITY        POD            NODE  SOURCE
0.0.0.0/0    9 (world-ipv4)  -              -     world
10.0.0.1/32  300             default/xwing  -     endpoint
"
        );
    }
}
