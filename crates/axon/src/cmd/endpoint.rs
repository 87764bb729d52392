//! `axon endpoint`.

use axon_api::agent::{EndpointConfig, EndpointConfigStatus, EndpointView};
use axon_cni::http::escape;

use crate::client::Asking;
use crate::failure::Failure;
use crate::output::{or_dash, print, table};

/// Arguments of `axon endpoint`.
pub(crate) type Args = Asking<Verb>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Every workload of this node: who it is, its addresses, whether policy is
    /// enforced and whether it is ready.
    List,
    /// One workload in full.
    Get {
        /// A number (`12`), a pod or process (`default/xwing`), an address,
        /// `container-id:ID` or `cni-attachment-id:ID:INTERFACE`.
        id: String,
    },
    /// What is switched at a workload, or at the node itself; with OPTION=VALUE it
    /// is switched, and stays so while it lives.
    ///
    /// `PolicyAuditMode=Enabled` has policy only audited: what it would drop passes
    /// and is told with the verdict AUDIT. A node is audited by its option
    /// policy-audit-mode, a namespace by its annotation policy.axoneme.io/audit.
    Config {
        /// As `get` has it, or the node's own number.
        id: String,
        /// `PolicyAuditMode=Enabled` or `PolicyAuditMode=Disabled`.
        #[arg(value_name = "OPTION=VALUE", value_parser = option)]
        options: Vec<(String, String)>,
    },
}

fn option(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=');
    let (option, value) = parts.ok_or("expected OPTION=VALUE, as PolicyAuditMode=Enabled")?;
    Ok((option.to_owned(), value.to_owned()))
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let client = args.common.client();
    match &args.verb {
        Verb::List => {
            let endpoints: Vec<EndpointView> = client.get("/v1/endpoint")?;
            print(args.common.output, &endpoints, |e| list(e))
        }
        Verb::Get { id } => {
            let path = format!("/v1/endpoint/{}", escape(&reference(id)));
            let endpoint: EndpointView = client.get(&path)?;
            print(args.common.output, &endpoint, detail)
        }
        Verb::Config { id, options } => {
            let path = format!("/v1/endpoint/{}/config", escape(&reference(id)));
            let config: EndpointConfigStatus = if options.is_empty() {
                client.get(&path)?
            } else {
                let options = options.iter().cloned().collect();
                client.json("PATCH", &path, Some(&EndpointConfig { options }))?
            };
            print(args.common.output, &config, |config| {
                let options = config.realized.options.iter();
                let rows = options.map(|(option, value)| [option.clone(), value.clone()]);
                table(["OPTION", "VALUE"], rows)
            })
        }
    }
}

/// The API's form of what people write: `ns/pod` and addresses have prefixes.
fn reference(id: &str) -> String {
    if let Ok(address) = id.parse::<std::net::IpAddr>() {
        return match address {
            std::net::IpAddr::V4(v4) => format!("ipv4:{v4}"),
            std::net::IpAddr::V6(v6) => format!("ipv6:{v6}"),
        };
    }
    match id.split_once('/') {
        Some((namespace, pod)) if !namespace.contains(':') => {
            format!("cep-name:{namespace}/{pod}")
        }
        Some(_) | None => id.to_owned(),
    }
}

fn list(endpoints: &[EndpointView]) -> String {
    let header = [
        "ENDPOINT", "NAME", "IDENTITY", "IPV4", "IPV6", "INGRESS", "EGRESS", "STATE",
    ];
    let rows = endpoints.iter().map(|endpoint| {
        let status = &endpoint.status;
        let addresses = status.networking.addressing.first();
        [
            endpoint.id.to_string(),
            name(endpoint),
            status.identity.id.to_string(),
            or_dash(addresses.map_or("", |a| &a.ipv4)),
            or_dash(addresses.map_or("", |a| &a.ipv6)),
            enforcement(endpoint, status.policy.ingress_enforced),
            enforcement(endpoint, status.policy.egress_enforced),
            match status.message.as_str() {
                "" => status.state.clone(),
                message => format!("{}: {message}", status.state),
            },
        ]
    });
    table(header, rows)
}

