//! What is asked about: a packet, and what is said on its connection.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::Path;

use axon_hubble::{Flow, Layer4};
use axon_policy::Request;
use axon_replay::{Node, Packet, ServiceError, Transport};
use serde_json::Value;

use crate::failure::{ABSENT, Failure};

/// Bytes of a line that holds a flow, at most.
const LINE_MAX: u64 = 1 << 20;
/// Types of echo requests, by family.
const ECHO: [u8; 2] = [8, 128];

/// The packet that opens a connection between two ends.
pub(super) fn packet(
    node: &Node,
    ends: [&str; 2],
    port: &str,
    v6: bool,
) -> Result<Packet, Failure> {
    let [from, to] = ends;
    let sources = addresses(node, from)?;
    let destinations = match service(node, to) {
        Some((namespace, name)) => {
            let asked = transport(port, 0, v6)?;
            let asked = (asked.port(), asked.protocol(v6));
            let is_outside = sources.iter().all(|addr| node.is_outside(*addr));
            let found = node.addresses_of_service((namespace, name), asked, is_outside);
            found.map_err(|error| no_service(&error))?
        }
        None => addresses(node, to)?,
    };
    let of = |list: &[IpAddr], v6: bool| list.iter().copied().find(|a| a.is_ipv6() == v6);
    let pair = |v6: bool| Some((of(&sources, v6)?, of(&destinations, v6)?));
    let families = if v6 { [true, true] } else { [false, true] };
    let (source, destination) = families.into_iter().find_map(pair).ok_or_else(|| {
        let family = if v6 {
            "IPv6 addresses"
        } else {
            "addresses of one family"
        };
        Failure::usage(format!("{from} and {to} do not both have {family}"))
    })?;
    Ok(Packet {
        source,
        destination,
        transport: transport(port, node.free_port(source), source.is_ipv6())?,
    })
}

/// The service that an end is: one that is called so, unless a workload is.
fn service<'a>(node: &Node, end: &'a str) -> Option<(&'a str, &'a str)> {
    let parts = |end: &'a str| end.split_once('/').unwrap_or(("default", end));
    if let Some(named) = end.strip_prefix("service:") {
        return Some(parts(named));
    }
    let (namespace, name) = parts(end);
    let is_workload = !node.addresses_of(namespace, name).is_empty();
    (!is_workload && node.has_service(namespace, name)).then_some((namespace, name))
}

fn no_service(error: &ServiceError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        ServiceError::Unknown(_) | ServiceError::NoFrontend(_) => failure
            .remedy("`axon service list` tells which there are")
            .code(ABSENT),
        ServiceError::NoAddress { .. } => failure
            .remedy("ask by the address of one of its pods")
            .code(ABSENT),
        ServiceError::NoPort { .. } => Failure::usage(error.to_string()),
    }
}

/// The addresses of an end.
fn addresses(node: &Node, end: &str) -> Result<Vec<IpAddr>, Failure> {
    if let Ok(address) = end.parse() {
        return Ok(vec![address]);
    }
    if let Some(name) = end.strip_prefix("node:") {
        let found = node.addresses_of_node(name);
        if found.is_empty() {
            return Err(Failure::new(format!("no node {name:?} is known")).code(ABSENT));
        }
        return Ok(found);
    }
    let (namespace, name) = end.split_once('/').unwrap_or(("default", end));
    let found = node.addresses_of(namespace, name);
    if found.is_empty() {
        let known = node.workloads();
        let like = known
            .iter()
            .filter(|other| other.ends_with(&format!("/{name}")));
        let like: Vec<&str> = like.map(String::as_str).take(3).collect();
        let remedy = match like.is_empty() {
            true => {
                "`axon ip list` and `axon service list` tell who is known; give namespace/pod, \
                 node:NAME, service:NAMESPACE/NAME or an address"
                    .to_owned()
            }
            false => format!("did you mean {}?", like.join(" or ")),
        };
        return Err(Failure::new(format!(
            "no workload {namespace}/{name} is known to node {}",
            node.name
        ))
        .remedy(remedy)
        .code(ABSENT));
    }
    Ok(found)
}

/// Reads `80`, `80/tcp`, `icmp`, `8/icmp`.
fn transport(text: &str, source_port: u16, v6: bool) -> Result<Transport, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "--port {text:?}; expected a number with tcp, udp, sctp or icmp, as 80/tcp"
        ))
    };
    let (number, protocol) = match text.split_once('/') {
        Some((number, protocol)) => (number, protocol.to_ascii_lowercase()),
        None if text.eq_ignore_ascii_case("icmp") => ("", "icmp".to_owned()),
        None => (text, "tcp".to_owned()),
    };
    if protocol == "icmp" || protocol == "icmpv6" {
        let kind = match number {
            "" => ECHO[usize::from(v6)],
            number => number.parse().map_err(|_| wrong())?,
        };
        return Ok(Transport::Icmp {
            kind,
            code: 0,
            id: source_port,
        });
    }
    let ports = [source_port, number.parse().map_err(|_| wrong())?];
    match protocol.as_str() {
        "tcp" => Ok(Transport::Tcp {
            ports,
            flags: Transport::SYN,
        }),
        "udp" => Ok(Transport::Udp { ports }),
        "sctp" => Ok(Transport::Sctp { ports }),
        _ => Err(wrong()),
    }
}

