//! What a proxy would do with what is said on a connection: the rules that the
//! connection falls under, asked one by one.
//!
//! ```text
//!  allowing entries of the subject for this direction, peer and port
//!    none asks for anything   ──> the connection is not the proxy's
//!    one asks for nothing     ──> whatever is said passes
//!    else                     ──> one of them must hold
//! ```

use axon_abi::{Direction, Identity};
use axon_model::{
    Action, HeaderRule, HeaderValue, HttpRule, KafkaRule, L7, L7Rules, Mismatch, RuleEntry,
};

use crate::compile::from_host;
use crate::ports::{PortTerm, terms};
use crate::select::Who;
use crate::{IdentityInfo, PolicyConfig};

/// Kinds of requests of Kafka that name topics, by number: from produce and
/// fetch to those that make, remove, clear and alter topics.
const KAFKA_WITH_TOPICS: [i16; 19] = [
    0, 1, 2, 3, 4, 5, 6, 8, 9, 19, 20, 21, 23, 24, 27, 28, 34, 35, 37,
];

/// What is said on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A request of HTTP.
    Http {
        /// Its method.
        method: String,
        /// Its path with its query.
        path: String,
        /// The host it is sent to.
        host: String,
        /// Its headers.
        headers: Vec<(String, String)>,
    },
    /// A question to a name server.
    Dns {
        /// The name.
        query: String,
    },
    /// A request of Kafka.
    Kafka {
        /// Its kind.
        api_key: i16,
        /// Version of the kind.
        api_version: i16,
        /// The client's name for itself.
        client_id: String,
        /// Its topics.
        topics: Vec<String>,
    },
    /// The start of a TLS connection.
    Tls {
        /// The server's name; empty if the client tells none.
        server_name: String,
    },
}

/// One end of a connection, and how the other end is reached or reaches it.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// As the subject sees it.
    pub direction: Direction,
    /// The far side.
    pub remote: (Identity, &'a IdentityInfo),
    /// The receiver, whose ports have names.
    pub receiver: &'a IdentityInfo,
    /// IP protocol number.
    pub protocol: u8,
    /// Port of the receiver.
    pub port: u16,
    /// The server's name that the client told, if what is said is said in TLS.
    pub server_name: Option<&'a str>,
}

/// Whether the proxy of a subject lets pass what is said, by the entries of
/// all rules of the Normal tier that are about the subject: rules of the others
/// ask for nothing, and what they decide does not reach the proxy. `true` also where no entry asks: then
/// the connection does not reach the proxy. Whether it may be at all is not
/// asked here.
pub fn passes<'a>(
    config: &PolicyConfig,
    entries: impl Iterator<Item = &'a RuleEntry>,
    connection: &Connection<'_>,
    request: &Request,
) -> bool {
    let asked = demands(config, entries, connection);
    asked.is_empty() || asked.iter().any(|l7| holds(l7, connection, request))
}

/// What the proxy of a subject asks of what is said on a connection, by the same entries: one of
/// these must hold. Empty where nothing is asked.
pub fn demands<'a>(
    config: &PolicyConfig,
    entries: impl Iterator<Item = &'a RuleEntry>,
    connection: &Connection<'_>,
) -> Vec<&'a L7> {
    let entries = entries.filter(|entry| is_for(entry, connection));
    let asked: Option<Vec<&L7>> = entries.map(|entry| entry.l7.as_deref()).collect();
    let local = config.allow_localhost && is_for(&from_host(), connection);
    match local {
        true => Vec::new(),
        false => asked.unwrap_or_default(),
    }
}

/// Whether an entry allows a connection.
fn is_for(entry: &RuleEntry, connection: &Connection<'_>) -> bool {
    let (id, info) = connection.remote;
    entry.action == Action::Allow
        && entry.direction == connection.direction
        && Who::new(&entry.peers, entry.action).selects(id, info)
        && terms(&entry.ports)
            .iter()
            .any(|term| has_port(connection, term))
}

