use axon_model::ObjectKey;
use serde_json::{Value, json};

use super::{ServiceUpsert, service_key};
use crate::manifest::{Object, parse};
use crate::request;

fn whole() -> Value {
    json!({
        "type": "LoadBalancer",
        "addresses": ["192.0.2.10", "2001:db8::10"],
        "ports": [
            {"name": "http", "port": 80, "backends": [
                {"address": "10.0.0.1", "port": 8080},
                {"address": "10.0.0.2", "port": 8080},
                {"address": "10.0.0.2", "port": 8081, "weight": 3},
                {"address": "fd00::1", "port": 8080},
            ]},
            {"name": "dns", "port": 53, "protocol": "UDP", "backends": []},
        ],
        "session-affinity-timeout-s": 60,
        "algorithm": "maglev",
        "source-ranges": ["198.51.100.0/24"],
        "source-ranges-policy": "deny",
    })
}

fn objects(body: &Value) -> Result<Vec<Object>, String> {
    let body = body.to_string();
    let upsert: ServiceUpsert =
        request::read(body.as_bytes()).map_err(|error| error.to_string())?;
    let key = ObjectKey::new("shop", "web");
    let created = "2026-11-29T12:00:00Z";
    let made = upsert.objects(&key, created);
    made.map_err(|error| error.to_string())
}

#[test]
fn a_service_is_the_objects_that_a_source_reads() {
    let made = objects(&whole()).expect("objects");
    let text = ServiceUpsert::manifest(&made).expect("a text");
    let read = parse(text.as_bytes()).expect("a manifest");
    let read: Vec<Object> = read
        .documents
        .into_iter()
        .filter_map(|d| d.object)
        .collect();
    assert_eq!(read, made, "{text}");
    let Object::Service(service) = &read[0] else {
        panic!("{read:?}");
    };
    let spec = service.to_model().spec;
    assert_eq!(spec.faults, []);
    let addrs: Vec<String> = spec
        .load_balancer_ips
        .iter()
        .map(|ip| ip.addr.to_string())
        .collect();
    assert_eq!(addrs, ["192.0.2.10", "2001:db8::10"]);
    assert!(spec.has_v4 && spec.has_v6 && spec.source_deny);
    assert_eq!(spec.affinity_timeout_s, Some(60));
    assert_eq!(spec.created, "2026-11-29T12:00:00Z");
    let slices = read[1..].iter().map(|object| match object {
        Object::EndpointSlice(slice) => slice.to_model(),
        other => panic!("{other:?}"),
    });
    let slices: Vec<_> = slices.collect();
    assert!(
        slices
            .iter()
            .all(|s| s.faults.is_empty() && s.service == "web")
    );
    let told: Vec<(usize, u16, Option<u16>)> = slices
        .iter()
        .map(|s| (s.endpoints.len(), s.ports[0].port, s.weight))
        .collect();
    let expected = [(2, 8080, None), (1, 8081, Some(3)), (1, 8080, None)];
    assert_eq!(told, expected);
}

#[test]
fn a_cluster_address_is_for_who_is_inside() {
    let mut body = whole();
    body["type"] = "ClusterIP".into();
    let made = objects(&body).expect("objects");
    let Object::Service(service) = &made[0] else {
        panic!("{made:?}");
    };
    let spec = service.to_model().spec;
    assert_eq!(
        (spec.cluster_ips.len(), spec.load_balancer_ips.len()),
        (2, 0)
    );
    assert_eq!(spec.faults, []);
}

