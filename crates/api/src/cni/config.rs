//! The network configuration that comes on stdin.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, ErrorCode, SpecVersion, Success};
use crate::tree::from_tree;

/// The smallest MTU that IPv4 allows on a link, and the greatest there is.
const MTU_MIN: u32 = 68;
const MTU_MAX: u32 = 65535;

/// An attachment that still exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Name of the device inside.
    pub ifname: String,
}

/// The network configuration, ours and the specification's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// The version to speak.
    pub cni_version: SpecVersion,
    /// The network's name.
    pub name: String,
    /// The plugin's name.
    pub plugin_type: String,
    /// What the plugins before this one answered.
    pub prev_result: Option<Success>,
    /// GC: the attachments that stay; absent if the runtime names none at
    /// all, which is not the same as naming an empty list.
    pub valid_attachments: Option<Vec<Attachment>>,
    /// `api-socket`: the agent's socket; empty: the usual path.
    pub api_socket: String,
    /// `mtu`; 0: the node's.
    pub mtu: u32,
    /// `log-file`: where the plugin logs; empty: nowhere.
    pub log_file: String,
    /// `enable-debug`: log more.
    pub enable_debug: bool,
}

/// As it is written. Fields of other plugins and runtimes are passed over.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    #[serde(rename = "cniVersion")]
    cni_version: String,
    name: String,
    #[serde(rename = "type")]
    plugin_type: String,
    #[serde(rename = "prevResult")]
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    /// The name that runtimes used before 1.1 was out.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
    #[serde(rename = "api-socket")]
    api_socket: String,
    ipam: Option<Value>,
    mtu: u32,
    #[serde(rename = "log-file")]
    log_file: String,
    #[serde(rename = "enable-debug")]
    enable_debug: bool,
}

impl NetConf {
    /// Reads it.
    ///
    /// # Errors
    /// Code 1 (version), 2 (`ipam`), 6 (no such JSON), 7 (wrong values).
    pub fn parse(stdin: &[u8]) -> Result<Self, Error> {
        let unread = |path: &str, details: String| {
            let place = if path.is_empty() { "" } else { " at " };
            Error::new(
                ErrorCode::DecodingFailure,
                format!("the network configuration cannot be read{place}{path}"),
            )
            .with_details(details)
        };
        let tree = serde_json::from_slice(stdin).map_err(|error| unread("", error.to_string()))?;
        let wire: Wire = from_tree(tree).map_err(|error| unread(&error.path, error.message))?;
        if wire.cni_version.is_empty() {
            return Err(Error::new(
                ErrorCode::IncompatibleVersion,
                "the network configuration has no cniVersion",
            )
            .with_details("expected one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"));
        }
        let cni_version = wire.cni_version.parse().map_err(|error| {
            let error: super::VersionError = error;
            Error::new(ErrorCode::IncompatibleVersion, error.to_string())
        })?;
        check_name(&wire.name)?;
        check_ipam(wire.ipam.as_ref())?;
        if wire.mtu != 0 && !(MTU_MIN..=MTU_MAX).contains(&wire.mtu) {
            return Err(wrong(
                "mtu",
                &wire.mtu.to_string(),
                &format!("{MTU_MIN} to {MTU_MAX}, or 0 for the node's"),
            ));
        }
        Ok(Self {
            cni_version,
            name: wire.name,
            plugin_type: wire.plugin_type,
            prev_result: wire
                .prev_result
                .as_ref()
                .map(Success::from_json)
                .transpose()?,
            valid_attachments: wire.valid_attachments.or(wire.attachments),
            api_socket: wire.api_socket,
            mtu: wire.mtu,
            log_file: wire.log_file,
            enable_debug: wire.enable_debug,
        })
    }

    /// The version that an input asks for, as far as it can be read: errors
    /// are answered in it.
    pub fn asked_version(stdin: &[u8]) -> String {
        serde_json::from_slice::<Value>(stdin)
            .ok()
            .and_then(|value| Some(value.get("cniVersion")?.as_str()?.to_owned()))
            .unwrap_or_default()
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
    if first && name.bytes().all(rest) {
        return Ok(());
    }
    Err(wrong(
        "name",
        &format!("{name:?}"),
        "letters, digits, '_', '.' and '-', a letter or digit first",
    ))
}

/// Addresses come from the agent: a plugin that is named to give them would
/// be passed over silently.
fn check_ipam(ipam: Option<&Value>) -> Result<(), Error> {
    match ipam {
        Some(ipam) if ipam.as_object().is_none_or(|fields| !fields.is_empty()) => Err(Error::new(
            ErrorCode::UnsupportedField,
            format!("ipam of the network configuration is {ipam}; expected none"),
        )
        .with_details("the agent gives addresses out of the node's pod CIDRs")),
        Some(_) | None => Ok(()),
    }
}

fn wrong(field: &str, value: &str, expected: &str) -> Error {
    Error::new(
        ErrorCode::InvalidNetworkConfig,
        format!("{field} of the network configuration is {value}; expected {expected}"),
    )
}