/// Whether a connection is to one of these ports.
pub(crate) fn has_port(connection: &Connection<'_>, term: &PortTerm) -> bool {
    let Connection { protocol, port, .. } = *connection;
    match term {
        PortTerm::Prefixes(l4) => l4.iter().any(|l4| l4.covers(protocol, port)),
        PortTerm::Named(name, of) => {
            let declared = connection.receiver.named_ports.get(&(name.clone(), *of));
            of.0 == protocol && declared.is_some_and(|ports| ports.contains(&port))
        }
    }
}

/// Whether a request is as an entry asks.
fn holds(l7: &L7, connection: &Connection<'_>, request: &Request) -> bool {
    let told = match request {
        Request::Tls { server_name } => Some(server_name.as_str()),
        _ => connection.server_name,
    };
    let named = |told: &str| !told.is_empty() && l7.server_names.iter().any(|n| n.matches(told));
    if !l7.server_names.is_empty() && !told.is_some_and(named) {
        return false;
    }
    let reads = told.is_none() || l7.terminates_tls.is_some();
    match (request, reads) {
        // What is said inside is asked when it is said.
        (Request::Tls { .. }, true) => return true,
        (_, false) => return l7.rules == L7Rules::Any,
        (_, true) => {}
    }
    match (&l7.rules, request) {
        (L7Rules::Any, _) => true,
        (
            L7Rules::Http(rules),
            Request::Http {
                method,
                path,
                host,
                headers,
            },
        ) => rules
            .iter()
            .any(|rule| http(rule, [method, path, host], headers)),
        (L7Rules::Dns(names), Request::Dns { query }) => {
            names.iter().any(|name| name.matches(query))
        }
        (L7Rules::Kafka(rules), Request::Kafka { .. }) => kafka(rules, request),
        // Another protocol than the one that is read there.
        (L7Rules::Http(_) | L7Rules::Dns(_) | L7Rules::Kafka(_) | L7Rules::Parser(..), _) => false,
    }
}

fn http(rule: &HttpRule, texts: [&String; 3], headers: &[(String, String)]) -> bool {
    let patterns = [&rule.method, &rule.path, &rule.host];
    let matches = patterns.into_iter().zip(texts).all(|(pattern, text)| {
        pattern
            .as_ref()
            .is_none_or(|pattern| pattern.matches(text.as_bytes()))
    });
    matches && rule.headers.iter().all(|rule| header(rule, headers))
}

/// Whether a header is as asked for, or may be otherwise. Several of one name
/// are one, with commas (RFC 9110, section 5.3). What a secret holds is not
/// known here: nothing is taken for it.
fn header(rule: &HeaderRule, headers: &[(String, String)]) -> bool {
    let values: Vec<&str> = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(&rule.name))
        .map(|(_, value)| value.as_str())
        .collect();
    rule.mismatch != Mismatch::Refuse
        || match &rule.value {
            // Nobody here knows secrets: as if there were none.
            Some(HeaderValue::Text(expected) | HeaderValue::SecretOr(_, expected)) => {
                !values.is_empty() && values.join(",") == *expected
            }
            Some(HeaderValue::Secret(_)) => false,
            None => !values.is_empty(),
        }
}

/// Every topic of a request must be one that a rule allows.
fn kafka(rules: &[KafkaRule], request: &Request) -> bool {
    let Request::Kafka {
        api_key,
        api_version,
        client_id,
        topics,
    } = request
    else {
        return false;
    };
    let is_for = |rule: &&KafkaRule| {
        (rule.api_keys.is_empty() || rule.api_keys.contains(api_key))
            && rule
                .api_version
                .is_none_or(|version| version == *api_version)
            && rule.client_id.as_ref().is_none_or(|id| id == client_id)
    };
    let mut rules = rules.iter().filter(is_for);
    if topics.is_empty() {
        // A topic can only be asked of a request that has some.
        return rules.any(|rule| rule.topic.is_none() || !KAFKA_WITH_TOPICS.contains(api_key));
    }
    let rules: Vec<&KafkaRule> = rules.collect();
    topics.iter().all(|topic| {
        let names = |rule: &&KafkaRule| rule.topic.as_ref().is_none_or(|name| name == topic);
        rules.iter().any(names)
    })
}

#[cfg(test)]
#[path = "l7_tests.rs"]
mod tests;
