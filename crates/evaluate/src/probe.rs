//! What is asked: one connection, and what is said on it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_model::Protocol;
use axon_policy::Request;
use serde::Deserialize;
use serde_json::Value;

use crate::Problem;

/// One connection.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What the answer is told by.
    #[serde(default)]
    pub id: Value,
    /// Who opens it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// Its protocol.
    pub protocol: String,
    /// Destination port.
    port: Option<u16>,
    /// Of ICMP: the type.
    icmp_type: Option<u8>,
    http: Option<Http>,
    dns: Option<Dns>,
    kafka: Option<Kafka>,
    tls: Option<Tls>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// A pod, by namespace/name.
    Pod(String),
    /// An address.
    Ip(IpAddr),
    /// A node itself.
    Node(String),
    /// An endpoint with a reserved identity.
    Special(String),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Http {
    method: String,
    path: String,
    host: String,
    headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dns {
    query: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kafka {
    api_key: String,
    #[serde(default)]
    topics: Vec<String>,
    #[serde(default, rename = "clientID")]
    client_id: String,
    #[serde(default)]
    api_version: i16,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    sni: String,
}

impl Probe {
    /// A probe from its tree.
    ///
    /// # Errors
    /// What is wrong, by its path.
    pub fn parse(tree: &Value) -> Result<Self, Problem> {
        Ok(serde_path_to_error::deserialize(tree)?)
    }

    /// Protocol, and port or type.
    pub(crate) fn l4(&self) -> Result<(Protocol, u16), Problem> {
        let protocol: Protocol =
            self.protocol
                .parse()
                .map_err(|error: axon_model::ProtocolError| {
                    Problem::new("protocol", error.to_string())
                })?;
        let icmp = [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol);
        match (protocol, icmp, self.port, self.icmp_type) {
            (Protocol::ANY, ..) => Err(Problem::new("protocol", "is any; expected one")),
            (_, _, None | Some(0), None) if protocol.is_extended() => Ok((protocol, 0)),
            (_, _, port, icmp_type) if protocol.is_extended() => Err(Problem::new(
                if port.is_some() { "port" } else { "icmp_type" },
                format!(
                    "{} beside {}, which has neither ports nor types; expected none",
                    port.or(icmp_type.map(u16::from)).unwrap_or_default(),
                    self.protocol
                ),
            )),
            (_, true, None, Some(icmp_type)) => Ok((protocol, icmp_type.into())),
            (_, true, ..) => Err(Problem::new(
                "icmp_type",
                format!(
                    "{} has a type and no port; expected icmp_type alone",
                    self.protocol
                ),
            )),
            (_, false, Some(port), None) => Ok((protocol, port)),
            (_, false, ..) => Err(Problem::new(
                "port",
                format!(
                    "{} has a port and no type; expected port alone",
                    self.protocol
                ),
            )),
        }
    }

    /// The server's name that the client tells, if it speaks TLS.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.sni.as_str())
    }

    /// What is said, one after the other: the start of TLS, then what is inside.
    pub(crate) fn said(&self) -> Result<Vec<Request>, Problem> {
        let tls = self.tls.iter().map(|tls| Request::Tls {
            server_name: tls.sni.clone(),
        });
        let http = self.http.iter().map(|http| Request::Http {
            method: http.method.clone(),
            path: http.path.clone(),
            host: http.host.clone(),
            headers: http.headers.clone().into_iter().collect(),
        });
        let dns = self.dns.iter().map(|dns| Request::Dns {
            query: dns.query.clone(),
        });
        let mut said: Vec<Request> = tls.chain(http).chain(dns).collect();
        if let Some(kafka) = &self.kafka {
            said.push(Request::Kafka {
                api_key: axon_api::cilium::kafka_api_key(&kafka.api_key).ok_or_else(|| {
                    let message = format!("{:?} is no kind of request", kafka.api_key);
                    Problem::new("kafka.apiKey", message)
                })?,
                api_version: kafka.api_version,
                client_id: kafka.client_id.clone(),
                topics: kafka.topics.clone(),
            });
        }
        Ok(said)
    }
}