#[test]
fn what_is_wrong_is_named_by_its_field() {
    let cases: [(&str, Value, &[&str]); 23] = [
        (
            "/type",
            json!("NodePort"),
            &["type: \"NodePort\"", "ClusterIP"],
        ),
        ("/addresses", json!([]), &["addresses: is empty"]),
        ("/addresses/1", json!("x"), &["addresses[1]: ", "\"x\""]),
        ("/addresses/1", json!(7), &["field addresses[1]", "string"]),
        (
            "/addresses/1",
            json!("127.0.0.1"),
            &["addresses[1]: 127.0.0.1"],
        ),
        (
            "/addresses/1",
            json!("192.0.2.10"),
            &["addresses[1]: ", "already"],
        ),
        ("/ports", json!([]), &["ports: is empty"]),
        ("/ports/0/port", json!(0), &["ports[0].port: 0"]),
        (
            "/ports/0/port",
            json!(70000),
            &["field ports[0].port", "70000"],
        ),
        ("/ports/1/port", json!("dns"), &["field ports[1].port"]),
        ("/ports/1/name", json!(""), &["ports[1].name: is missing"]),
        ("/ports/1/name", json!("DNS"), &["ports[1].name: \"DNS\""]),
        (
            "/ports/1/name",
            json!("http"),
            &["ports[1].name: ", "ports[0]"],
        ),
        ("/ports/1/protocol", json!("ICMP"), &["ports[1].protocol: "]),
        (
            "/ports/0/backends/1/address",
            json!("10.0.0"),
            &["ports[0].backends[1].address"],
        ),
        (
            "/ports/0/backends/1/address",
            json!("10.0.0.1"),
            &["backends[1].address: ", "already"],
        ),
        (
            "/ports/0/backends/0/port",
            json!(0),
            &["ports[0].backends[0].port: 0"],
        ),
        (
            "/ports/0/backends/2/weight",
            json!(-1),
            &["field ports[0].backends[2].weight"],
        ),
        (
            "/session-affinity-timeout-s",
            json!(86401),
            &["session-affinity-timeout-s: 86401"],
        ),
        (
            "/algorithm",
            json!("best"),
            &["algorithm: \"best\"", "random or maglev"],
        ),
        (
            "/source-ranges/0",
            json!("198.51.100.0/33"),
            &["source-ranges[0]: "],
        ),
        (
            "/source-ranges-policy",
            json!("drop"),
            &["source-ranges-policy: \"drop\""],
        ),
        (
            "/ports/0/backends/0",
            json!({"address": "10.0.0.1", "port": 1, "state": "x"}),
            &["ports[0].backends[0]", "state"],
        ),
    ];
    for (pointer, value, parts) in cases {
        let mut body = whole();
        *body.pointer_mut(pointer).expect(pointer) = value;
        let error = objects(&body).expect_err(pointer);
        for part in parts {
            assert!(error.contains(part), "{pointer}: {error}");
        }
    }
    let mut body = whole();
    body["addresses"] = json!(["192.0.2.10"]);
    let error = objects(&body).expect_err("an IPv6 backend");
    assert!(
        error.starts_with("ports[0].backends[3].address: fd00::1 is IPv6"),
        "{error}"
    );
    body["addresses"] = json!(["192.0.2.10", "2001:db8::10"]);
    body["ports"][1] = json!({"name": "b", "port": 80, "protocol": "TCP"});
    let error = objects(&body).expect_err("a port twice");
    assert!(error.starts_with("ports[1].port: 80"), "{error}");
    for (namespace, name, field) in [
        ("", "a", "namespace"),
        ("b", "A", "name"),
        ("b", "a.b", "name"),
    ] {
        let error = service_key(namespace, name).expect_err(field);
        assert_eq!(error.path, field);
    }
}

#[test]
fn fields_of_objects_have_names_here() {
    for (field, ours) in [
        ("status.loadBalancer.ingress[1].ip", "addresses[1]"),
        ("spec.clusterIPs[1]", "addresses[1]"),
        ("spec.clusterIP", "addresses[0]"),
        ("spec.ports[2].port", "ports[2].port"),
        ("spec.loadBalancerSourceRanges[0]", "source-ranges[0]"),
        ("spec.type", "spec.type"),
    ] {
        assert_eq!(ServiceUpsert::field_of(field), ours);
    }
}
