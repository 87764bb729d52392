//! What `toPorts` asks of what is said: `rules`, `serverNames`, TLS and
//! listeners.

use std::collections::BTreeMap;

use axon_abi::Direction;
use axon_model::{L7, L7Rules, Listener, NamePattern, TlsContext};
use serde::{Deserialize, Serialize};

use super::http::{HttpRequest, http_rule};
use super::kafka::{KafkaRequest, kafka_rule};
use super::policy::{PortProtocol, ToPorts};
use crate::manifest::FieldError;

/// Priorities of listeners: a lower one goes first.
const PRIORITY_MAX: u8 = 100;

/// What must be said, of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct L7Field {
    /// Requests of HTTP.
    pub http: Vec<HttpRequest>,
    /// Questions to a name server.
    pub dns: Vec<NameField>,
    /// Requests of Kafka.
    pub kafka: Vec<KafkaRequest>,
    /// Name of the parser of another protocol.
    pub l7proto: String,
    /// What that parser is told.
    pub l7: Vec<BTreeMap<String, String>>,
}

/// A name, or a pattern of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct NameField {
    /// The one name.
    pub match_name: String,
    /// The pattern.
    pub match_pattern: String,
}

/// Keys and certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsField {
    /// Where they are.
    pub secret: SecretField,
    /// Name of the trusted authorities.
    #[serde(rename = "trustedCA")]
    pub trusted_ca: String,
    /// Name of the certificate.
    pub certificate: String,
    /// Name of the private key.
    pub private_key: String,
}

/// A secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SecretField {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A listener of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerField {
    /// The object that configures it.
    pub envoy_config: EnvoyConfigField,
    /// Its name there.
    pub name: String,
    /// Which of several takes a connection.
    pub priority: u16,
}

