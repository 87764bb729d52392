//! Bodies of requests.

use axon_api::request::{self, BodyError};
use axum::body::Bytes;
use serde::de::DeserializeOwned;

use crate::problem::Refusal;

/// Reads a JSON body; a refusal names the field.
pub(super) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    request::read(body).map_err(|error| {
        let remedy = match error {
            BodyError::Field { .. } => "send a JSON body as the API's documentation has it",
            BodyError::Trailing { .. } => "send one JSON value",
        };
        Refusal::request(error.to_string(), remedy)
    })
}

#[cfg(test)]
mod tests {
    use axon_api::agent::EndpointCreate;
    use axum::body::Bytes;

    use super::read;

    #[test]
    fn a_refusal_names_the_field() {
        for (body, named) in [
            (r#"{"container-id": 1}"#, "container-id"),
            (
                r#"{"container-id":"a","interface":"e","netns":"/n","ips":["10.0.0.1","x"]}"#,
                "ips[1]",
            ),
            (
                r#"{"container-id":"a","interface":"e","netns":"/n","colour":1}"#,
                "colour",
            ),
            (r#"{"container-id":"a"}"#, "interface"),
            ("", "the body"),
            (
                r#"{"container-id":"a","interface":"e","netns":"/n"} x"#,
                "after the body",
            ),
        ] {
            let refusal =
                read::<EndpointCreate>(&Bytes::from_static(body.as_bytes())).expect_err(body);
            assert_eq!(refusal.status, 400, "{body}");
            assert!(refusal.problem.error.contains(named), "{body}: {refusal}");
        }
    }
}
