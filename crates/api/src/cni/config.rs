//! The network configuration that comes on stdin.

use serde::{Deserialize, Serialize};

use super::{Error, ErrorCode, SpecVersion, Success};

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
    /// GC: the attachments that stay.
    pub valid_attachments: Vec<Attachment>,
    /// `api-socket`: the agent's socket; empty: the usual path.
    pub api_socket: String,
    /// `mtu`; 0: the node's.
    pub mtu: u32,
    /// `log-file`: where the plugin logs; empty: nowhere.
    pub log_file: String,
    /// `enable-debug`: log more.
    pub enable_debug: bool,
}

impl NetConf {
    /// Reads it.
    ///
    /// # Errors
    /// Code 1 (version), 6 (no such JSON), 7 (wrong values).
    pub fn parse(stdin: &[u8]) -> Result<Self, Error> {
        let _ = stdin;
        Err(Error::new(ErrorCode::DecodingFailure, "not read yet"))
    }
}