/// The pod, the plain process, the node itself, or else the container.
fn name(endpoint: &EndpointView) -> String {
    if endpoint.status.identity.id == 1 {
        return "reserved:host".to_owned();
    }
    let who = &endpoint.status.external_identifiers;
    if !who.pod_name.is_empty() {
        return who.pod_name.clone();
    }
    match (who.k8s_namespace.as_str(), who.container_name.as_str()) {
        (_, "") => or_dash(&who.container_id),
        ("", process) => process.to_owned(),
        (namespace, process) => format!("{namespace}/{process}"),
    }
}

fn enforcement(endpoint: &EndpointView, on: bool) -> String {
    match (on, endpoint.status.policy.audit) {
        (false, _) => "open",
        (true, true) => "audited",
        (true, false) => "enforced",
    }
    .to_owned()
}

fn detail(endpoint: &EndpointView) -> String {
    let status = &endpoint.status;
    let net = &status.networking;
    let who = &status.external_identifiers;
    let addresses: Vec<String> = net
        .addressing
        .iter()
        .flat_map(|a| [a.ipv4.clone(), a.ipv6.clone()])
        .filter(|a| !a.is_empty())
        .collect();
    let labels = status.identity.labels.iter();
    let labels: Vec<String> = labels
        .map(|(source, key, value)| axon_model::Label::new(source, key, value).to_string())
        .collect();
    let rows = [
        ("Endpoint", endpoint.id.to_string()),
        ("Name", name(endpoint)),
        ("State", status.state.clone()),
        ("Message", status.message.clone()),
        ("Identity", status.identity.id.to_string()),
        ("Labels", labels.join("\n")),
        ("Addresses", addresses.join("\n")),
        (
            "Device",
            format!(
                "{} (index {}, {})",
                net.interface_name, net.interface_index, net.host_mac
            ),
        ),
        (
            "Device inside",
            format!("{} ({})", net.container_interface_name, net.mac),
        ),
        (
            "Ingress",
            enforcement(endpoint, status.policy.ingress_enforced),
        ),
        (
            "Egress",
            enforcement(endpoint, status.policy.egress_enforced),
        ),
        ("Policies", status.policy.policies.join("\n")),
        (
            "Policy set",
            format!(
                "{} (revision {})",
                status.policy.set, status.policy.revision
            ),
        ),
        ("Container", who.container_id.clone()),
    ];
    let rows = rows
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| [key.to_owned(), value]);
    table(["FIELD", "VALUE"], rows)
}

#[cfg(test)]
mod tests {
    use axon_api::agent::{EndpointAddressing, EndpointView};

    fn endpoint() -> EndpointView {
        let mut view = EndpointView {
            id: 12,
            ..EndpointView::default()
        };
        view.status.state = "ready".to_owned();
        view.status.identity.id = 5678;
        view.status.identity.labels = [axon_model::Label::new("k8s", "org", "empire")]
            .into_iter()
            .collect();
        view.status.networking.addressing = vec![EndpointAddressing {
            ipv4: "10.0.0.2".to_owned(),
            ipv6: String::new(),
        }];
        view.status.external_identifiers.pod_name = "default/deathstar-1".to_owned();
        view.status.policy.ingress_enforced = true;
        view.status.policy.policies = vec!["default/rule1".to_owned()];
        view
    }

    #[test]
    fn a_line_for_each() {
        assert_eq!(
            super::list(&[endpoint()]),
            "\
ENDPOINT  NAME                 IDENTITY  IPV4      IPV6  INGRESS   EGRESS  STATE
12        default/deathstar-1  5678      10.0.0.2  -     enforced  open    ready
"
        );
        let text = super::detail(&endpoint());
        assert!(text.contains("Labels         k8s:org=empire\n"), "{text}");
        assert!(text.contains("Policies       default/rule1\n"), "{text}");
        assert!(!text.contains("Message"), "{text}");
    }

    #[test]
    fn people_write_pods_and_addresses() {
        for (given, asked) in [
            ("12", "12"),
            ("default/xwing", "cep-name:default/xwing"),
            ("10.0.0.1", "ipv4:10.0.0.1"),
            ("fd00::1", "ipv6:fd00::1"),
            ("cep-name:a/b", "cep-name:a/b"),
            ("container-id:abc", "container-id:abc"),
        ] {
            assert_eq!(super::reference(given), asked);
        }
    }
}
