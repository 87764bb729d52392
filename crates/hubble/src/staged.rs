//! What staged policies say of a flow, where Hubble's schema has room for it.
//!
//! Hubble's `Flow` has one field for what it does not know: `extensions`, a
//! message of any type (`google.protobuf.Any`). Here it is a
//! `google.protobuf.Struct`, which every client of Hubble can read and shows as it
//! is.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Policy, Verdict};

/// The type of what is in `extensions`.
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

/// What would become of a flow if staged policies were enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Staged {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it would be dropped, as `POLICY_DENIED`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub drop_reason_desc: Cow<'static, str>,
    /// The staged policies that would decide so; none where one that is enforced
    /// decides, or nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
}

#[derive(Serialize)]
struct Extensions<'a> {
    #[serde(rename = "@type")]
    of: &'static str,
    value: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    staged: &'a Staged,
}

#[expect(clippy::ref_option, reason = "serde's signature")]
pub(crate) fn serialize<S: Serializer>(
    staged: &Option<Box<Staged>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let extensions = staged.as_ref().map(|staged| Extensions {
        of: STRUCT,
        value: Fields { staged },
    });
    extensions.serialize(serializer)
}

/// What somebody else has put there is no business of ours.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<Staged>>, D::Error> {
    let mut extensions = Value::deserialize(deserializer)?;
    let staged = extensions.pointer_mut("/value/staged").map(Value::take);
    Ok(staged.and_then(|staged| serde_json::from_value(staged).ok()))
}