/// An object that configures the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EnvoyConfigField {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl SecretField {
    pub(super) fn to_model(&self) -> axon_model::SecretRef {
        axon_model::SecretRef {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// What an item of `toPorts` asks of what is said; `None` if nothing.
///
/// # Errors
/// What Cilium would refuse, by its path.
pub(super) fn l7(
    item: &ToPorts,
    direction: Direction,
    path: &str,
) -> Result<Option<L7>, FieldError> {
    let at = |field: &str, message: &str| FieldError::new(format!("{path}.{field}"), message);
    let rules = match &item.rules {
        Some(rules) => to_rules(rules, direction, &format!("{path}.rules"))?,
        None => L7Rules::Any,
    };
    let has_rules = rules != L7Rules::Any;
    if has_rules {
        check_ports(&rules, &item.ports, path)?;
    }
    let names = item.server_names.iter().enumerate();
    let server_names: Vec<NamePattern> = names
        .map(|(n, name)| pattern(name, &format!("{path}.serverNames[{n}]")))
        .collect::<Result<_, _>>()?;
    if has_rules && !server_names.is_empty() && item.terminating_tls.is_none() {
        return Err(at(
            "serverNames",
            "stands beside rules that cannot be read without terminatingTLS",
        ));
    }
    let listener = item
        .listener
        .as_ref()
        .map(|field| listener(field, &format!("{path}.listener")))
        .transpose()?;
    if listener.is_some() && direction == Direction::Ingress {
        return Err(at("listener", "is for egress; expected none on ingress"));
    }
    if listener.is_some() && has_rules {
        return Err(at("listener", "stands beside rules; expected one of them"));
    }
    let tls = |field: &Option<TlsField>, name: &str| {
        let context = |field| tls(field, &format!("{path}.{name}"));
        field.as_ref().map(context).transpose()
    };
    let l7 = L7 {
        rules,
        server_names,
        terminates_tls: tls(&item.terminating_tls, "terminatingTLS")?,
        originates_tls: tls(&item.originating_tls, "originatingTLS")?,
        listener,
    };
    Ok((l7 != L7::default()).then_some(l7))
}

fn to_rules(field: &L7Field, direction: Direction, path: &str) -> Result<L7Rules, FieldError> {
    let given = [
        !field.http.is_empty(),
        !field.dns.is_empty(),
        !field.kafka.is_empty(),
        !field.l7proto.is_empty() || !field.l7.is_empty(),
    ];
    if given.iter().filter(|given| **given).count() > 1 {
        return Err(FieldError::new(
            path,
            "names several protocols; expected one of http, dns, kafka, l7proto",
        ));
    }
    let each = |list: &str, n: usize| format!("{path}.{list}[{n}]");
    let http = field.http.iter().enumerate();
    let http = http.map(|(n, rule)| http_rule(rule, &each("http", n)));
    let kafka = field.kafka.iter().enumerate();
    let kafka = kafka.map(|(n, rule)| kafka_rule(rule, &each("kafka", n)));
    let dns = field.dns.iter().enumerate();
    let dns = dns.map(|(n, name)| name_pattern(name, &each("dns", n)));
    Ok(match given {
        [true, ..] => L7Rules::Http(http.collect::<Result<_, _>>()?),
        [_, true, ..] if direction == Direction::Ingress => {
            return Err(FieldError::new(
                format!("{path}.dns"),
                "is for egress; expected none on ingress",
            ));
        }
        [_, true, ..] => L7Rules::Dns(dns.collect::<Result<_, _>>()?),
        [_, _, true, _] => L7Rules::Kafka(kafka.collect::<Result<_, _>>()?),
        [.., true] if field.l7proto.is_empty() => {
            return Err(FieldError::new(
                format!("{path}.l7"),
                "stands without l7proto, which names who reads it",
            ));
        }
        [.., true] => L7Rules::Parser(field.l7proto.clone(), field.l7.clone()),
        [false, false, false, false] => L7Rules::Any,
    })
}

/// A name, or a pattern of names.
pub(super) fn name_pattern(field: &NameField, path: &str) -> Result<NamePattern, FieldError> {
    match (field.match_name.as_str(), field.match_pattern.as_str()) {
        ("", "") => Err(FieldError::new(
            path,
            "is empty; expected matchName or matchPattern",
        )),
        ("", text) => pattern(text, &format!("{path}.matchPattern")),
        (name, "") => {
            let path = format!("{path}.matchName");
            let pattern = pattern(name, &path)?;
            match pattern.name() {
                Some(_) => Ok(pattern),
                None => Err(FieldError::new(
                    path,
                    format!("{name:?} is a pattern; expected a name, or matchPattern"),
                )),
            }
        }
        (_, _) => Err(FieldError::new(
            path,
            "has both matchName and matchPattern; expected one of them",
        )),
    }
}

fn pattern(text: &str, path: &str) -> Result<NamePattern, FieldError> {
    NamePattern::new(text).map_err(|error| FieldError::new(path, error.to_string()))
}

/// What is said can be read of single ports only: of TCP, and of DNS of UDP.
fn check_ports(rules: &L7Rules, ports: &[PortProtocol], path: &str) -> Result<(), FieldError> {
    let is_dns = matches!(rules, L7Rules::Dns(_));
    for (n, port) in ports.iter().enumerate() {
        let at = |field: &str, message: String| {
            FieldError::new(format!("{path}.ports[{n}].{field}"), message)
        };
        let good = match port.protocol.to_ascii_uppercase().as_str() {
            "TCP" => true,
            "UDP" | "ANY" | "" => is_dns,
            _ => false,
        };
        if !good {
            let expected = if is_dns { "UDP, TCP or ANY" } else { "TCP" };
            return Err(at(
                "protocol",
                format!("{:?} beside rules; expected {expected}", port.protocol),
            ));
        }
        if port.port == "0" {
            return Err(at(
                "port",
                "\"0\" beside rules; expected one port".to_owned(),
            ));
        }
        if is_dns && port.end_port != 0 && port.end_port.to_string() != port.port {
            return Err(at(
                "endPort",
                format!("{} beside rules.dns; expected one port", port.end_port),
            ));
        }
    }
    Ok(())
}

fn tls(field: &TlsField, path: &str) -> Result<TlsContext, FieldError> {
    if field.secret.name.is_empty() {
        return Err(FieldError::new(
            format!("{path}.secret.name"),
            "is missing; expected the name of a secret",
        ));
    }
    Ok(TlsContext {
        secret: field.secret.to_model(),
        trusted_ca: field.trusted_ca.clone(),
        certificate: field.certificate.clone(),
        private_key: field.private_key.clone(),
    })
}

fn listener(field: &ListenerField, path: &str) -> Result<Listener, FieldError> {
    let at = |field: &str, message: String| FieldError::new(format!("{path}.{field}"), message);
    let kinds = ["", "CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"];
    if !kinds.contains(&field.envoy_config.kind.as_str()) {
        return Err(at(
            "envoyConfig.kind",
            format!(
                "{:?}; expected CiliumEnvoyConfig or CiliumClusterwideEnvoyConfig",
                field.envoy_config.kind
            ),
        ));
    }
    if field.envoy_config.name.is_empty() {
        return Err(at("envoyConfig.name", "is missing".to_owned()));
    }
    if field.name.is_empty() {
        return Err(at("name", "is missing".to_owned()));
    }
    let priority = u8::try_from(field.priority).unwrap_or(u8::MAX);
    if priority > PRIORITY_MAX {
        return Err(at(
            "priority",
            format!("{}; expected 1 to {PRIORITY_MAX}", field.priority),
        ));
    }
    Ok(Listener {
        kind: field.envoy_config.kind.clone(),
        config: field.envoy_config.name.clone(),
        name: field.name.clone(),
        priority,
    })
}
