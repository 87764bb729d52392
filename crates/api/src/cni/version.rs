//! Versions of the specification.

use std::fmt;
use std::str::FromStr;

/// A version of the specification that is spoken here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    /// 0.3.0: interfaces in the result.
    V0_3_0,
    /// 0.3.1: the same, written more clearly.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: no more family beside each address.
    V1_0_0,
    /// 1.1.0: STATUS, GC, more of interfaces and routes.
    #[default]
    V1_1_0,
}

impl SpecVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        })
    }
}

/// A version that is not spoken here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CNI version {text:?} is not supported; expected one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0")]
pub struct VersionError {
    text: String,
}

impl FromStr for SpecVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::ALL
            .into_iter()
            .find(|version| version.to_string() == text)
            .ok_or_else(|| VersionError {
                text: text.to_owned(),
            })
    }
}

/// What VERSION answers; `asked` is the `cniVersion` of its input.
pub fn version_info(asked: &str) -> serde_json::Value {
    let answer = match asked {
        "" => SpecVersion::default().to_string(),
        asked => asked.to_owned(),
    };
    serde_json::json!({
        "cniVersion": answer,
        "supportedVersions": SpecVersion::ALL.map(|version| version.to_string()),
    })
}
