//! Requests of the agent's HTTP API: method and target, a line end, the body.

use axon_api::agent::{
    EndpointCheck, EndpointCreate, EndpointDelete, EndpointGc, EndpointView, Problem, Status,
};
use axon_api::maps::MapName;
use axon_api::request::{EndpointId, read};
use axon_hubble::Query;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a request as the agent does.
///
/// # Panics
/// If what was read is not read again from what is written.
pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (line, body) = data.split_at(end.unwrap_or(data.len()));
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    let line = String::from_utf8_lossy(line);
    let (method, target) = line.split_once(' ').unwrap_or(("GET", &line));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match (method, path) {
        ("PUT", "/v1/endpoint") => again::<EndpointCreate>(body),
        ("DELETE", "/v1/endpoint") => again::<EndpointDelete>(body),
        ("POST", "/v1/endpoint/check") => again::<EndpointCheck>(body),
        ("POST", "/v1/endpoint/gc") => again::<EndpointGc>(body),
        ("GET", "/v1/monitor") => {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let _ = Query::parse(pairs);
        }
        _ => target_of(path, body),
    }
}

fn target_of(path: &str, body: &[u8]) {
    if let Some(id) = path.strip_prefix("/v1/endpoint/") {
        if let Ok(id) = id.parse::<EndpointId>() {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    } else if let Some(name) = path.strip_prefix("/v1/map/") {
        let _ = name.parse::<MapName>();
    } else {
        // What clients read from an agent.
        let _ = read::<Status>(body);
        let _ = read::<Vec<EndpointView>>(body);
        let _ = read::<Problem>(body);
    }
}

fn again<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) {
    match read::<T>(body) {
        Ok(order) => {
            let text = serde_json::to_vec(&order).expect("what was read can be written");
            assert_eq!(read::<T>(&text), Ok(order));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
