//! The whole state, for whoever replays packets over it.

use std::net::IpAddr;
use std::sync::Arc;

use axon_api::state::NodeState;
use axum::Json;
use axum::extract::{Query, State};

use super::Api;
use super::views::{ask, blocking};
use crate::problem::{Refusal, chain};
use crate::state;

/// Answers with the state; of flows only those between two addresses, if they
/// are named.
pub(super) async fn state(
    State(api): State<Arc<Api>>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<NodeState>, Refusal> {
    let between = between(&pairs)?;
    let known = ask(&api, |controller| state::known(controller)).await?;
    let node = Arc::clone(&api.node);
    let whole = blocking(move || state::whole(&node, known, between)).await?;
    whole
        .map(Json)
        .map_err(|error| Refusal::node(chain(&error), "see axon status"))
}

/// The two addresses of a query.
fn between(pairs: &[(String, String)]) -> Result<Option<[IpAddr; 2]>, Refusal> {
    let mut ends = [None; 2];
    for (key, value) in pairs {
        let [source, destination] = &mut ends;
        let end = match key.as_str() {
            "source" => source,
            "destination" => destination,
            other => {
                return Err(Refusal::request(
                    format!("{other:?} is not known here"),
                    "give source and destination, or nothing",
                ));
            }
        };
        let addr: IpAddr = value.parse().map_err(|_| {
            Refusal::request(
                format!("{key} {value:?} is no address"),
                "give an IPv4 or IPv6 address",
            )
        })?;
        *end = Some(addr);
    }
    match ends {
        [Some(source), Some(destination)] => Ok(Some([source, destination])),
        [None, None] => Ok(None),
        _ => Err(Refusal::request(
            "one address without the other",
            "give source and destination, or nothing",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn a_query_names_both_ends_or_none() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            owned.collect()
        };
        assert!(matches!(between(&[]), Ok(None)));
        let both = [("source", "10.0.0.1"), ("destination", "fd00::1")];
        assert!(matches!(between(&pairs(&both)), Ok(Some(_))));
        for wrong in [
            &[("source", "10.0.0.1")][..],
            &[("source", "x"), ("destination", "10.0.0.1")],
            &[("colour", "red")],
        ] {
            let refused = between(&pairs(wrong)).expect_err("refused");
            assert_eq!(refused.status, 400, "{wrong:?}");
        }
    }
}
