//! Arguments of `axon service upsert`, and the body that they stand for.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use axon_api::request;
use axon_api::upsert::{ServiceUpsert, UpsertBackend, UpsertPort};

use crate::failure::Failure;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Upsert {
    /// NAMESPACE/NAME.
    pub(crate) service: String,
    /// Where it listens: ADDRESS:PORT, with `/UDP` or `/SCTP` behind it if it is not TCP.
    /// May be given several times, with one port.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        value_parser = frontend,
        required_unless_present = "file"
    )]
    frontend: Vec<Frontend>,
    /// Who is behind it: ADDRESS:PORT, with `,weight=N` behind it if not all take the
    /// same. May be given several times.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = backend)]
    backend: Vec<UpsertBackend>,
    /// `LoadBalancer`, for the network and for who is inside, or `ClusterIP`, for who is
    /// inside.
    #[arg(long = "type", value_name = "TYPE", default_value = "")]
    kind: String,
    /// Seconds for which a client finds the same backend.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    affinity: u32,
    /// `random` or `maglev`.
    #[arg(long, value_name = "WORD", default_value = "")]
    algorithm: String,
    /// `snat` or `dsr`.
    #[arg(long, value_name = "WORD", default_value = "")]
    forwarding: String,
    /// Whom it lets in, or keeps out. May be given several times.
    #[arg(long, value_name = "CIDR")]
    source_range: Vec<String>,
    /// Whether these are let in (`allow`), or kept out (`deny`).
    #[arg(long, value_name = "WORD", default_value = "")]
    source_ranges_policy: String,
    /// All of that in a file; `-` is standard input.
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "frontend",
            "backend",
            "kind",
            "affinity",
            "algorithm",
            "forwarding",
            "source_range",
            "source_ranges_policy",
        ]
    )]
    file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frontend {
    at: SocketAddr,
    protocol: String,
}

fn frontend(text: &str) -> Result<Frontend, String> {
    let (at, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let protocol = protocol.to_ascii_uppercase();
    if !["TCP", "UDP", "SCTP"].contains(&protocol.as_str()) {
        return Err(format!("{protocol:?} is none of TCP, UDP and SCTP"));
    }
    Ok(Frontend {
        at: socket(at)?,
        protocol,
    })
}

fn backend(text: &str) -> Result<UpsertBackend, String> {
    let (at, option) = match text.split_once(',') {
        Some((at, option)) => (at, Some(option)),
        None => (text, None),
    };
    let weight = option.map(|option| {
        let number = option.strip_prefix("weight=");
        let number = number.and_then(|number| number.parse().ok());
        number.ok_or_else(|| format!("{option:?} is none; expected weight=0 to weight=65535"))
    });
    let at = socket(at)?;
    Ok(UpsertBackend {
        address: at.ip().to_string(),
        port: at.port(),
        weight: weight.transpose()?,
    })
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected ADDRESS:PORT as 192.0.2.10:80 or [2001:db8::10]:80";
    text.parse().map_err(|_| format!("{text:?}; {expected}"))
}

impl Upsert {
    /// The service as the API has it.
    pub(crate) fn body(&self) -> Result<ServiceUpsert, Failure> {
        if let Some(path) = &self.file {
            return read(path);
        }
        let mut frontends = self.frontend.iter();
        let Some(first) = frontends.next() else {
            return Err(Failure::usage("--frontend is missing"));
        };
        let is_other = |other: &&Frontend| {
            (other.at.port(), &other.protocol) != (first.at.port(), &first.protocol)
        };
        if let Some(other) = frontends.find(is_other) {
            return Err(Failure::usage(format!(
                "--frontend {}/{}: another port or protocol than {}/{}; tell several ports by a \
                 file (-f)",
                other.at, other.protocol, first.at, first.protocol
            )));
        }
        let addresses = self.frontend.iter().map(|f| f.at.ip().to_string());
        Ok(ServiceUpsert {
            kind: self.kind.clone(),
            addresses: addresses.collect(),
            ports: vec![UpsertPort {
                name: String::new(),
                port: first.at.port(),
                protocol: first.protocol.clone(),
                backends: self.backend.clone(),
            }],
            session_affinity_timeout_s: self.affinity,
            algorithm: self.algorithm.clone(),
            forwarding: self.forwarding.clone(),
            source_ranges: self.source_range.clone(),
            source_ranges_policy: self.source_ranges_policy.clone(),
        })
    }
}

fn read(path: &std::path::Path) -> Result<ServiceUpsert, Failure> {
    let failed = |error| Failure::new(format!("{}: {error}", path.display()));
    let mut text = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read(path).map_err(failed)?;
    }
    let read = request::read(&text);
    read.map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Upsert;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        upsert: Upsert,
    }

    fn body(words: &[&str]) -> Result<serde_json::Value, String> {
        let line = Line::try_parse_from([&["upsert", "shop/web"], words].concat());
        let line = line.map_err(|error| error.to_string())?;
        let body = line.upsert.body().map_err(|error| format!("{error:?}"))?;
        Ok(serde_json::to_value(body).expect("json"))
    }

    #[test]
    fn options_stand_for_one_port() {
        let words = [
            "--frontend=192.0.2.10:53/udp",
            "--frontend=[2001:db8::10]:53/UDP",
            "--backend=10.0.0.1:5353",
            "--backend=[fd00::1]:5353,weight=7",
            "--affinity=30",
            "--source-range=198.51.100.0/24",
        ];
        let expected = serde_json::json!({
            "addresses": ["192.0.2.10", "2001:db8::10"],
            "ports": [{"port": 53, "protocol": "UDP", "backends": [
                {"address": "10.0.0.1", "port": 5353},
                {"address": "fd00::1", "port": 5353, "weight": 7},
            ]}],
            "session-affinity-timeout-s": 30,
            "source-ranges": ["198.51.100.0/24"],
        });
        assert_eq!(body(&words), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, part) in [
            (&["--frontend=192.0.2.10"][..], "192.0.2.10"),
            (&["--frontend=192.0.2.10:80/ICMP"], "ICMP"),
            (
                &["--frontend=192.0.2.10:80", "--frontend=192.0.2.11:81"],
                "192.0.2.11:81/TCP",
            ),
            (
                &["--frontend=192.0.2.10:80", "--backend=10.0.0.1"],
                "10.0.0.1",
            ),
            (
                &["--frontend=192.0.2.10:80", "--backend=10.0.0.1:1,w=2"],
                "w=2",
            ),
            (
                &["--frontend=192.0.2.10:80", "--file=/dev/null"],
                "cannot be used with",
            ),
            (&[], "--frontend"),
            (&["--file=/nonexistent/x"], "/nonexistent/x"),
            (&["--file=/dev/null"], "the body"),
        ] {
            let error = body(words).expect_err(part);
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
