//! `axon service`.

use std::io;
use std::net::SocketAddr;

use axon_api::services::{BackendAddress, FrontendView, ServiceView};
use axon_api::upsert::{LeftOut, Upserted};
use axon_cni::http::escape;

use super::evaluate;
use super::upsert::Upsert;
use crate::client::Asking;
use crate::failure::{ABSENT, Failure};
use crate::output::{or_dash, print, table};

/// Arguments of `axon service`.
pub(crate) type Args = Asking<Verb>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Where services listen, and who is behind them.
    List,
    /// One service: all its addresses and ports.
    Get {
        /// Its number, or NAMESPACE/NAME.
        service: String,
    },
    /// Has the agent balance a service that no manifest tells of, or have it be
    /// another: whole, whatever it was before. It stays over restarts, until it is
    /// deleted.
    ///
    /// One port can be told by options; several, each with backends of its own, by a
    /// file (`-f`) with the body of PUT /v1/service/NAMESPACE/NAME, in JSON:
    ///
    /// {"addresses": ["192.0.2.10"], "ports": [{"name": "http", "port": 80,
    /// "backends": [{"address": "10.0.0.1", "port": 8080}]}]}
    ///
    /// What of it is not in force, as somebody else has the address, is told, and the
    /// exit status is 1.
    Upsert(Box<Upsert>),
    /// Has the agent balance it no more.
    Delete {
        /// NAMESPACE/NAME.
        service: String,
    },
    /// What would become of these connections to services? No agent is needed.
    ///
    /// Reads questions from standard input, one line of JSON each: `config` (options
    /// of agents), `outside` (hosts that are not of the cluster, and their
    /// addresses), `listeners` (processes on nodes), and `states`, one after the
    /// other, each with all its `objects` (Nodes, Pods, Services, EndpointSlices,
    /// CiliumLocalRedirectPolicies), the seconds to `wait` and `probes` (from, to,
    /// protocol). Writes an answer for each, in the same order: of every probe who
    /// may answer with what share, what address of the client he sees, and what
    /// becomes of open connections; and what is wrong with which field of an object.
    /// What is wrong with a question, or with a probe, stands in its answer under
    /// `error`.
    Evaluate,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let services = || args.common.client().get("/v1/service");
    match &args.verb {
        Verb::List => {
            let all: Vec<ServiceView> = services()?;
            print(args.common.output, &all, |all| list(all))
        }
        Verb::Get { service } => {
            let mut all: Vec<ServiceView> = services()?;
            all.retain(|view| is_called(&view.spec, service));
            if all.is_empty() {
                return Err(Failure::new(format!("there is no service {service}"))
                    .code(ABSENT)
                    .remedy("see axon service list"));
            }
            print(args.common.output, &all, |all| list(all))
        }
        Verb::Upsert(upsert) => {
            let path = path(&upsert.service)?;
            let body = upsert.body()?;
            let answer: Upserted = args.common.client().json("PUT", &path, Some(&body))?;
            print(args.common.output, &answer, upserted)?;
            match answer.left_out.len() {
                0 => Ok(()),
                _ => Err(Failure::new("not all of the service is in force")),
            }
        }
        Verb::Delete { service } => {
            let client = args.common.client();
            Ok(client.done("DELETE", &path(service)?, None::<&()>)?)
        }
        Verb::Evaluate => evaluate::run(evaluate::SERVICE, io::stdin().lock(), io::stdout().lock()),
    }
}

/// Where the API has a service.
fn path(service: &str) -> Result<String, Failure> {
    let parts = service.split_once('/');
    let parts = parts.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts
        .ok_or_else(|| Failure::usage(format!("{service:?} is no service; give NAMESPACE/NAME")))?;
    Ok(format!(
        "/v1/service/{}/{}",
        escape(namespace),
        escape(name)
    ))
}

fn upserted(answer: &Upserted) -> String {
    let mut text = list(&answer.frontends);
    for left_out in &answer.left_out {
        let LeftOut { field, reason } = left_out;
        text.push_str(&format!("{field}: {reason}; it is left out\n"));
    }
    text
}

fn is_called(view: &FrontendView, name: &str) -> bool {
    let flags = &view.flags;
    view.id.to_string() == name || format!("{}/{}", flags.namespace, flags.name) == name
}

