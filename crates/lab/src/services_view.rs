//! `axon lab services`.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::Output;
use crate::control;
use crate::dns::Entry;
use crate::paths::Lab;
use crate::services::{addresses, ingress, is_headless};
use crate::state::Cluster;
use crate::status::say;

/// A service, as the cluster has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceReport {
    /// Its namespace.
    namespace: String,
    /// Its name.
    name: String,
    /// Its type.
    #[serde(rename = "type")]
    kind: String,
    /// Its addresses inside the cluster, or `None`.
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    /// Its addresses from outside, or the name that it stands for.
    external: Vec<String>,
    /// Its ports.
    ports: Vec<PortReport>,
    /// Addresses of its endpoints that are ready.
    endpoints: Vec<String>,
}

impl ServiceReport {
    /// Whether it is that of this namespace and name.
    pub(crate) fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// Whether it has addresses of a family; one that has none stands for those of
    /// its endpoints.
    pub(crate) fn has_family(&self, v6: bool) -> bool {
        let own = self
            .cluster_ips
            .iter()
            .any(|ip| ip.parse::<IpAddr>().is_ok());
        let all = if own {
            &self.cluster_ips
        } else {
            &self.endpoints
        };
        all.iter().any(|ip| ip.contains(':') == v6)
    }
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortReport {
    name: String,
    protocol: String,
    port: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_port: Option<u64>,
}

impl PortReport {
    fn of(port: &Value) -> Self {
        let text = |key: &str| port[key].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            protocol: text("protocol"),
            port: port["port"].as_u64().unwrap_or_default(),
            node_port: port["nodePort"].as_u64(),
        }
    }

    /// As kubectl has it.
    fn line(&self) -> String {
        let node_port = self.node_port.map(|port| format!(":{port}"));
        let node_port = node_port.unwrap_or_default();
        format!("{}{node_port}/{}", self.port, self.protocol)
    }
}

/// The services of a cluster.
pub(crate) fn report(cluster: &Cluster) -> Vec<ServiceReport> {
    let objects = cluster.plan.others.iter();
    let services = objects.filter(|(id, _)| id.kind == "Service");
    let of = |namespace: &str, name: &str| cluster.book.services.get(namespace)?.get(name);
    services
        .map(|(id, value)| {
            one(
                (&id.namespace, &id.name),
                value,
                of(&id.namespace, &id.name),
            )
        })
        .collect()
}

fn one((namespace, name): (&str, &str), value: &Value, entry: Option<&Entry>) -> ServiceReport {
    let spec = &value["spec"];
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let cluster_ips = match is_headless(spec) {
        true => vec!["None".to_owned()],
        false => addresses(spec).iter().map(ToString::to_string).collect(),
    };
    let lent = ingress(value).into_iter().map(|ip| ip.to_string());
    let mut external: Vec<String> = lent.chain(texts(&spec["externalIPs"])).collect();
    external.extend(spec["externalName"].as_str().map(str::to_owned));
    let endpoints = entry.iter().flat_map(|entry| &entry.endpoints);
    ServiceReport {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        kind: spec["type"].as_str().unwrap_or_default().to_owned(),
        cluster_ips,
        external,
        ports: spec["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(PortReport::of)
            .collect(),
        endpoints: endpoints
            .map(|endpoint| endpoint.addr.to_string())
            .collect(),
    }
}

/// Shows the services of a lab.
pub(crate) fn run(lab: &Lab, output: Output) -> Result<()> {
    let report = control::report(lab)?;
    let text = match output {
        Output::Json => {
            let view = json!({
                "servedByAgents": report.serves_services,
                "services": report.services,
            });
            serde_json::to_string_pretty(&view)? + "\n"
        }
        Output::Table => table(&report.services, report.serves_services)?,
    };
    say(&text)
}

fn table(services: &[ServiceReport], is_served: bool) -> Result<String> {
    let mut rows = vec![
        [
            "SERVICE",
            "TYPE",
            "CLUSTER-IPS",
            "EXTERNAL",
            "PORTS",
            "ENDPOINTS",
        ]
        .map(str::to_owned),
    ];
    for service in services {
        let list = |list: &[String]| match list.is_empty() {
            true => "-".to_owned(),
            false => list.join(","),
        };
        let ports: Vec<String> = service.ports.iter().map(PortReport::line).collect();
        rows.push([
            format!("{}/{}", service.namespace, service.name),
            service.kind.clone(),
            list(&service.cluster_ips),
            list(&service.external),
            list(&ports),
            list(&service.endpoints),
        ]);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    if !is_served {
        writeln!(out)?;
        writeln!(
            out,
            "No agent leads these addresses anywhere: names stand for endpoints."
        )?;
    }
    Ok(out)
}
