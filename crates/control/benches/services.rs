//! What services of a large cluster cost a node: all of them from nothing, one
//! slice that changes; the engine beside its slow twin.
//!
//! ```text
//! 5,000 services of one slice of ten endpoints each
//! ```
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use axon_control::services::{Engine, Numbers, ServicesConfig, resolve};
use axon_model::{
    EndpointSlice, ObjectKey, Protocol, Service, ServicePort, ServiceSpec, SliceEndpoint,
    SlicePort, TargetPort, Written,
};

const SERVICES: u32 = 5_000;
const ENDPOINTS: u32 = 10;
/// Changes; the median and the last of a hundred are told.
const CHANGES: u32 = 1_000;

fn written(first: u32, n: u32) -> Written {
    let [_, b, c, d] = n.to_be_bytes();
    Written {
        field: "spec.clusterIP".to_owned(),
        addr: [10, u8::try_from(first).unwrap_or(0) + b, c, d].into(),
    }
}

fn service(n: u32) -> (ObjectKey, Arc<Service>) {
    let key = ObjectKey::new("shop", &format!("s{n}"));
    let service = Service {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        spec: ServiceSpec {
            has_v4: true,
            cluster_ips: vec![written(200, n)],
            ports: vec![ServicePort {
                index: 0,
                name: String::new(),
                protocol: Protocol::TCP,
                port: 80,
                target: TargetPort::Number(8080),
                node_port: 0,
            }],
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    (key, service.into())
}

fn slice(n: u32, endpoints: u32) -> (ObjectKey, Arc<EndpointSlice>) {
    let endpoint = |e: u32| SliceEndpoint {
        addresses: vec![written(e, n)],
        is_ready: true,
        is_serving: true,
        node: "b".to_owned(),
        ..SliceEndpoint::default()
    };
    let slice = EndpointSlice {
        service: format!("s{n}"),
        endpoints: (0..endpoints).map(endpoint).collect(),
        ports: vec![SlicePort {
            name: String::new(),
            protocol: Protocol::TCP,
            port: 8080,
        }],
        ..EndpointSlice::default()
    };
    (ObjectKey::new("shop", &format!("s{n}-1")), slice.into())
}

fn main() {
    let config = ServicesConfig::default();
    let mut numbers = Numbers::default();
    let mut engine = Engine::new("a", config.clone(), false);
    for n in 0..SERVICES {
        let (key, new) = service(n);
        engine.set_service(&key, Some(new));
        let (key, new) = slice(n, ENDPOINTS);
        engine.set_slice(&key, Some(new));
    }
    engine.mark_complete();
    let begin = Instant::now();
    let stepped = engine.step(0, &mut numbers);
    println!(
        "{SERVICES} services of {ENDPOINTS}: {:?}, {} rows",
        begin.elapsed(),
        stepped.rows
    );
    let mut times: Vec<Duration> = Vec::new();
    let mut rows = 0;
    for n in 0..CHANGES {
        // One endpoint goes, one comes.
        let fewer = ENDPOINTS - 1 + n % 2;
        let (key, new) = slice(n / 2 * 7 % SERVICES, fewer);
        let begin = Instant::now();
        engine.set_slice(&key, Some(new));
        let stepped = engine.step(u64::from(n), &mut numbers);
        times.push(begin.elapsed());
        rows = rows.max(stepped.rows);
    }
    times.sort();
    let at = |part: usize| times[times.len() * part / 100];
    println!(
        "one slice: median {:?}, p99 {:?}, {rows} rows at most",
        at(50),
        at(99)
    );
    let begin = Instant::now();
    let slow = resolve(engine.cluster(), "a", &config, &mut numbers);
    let same = slow == engine.tables().rows();
    println!("the slow way: {:?}, the same rows: {same}", begin.elapsed());
}
