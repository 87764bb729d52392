//! How requests of the agent's HTTP API are read: bodies, and the ids of
//! endpoints in paths.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::DeserializeOwned;

/// Why a body was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is no JSON, or a field is not as expected.
    #[error("{place}: {message}")]
    Field {
        /// The field, or the body as a whole.
        place: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is more than one value.
    #[error("after the body: {message}")]
    Trailing {
        /// What was found.
        message: String,
    },
}

/// Reads a JSON body: one value, nothing after it.
///
/// # Errors
/// The field that is not as expected, and how.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        BodyError::Field {
            place: if path == "." {
                "the body".to_owned()
            } else {
                format!("field {path}")
            },
            message: error.inner().to_string(),
        }
    })?;
    deserializer.end().map_err(|error| BodyError::Trailing {
        message: error.to_string(),
    })?;
    Ok(value)
}

/// What an endpoint is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointId {
    /// `123`, `cilium-local:123`: its number on the node.
    Number(u16),
    /// `cep-name:NAMESPACE/NAME`, `pod-name:NAMESPACE/NAME`.
    Name {
        /// The namespace.
        namespace: String,
        /// The pod's name, or the process's.
        name: String,
    },
    /// `container-id:ID`.
    Container(String),
    /// `ipv4:ADDRESS`, `ipv6:ADDRESS`.
    Address(IpAddr),
    /// `cni-attachment-id:ID:DEVICE`.
    Attachment(String),
}

/// A text that names no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint id {id:?} is none")]
pub struct EndpointIdError {
    id: String,
}

impl EndpointIdError {
    /// What would have been one.
    pub const EXPECTED: &str = "a number, cep-name:NAMESPACE/POD, container-id:ID, ipv4:ADDRESS, \
                                ipv6:ADDRESS or cni-attachment-id:ID:DEVICE";
}

impl FromStr for EndpointId {
    type Err = EndpointIdError;

    fn from_str(id: &str) -> Result<Self, EndpointIdError> {
        let read = || {
            let Some((prefix, value)) = id.split_once(':') else {
                return id.parse().ok().map(Self::Number);
            };
            Some(match prefix {
                "cilium-local" => Self::Number(value.parse().ok()?),
                "cep-name" | "pod-name" => {
                    let (namespace, name) = value.split_once('/')?;
                    Self::Name {
                        namespace: namespace.to_owned(),
                        name: name.to_owned(),
                    }
                }
                "container-id" => Self::Container(value.to_owned()),
                "ipv4" | "ipv6" => Self::Address(value.parse().ok()?),
                "cni-attachment-id" => Self::Attachment(value.to_owned()),
                _ => return None,
            })
        };
        read().ok_or_else(|| EndpointIdError { id: id.to_owned() })
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name { namespace, name } => write!(f, "cep-name:{namespace}/{name}"),
            Self::Container(id) => write!(f, "container-id:{id}"),
            Self::Address(IpAddr::V4(address)) => write!(f, "ipv4:{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "ipv6:{address}"),
            Self::Attachment(id) => write!(f, "cni-attachment-id:{id}"),
        }
    }
}
