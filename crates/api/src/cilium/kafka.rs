//! `rules.kafka`.

use axon_model::KafkaRule;
use serde::{Deserialize, Serialize};

use crate::manifest::FieldError;

/// Letters of a topic.
const NAME_CHARS_MAX: usize = 255;
/// Kinds of requests by number, as Kafka's protocol guide names them.
const API_KEYS: [&str; 34] = [
    "produce",
    "fetch",
    "offsets",
    "metadata",
    "leaderandisr",
    "stopreplica",
    "updatemetadata",
    "controlledshutdown",
    "offsetcommit",
    "offsetfetch",
    "findcoordinator",
    "joingroup",
    "heartbeat",
    "leavegroup",
    "syncgroup",
    "describegroups",
    "listgroups",
    "saslhandshake",
    "apiversions",
    "createtopics",
    "deletetopics",
    "deleterecords",
    "initproducerid",
    "offsetforleaderepoch",
    "addpartitionstotxn",
    "addoffsetstotxn",
    "endtxn",
    "writetxnmarkers",
    "txnoffsetcommit",
    "describeacls",
    "createacls",
    "deleteacls",
    "describeconfigs",
    "alterconfigs",
];
/// What who produces has to ask: produce, metadata, apiversions.
const PRODUCE: [i16; 3] = [0, 3, 18];
/// What who consumes has to ask: fetch, offsets, metadata, and what groups of consumers need.
const CONSUME: [i16; 11] = [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18];

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaRequest {
    /// `produce` or `consume`: the kinds of requests that it takes.
    pub role: String,
    /// The kind of request.
    pub api_key: String,
    /// Its version.
    pub api_version: String,
    /// The client's name for itself.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Its topic.
    pub topic: String,
}

/// The rule that a request must follow.
///
/// # Errors
/// What Cilium would refuse, by its path.
pub(super) fn kafka_rule(request: &KafkaRequest, path: &str) -> Result<KafkaRule, FieldError> {
    let at = |field: &str, message: String| FieldError::new(format!("{path}.{field}"), message);
    let api_keys = match (request.role.as_str(), request.api_key.as_str()) {
        ("", "") => Vec::new(),
        ("", name) => vec![
            api_key(name)
                .ok_or_else(|| at("apiKey", format!("{name:?} is no kind of request of Kafka")))?,
        ],
        (role, "") => match role.to_ascii_lowercase().as_str() {
            "produce" => PRODUCE.to_vec(),
            "consume" => CONSUME.to_vec(),
            _ => {
                return Err(at("role", format!("{role:?}; expected produce or consume")));
            }
        },
        (_, _) => {
            return Err(at(
                "role",
                "stands beside apiKey; expected one of them".to_owned(),
            ));
        }
    };
    let api_version = match request.api_version.as_str() {
        "" => None,
        text => match text.parse() {
            Ok(version) if version >= 0 => Some(version),
            _ => {
                return Err(at("apiVersion", format!("{text:?}; expected a number")));
            }
        },
    };
    let good = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    let topic = &request.topic;
    if topic.len() > NAME_CHARS_MAX || !topic.bytes().all(good) {
        return Err(at(
            "topic",
            format!("{topic:?}; expected at most {NAME_CHARS_MAX} letters, digits, '.', '_', '-'"),
        ));
    }
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    Ok(KafkaRule {
        api_keys,
        api_version,
        client_id: some(&request.client_id),
        topic: some(&request.topic),
    })
}

/// The number of a kind of requests, by its name.
pub fn api_key(name: &str) -> Option<i16> {
    let known = API_KEYS
        .iter()
        .position(|known| known.eq_ignore_ascii_case(name))?;
    i16::try_from(known).ok()
}