fn list(views: &[ServiceView]) -> String {
    let header = ["ID", "FRONTEND", "TYPE", "SERVICE", "BACKENDS", "NOTES"];
    table(header, views.iter().map(row))
}

fn row(view: &ServiceView) -> [String; 6] {
    let spec = &view.spec;
    let address = &spec.frontend_address;
    let at = SocketAddr::new(address.ip, address.port);
    let flags = &spec.flags;
    let port = match flags.port_name.as_str() {
        "" => String::new(),
        port => format!(":{port}"),
    };
    let owner = match flags.name.as_str() {
        "" => String::new(),
        name => format!("{}/{name}{port}", flags.namespace),
    };
    let backends: Vec<String> = spec.backend_addresses.iter().map(backend).collect();
    [
        spec.id.to_string(),
        format!("{at}/{}", address.protocol),
        flags.kind.clone(),
        or_dash(&owner),
        or_dash(&backends.join("\n")),
        or_dash(&notes(view).join(", ")),
    ]
}

fn backend(backend: &BackendAddress) -> String {
    let at = SocketAddr::new(backend.ip, backend.port);
    let here = if backend.local { ", here" } else { "" };
    format!("{at} ({}{here})", backend.state)
}

/// What is special about a frontend.
fn notes(view: &ServiceView) -> Vec<String> {
    let spec = &view.spec;
    let mut notes = Vec::new();
    if spec.frontend_address.scope == "internal" {
        notes.push("from inside".to_owned());
    }
    for (policy, what) in [
        (&spec.flags.ext_traffic_policy, "external"),
        (&spec.flags.int_traffic_policy, "internal"),
    ] {
        if policy == "Local" {
            notes.push(format!("{what} Local"));
        }
    }
    if spec.algorithm == "maglev" {
        notes.push("maglev".to_owned());
    }
    if spec.session_affinity_timeout_s != 0 {
        notes.push(format!("affinity {} s", spec.session_affinity_timeout_s));
    }
    match &view.status.realized {
        Some(realized) if realized == spec => {}
        Some(_) => notes.push("not in the kernel as it shall be".to_owned()),
        None => notes.push("not in the kernel".to_owned()),
    }
    notes
}

#[cfg(test)]
mod tests {
    use axon_api::services::{
        BackendAddress, FrontendAddress, FrontendFlags, FrontendView, ServiceStatusView,
        ServiceView,
    };

    #[test]
    fn a_backend_a_line_and_what_is_special() {
        let backend = |id: u32, ip: [u8; 4], state: &str, local| BackendAddress {
            id,
            ip: ip.into(),
            port: 8080,
            state: state.to_owned(),
            local,
        };
        let spec = FrontendView {
            id: 3,
            frontend_address: FrontendAddress {
                ip: [10, 96, 0, 1].into(),
                port: 80,
                protocol: "TCP".to_owned(),
                scope: "external".to_owned(),
            },
            flags: FrontendFlags {
                name: "cart".to_owned(),
                namespace: "shop".to_owned(),
                port_name: "http".to_owned(),
                kind: "ClusterIP".to_owned(),
                ext_traffic_policy: "Cluster".to_owned(),
                int_traffic_policy: "Local".to_owned(),
            },
            backend_addresses: vec![
                backend(1, [10, 0, 0, 1], "active", true),
                backend(2, [10, 0, 1, 1], "terminating", false),
            ],
            algorithm: "random".to_owned(),
            session_affinity_timeout_s: 0,
        };
        let there = ServiceView {
            status: ServiceStatusView {
                realized: Some(spec.clone()),
            },
            spec: spec.clone(),
        };
        let lacking = ServiceView {
            spec,
            status: ServiceStatusView::default(),
        };
        let text = super::list(&[there, lacking]);
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().map(words).collect();
        let first = "3 10.96.0.1:80/TCP ClusterIP shop/cart:http 10.0.0.1:8080 (active, here)";
        let second = "10.0.1.1:8080 (terminating)";
        assert_eq!(
            lines,
            [
                "ID FRONTEND TYPE SERVICE BACKENDS NOTES",
                &format!("{first} internal Local"),
                second,
                &format!("{first} internal Local, not in the kernel"),
                second,
            ]
        );
    }
}
