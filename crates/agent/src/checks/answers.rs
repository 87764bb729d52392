//! What is answered, in the words of kube-proxy and Cilium.

use std::fmt;
use std::sync::Arc;

use axon_control::services::HealthCheck;
use axon_hubble::Time;
use axum::Json;
use axum::http::header::{CONNECTION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::clock::{monotonic_ns, monotonic_zero_ns};
use crate::node::Node;

/// By this a load balancer may give nodes their shares.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What a door answers.
#[derive(Clone)]
pub(super) enum Answer {
    /// How many backends of a service are here.
    Check(Arc<HealthCheck>),
    /// Whether services are in force; none: the agent has gone.
    Healthz(Arc<dyn Fn() -> Option<Healthz> + Send + Sync>),
}

/// Whether services are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Healthz {
    pub(super) is_well: bool,
    /// When they were last; the zero of time if never.
    pub(super) updated: Time,
    pub(super) now: Time,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(check) => write!(f, "health-check node port of Service {}", check.service),
            Self::Healthz(_) => f.write_str("kube-proxy-replacement-healthz-bind-address"),
        }
    }
}

/// Of a node: services are in force there once the kernel has been brought up to date
/// with all of them, and as long as their changes reach it. What single rows the kernel
/// does not take is told by the status alone: where a map is full, it is so on all
/// nodes, and none of them would be left.
pub(super) fn of(node: &Node) -> Healthz {
    let view = node.view();
    let zero_ns = monotonic_zero_ns();
    let updated_ns = view.services_ns.map_or(0, |ns| zero_ns.saturating_add(ns));
    Healthz {
        is_well: node.is_ready() && view.services_ns.is_some() && view.services_error.is_none(),
        updated: Time(updated_ns),
        now: Time(zero_ns.saturating_add(monotonic_ns())),
    }
}

impl Answer {
    /// The answer to a request at this path.
    pub(super) fn to(&self, path: &str) -> Response {
        let (code, headers, body) = match self {
            Self::Check(check) => {
                let here = check.here;
                let weight = HeaderMap::from_iter([(WEIGHT, HeaderValue::from(here))]);
                (code(here > 0), weight, json(check))
            }
            Self::Healthz(ask) => match ask().filter(|_| path == "/healthz") {
                Some(healthz) => (code(healthz.is_well), HeaderMap::new(), healthz.json()),
                None => return (StatusCode::NOT_FOUND, closing()).into_response(),
            },
        };
        (code, closing(), headers, body).into_response()
    }
}

fn code(is_well: bool) -> StatusCode {
    match is_well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// One request is all that a probe has, so that no connection stays.
fn closing() -> [(HeaderName, HeaderValue); 2] {
    [
        (CONNECTION, HeaderValue::from_static("close")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ]
}

fn json(check: &HealthCheck) -> Response {
    #[derive(Serialize)]
    struct Name<'a> {
        namespace: &'a str,
        name: &'a str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        service: Name<'a>,
        local_endpoints: usize,
    }
    let service = Name {
        namespace: &check.service.namespace,
        name: &check.service.name,
    };
    let local_endpoints = check.here;
    Json(Body {
        service,
        local_endpoints,
    })
    .into_response()
}

impl Healthz {
    /// As kube-proxy does, what is well is up to date now.
    fn json(self) -> Response {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            last_updated: String,
            current_time: String,
        }
        let updated = if self.is_well { self.now } else { self.updated };
        Json(Body {
            last_updated: as_go(updated),
            current_time: as_go(self.now),
        })
        .into_response()
    }
}

/// As Go writes a time where nobody says how: `2026-11-20 17:30:00.5 +0000 UTC`.
fn as_go(time: Time) -> String {
    let text = time.to_string().replace('T', " ");
    let text = text.trim_end_matches('Z');
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axon_control::services::HealthCheck;
    use axon_hubble::Time;
    use axon_model::ObjectKey;
    use axum::body::to_bytes;
    use axum::response::Response;
    use serde_json::{Value, json};

    use super::{Answer, Healthz, WEIGHT, as_go};

    async fn told(response: Response) -> (u16, Value) {
        let code = response.status().as_u16();
        let body = to_bytes(response.into_body(), 4096).await.expect("a body");
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn a_service_has_backends_here_or_none() {
        for (here, expected) in [(0, 503), (1, 200), (7, 200)] {
            let answer = Answer::Check(Arc::new(HealthCheck {
                service: ObjectKey::new("shop", "we\"b"),
                here,
            }));
            // Balancers ask at paths of their own.
            for path in ["/healthz", "/", "/any/where"] {
                let response = answer.to(path);
                let headers = response.headers().clone();
                assert_eq!(headers[WEIGHT], here.to_string().as_str());
                assert_eq!(headers["content-type"], "application/json");
                assert_eq!(headers["connection"], "close");
                let service = json!({"namespace": "shop", "name": "we\"b"});
                let body = json!({"service": service, "localEndpoints": here});
                assert_eq!(told(response).await, (expected, body), "{path}");
            }
        }
    }

    #[tokio::test]
    async fn services_are_in_force_or_were() {
        let at = |seconds: u64| Time(seconds * 1_000_000_000);
        for (is_well, code, updated) in [
            (true, 200, "1970-01-01 00:03:20 +0000 UTC"),
            (false, 503, "1970-01-01 00:01:40 +0000 UTC"),
        ] {
            let healthz = Healthz {
                is_well,
                updated: at(100),
                now: at(200),
            };
            let answer = Answer::Healthz(Arc::new(move || Some(healthz)));
            let now = "1970-01-01 00:03:20 +0000 UTC";
            let body = json!({"lastUpdated": updated, "currentTime": now});
            assert_eq!(told(answer.to("/healthz")).await, (code, body));
            assert_eq!(told(answer.to("/other")).await.0, 404);
        }
    }

    #[test]
    fn times_are_written_as_go_does() {
        for (ns, expected) in [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (500_000_000, "1970-01-01 00:00:00.5 +0000 UTC"),
            (600_000_000_010, "1970-01-01 00:10:00.00000001 +0000 UTC"),
        ] {
            assert_eq!(as_go(Time(ns)), expected);
        }
    }
}
