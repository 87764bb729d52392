//! Endpoints of this node.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use axon_abi::Identity;
use serde::{Deserialize, Serialize};

use crate::Labels;

/// A MAC address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no MAC address; expected six hexadecimal bytes as in 02:00:00:00:00:01")]
pub struct MacError {
    text: String,
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError {
            text: text.to_owned(),
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() {
            Err(error())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Where an endpoint stands in its life, in Cilium's words.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// Its labels or their identity are not known yet.
    #[default]
    WaitingForIdentity,
    /// Its rows are being written.
    Regenerating,
    /// It was found on disk at start and is being checked.
    Restoring,
    /// Its policy is in force.
    Ready,
    /// It is being taken away.
    Disconnecting,
}

/// A workload of this node: what CNI ADD (or `axon run`) asked for, and what
/// has become of it. Persisted, so that its number never changes meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its number on this node (1 to 65535).
    pub id: u16,
    /// The container it belongs to; with `interface` the CNI attachment.
    pub container_id: String,
    /// Name of the device inside.
    pub container_interface: String,
    /// Path of its network namespace; empty if not known.
    pub netns: String,
    /// Namespace of its pod; of a plain process the one it was put in, or
    /// empty.
    pub namespace: String,
    /// Name of its pod; empty for a plain process.
    pub pod_name: String,
    /// Name of a plain process; empty for a pod.
    #[serde(default)]
    pub process_name: String,
    /// Unique id of its pod; empty if not known.
    pub pod_uid: String,
    /// Name of its host-side device.
    pub interface: String,
    /// Index of its host-side device.
    pub ifindex: u32,
    /// MAC address of the device inside.
    pub mac: Mac,
    /// MAC address of the host-side device.
    pub node_mac: Mac,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Labels given with the endpoint itself (`axon run --label`); a pod's
    /// come from its manifest.
    pub own_labels: Labels,
    /// The labels that make its identity; empty until they are known.
    pub labels: Labels,
    /// Its identity; [`Identity::INIT`] until its labels are known.
    #[serde(with = "identity_number")]
    pub identity: Identity,
    /// Where it stands.
    pub state: EndpointState,
    /// Whether policy is only audited.
    pub audit: bool,
}

impl Endpoint {
    /// Its name in its namespace: that of its pod, or of the process.
    pub fn name(&self) -> &str {
        match self.pod_name.as_str() {
            "" => &self.process_name,
            pod => pod,
        }
    }
}

mod identity_number {
    use axon_abi::Identity;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(id: &Identity, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u32(id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Identity, D::Error> {
        u32::deserialize(d).map(Identity)
    }
}

#[cfg(test)]
mod tests {
    use super::Mac;

    #[test]
    fn macs_are_read_strictly() {
        assert_eq!("02:00:00:0a:ff:01".parse(), Ok(Mac([2, 0, 0, 10, 255, 1])));
        for text in [
            "",
            "02:00:00:0a:ff",
            "02:00:00:0a:ff:01:02",
            "2:0:0:0:0:1",
            "zz:00:00:00:00:00",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