/// Reads the first flow of a file, or of standard input.
pub(super) fn flow(path: &Path) -> Result<Packet, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("{}: {what}", path.display()))
            .remedy("give a flow as axon observe -o json prints it, or - for standard input")
    };
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| wrong(&error.to_string()))?)
    };
    for line in BufReader::new(source.take(LINE_MAX)).lines() {
        let line = line.map_err(|error| wrong(&error.to_string()))?;
        if !line.trim().is_empty() {
            return packet_of(&line).map_err(|what| wrong(&what));
        }
    }
    Err(wrong("holds no flow"))
}

pub(super) fn packet_of(line: &str) -> Result<Packet, String> {
    let mut tree: Value =
        serde_json::from_str(line).map_err(|error| format!("no JSON: {error}"))?;
    let tree = match tree.get_mut("flow") {
        Some(flow) => flow.take(),
        None => tree,
    };
    let flow: Flow = serde_json::from_value(tree).map_err(|error| format!("no flow: {error}"))?;
    let ip = flow.ip.ok_or("the flow has no IP addresses")?;
    let transport = match flow.l4.ok_or("the flow has no ports")? {
        Layer4::Tcp(tcp) => Transport::Tcp {
            ports: [tcp.source_port, tcp.destination_port],
            flags: tcp.flags.0,
        },
        Layer4::Udp(udp) => Transport::Udp {
            ports: [udp.source_port, udp.destination_port],
        },
        Layer4::Sctp(sctp) => Transport::Sctp {
            ports: [sctp.source_port, sctp.destination_port],
        },
        Layer4::ICMPv4(icmp) | Layer4::ICMPv6(icmp) => Transport::Icmp {
            kind: icmp.icmp_type,
            code: icmp.code,
            id: 0,
        },
    };
    Ok(Packet {
        source: ip.source,
        destination: ip.destination,
        transport,
    })
}

/// Reads `GET /path` or `GET http://host/path`.
pub(super) fn request(text: &str, headers: &[String]) -> Result<Request, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "--http {text:?}; expected a method and a path, as \"GET /path\""
        ))
    };
    let (method, target) = text.trim().split_once(' ').ok_or_else(wrong)?;
    let target = target.trim();
    let (host, path) = match target.strip_prefix("http://") {
        Some(rest) => match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        },
        None => ("", target),
    };
    if !path.starts_with('/') || path.contains(' ') {
        return Err(wrong());
    }
    let header = |text: &String| {
        let (name, value) = text.split_once(':').ok_or_else(|| {
            Failure::usage(format!("--header {text:?}; expected \"Name: value\""))
        })?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    Ok(Request::Http {
        method: method.to_owned(),
        path: path.to_owned(),
        host: host.to_owned(),
        headers: headers.iter().map(header).collect::<Result<_, Failure>>()?,
    })
}

#[cfg(test)]
mod tests {
    use axon_policy::Request;
    use axon_replay::Transport;

    use super::{packet_of, request, transport};

    #[test]
    fn ports_are_read() {
        let tcp = |port| Transport::Tcp {
            ports: [9, port],
            flags: 2,
        };
        let icmp = |kind| Transport::Icmp {
            kind,
            code: 0,
            id: 9,
        };
        for (text, v6, expected) in [
            ("80", false, Some(tcp(80))),
            ("443/TCP", false, Some(tcp(443))),
            ("53/udp", true, Some(Transport::Udp { ports: [9, 53] })),
            ("icmp", false, Some(icmp(8))),
            ("icmp", true, Some(icmp(128))),
            ("3/icmp", false, Some(icmp(3))),
            ("", false, None),
            ("http", false, None),
            ("65536", false, None),
            ("80/", false, None),
            ("256/icmp", false, None),
        ] {
            assert_eq!(transport(text, 9, v6).ok(), expected, "{text}");
        }
    }

    #[test]
    fn flows_are_read_bare_and_wrapped() {
        let flow = r#"{"time":"2026-01-01T00:00:00Z","IP":{"source":"10.0.0.1","destination":"10.0.0.2",
            "ipVersion":"IPv4"},"l4":{"TCP":{"source_port":5,"destination_port":80,"flags":{"SYN":true}}},
            "event_type":{"type":1}}"#;
        let packet = packet_of(flow).expect("a packet");
        assert_eq!(packet.to_string(), "TCP 10.0.0.1:5 -> 10.0.0.2:80 SYN");
        assert_eq!(packet_of(&format!("{{\"flow\":{flow}}}")), Ok(packet));
        for text in ["", "[]", "{}", r#"{"lost_events":{}}"#] {
            packet_of(text).expect_err(text);
        }
    }

    #[test]
    fn requests_are_read() {
        let Request::Http {
            path,
            host,
            headers,
            ..
        } = request("GET http://web.shop/x?y", &["X-Token: a".to_owned()]).expect("a request")
        else {
            panic!("another kind")
        };
        assert_eq!((path.as_str(), host.as_str()), ("/x?y", "web.shop"));
        assert_eq!(headers, [("X-Token".to_owned(), "a".to_owned())]);
        for text in ["", "GET", "GET x", "GET /a b"] {
            request(text, &[]).expect_err(text);
        }
    }
}
