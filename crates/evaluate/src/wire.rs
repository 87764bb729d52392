//! One line in, one line out.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Problem;
use crate::strict::Strict;

/// Reads a question in which no key stands twice.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let Strict(tree) = serde_path_to_error::deserialize(&mut json)?;
    json.end()
        .map_err(|error| Problem::new(".", error.to_string()))?;
    Ok(serde_path_to_error::deserialize(tree)?)
}

/// An answer as a line.
pub(crate) fn line(answer: &impl Serialize) -> String {
    serde_json::to_string(answer)
        .unwrap_or_else(|error| format!("{{\"error\":\"{}\"}}", error.to_string().escape_default()))
}
