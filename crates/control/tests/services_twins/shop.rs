//! Many services that are all alike.

use std::sync::Arc;

use axon_model::{
    EndpointSlice, ObjectKey, Protocol, Service, ServicePort, ServiceSpec, SliceEndpoint,
    SlicePort, TargetPort, Written,
};

fn written(a: usize, b: usize, c: usize) -> Written {
    let octet = |n: usize| u8::try_from(n % 256).expect("below 256");
    Written {
        field: "spec.clusterIP".to_owned(),
        addr: [octet(10), octet(a), octet(b), octet(c)].into(),
    }
}

/// A service with a cluster address of its own.
pub(crate) fn service(n: usize) -> (ObjectKey, Arc<Service>) {
    let key = ObjectKey::new("shop", &format!("s{n}"));
    let port = ServicePort {
        index: 0,
        name: String::new(),
        protocol: Protocol::TCP,
        port: 80,
        target: TargetPort::Number(8080),
        node_port: 0,
    };
    let service = Service {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        spec: ServiceSpec {
            has_v4: true,
            cluster_ips: vec![written(96, n / 256, n)],
            ports: vec![port],
            ..ServiceSpec::default()
        },
        ..Service::default()
    };
    (key, service.into())
}

/// The one slice of a service, with that many endpoints.
pub(crate) fn slice(n: usize, endpoints: usize) -> (ObjectKey, Arc<EndpointSlice>) {
    let endpoint = |e: usize| SliceEndpoint {
        addresses: vec![written(e, n / 256, n)],
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
