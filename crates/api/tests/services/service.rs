//! Services.

use axon_api::manifest::{Object, parse};
use axon_model::{
    Algorithm, Distribution, Forwarding, Protocol, ServiceKind, ServiceSpec, TargetPort,
};
use serde_json::{Value, json};

use crate::{merge, object, only};

/// A service with these fields of its `spec` and of itself.
fn service(spec: Value, rest: Value) -> ServiceSpec {
    let mut tree = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    merge(&mut tree["spec"], spec);
    merge(&mut tree, rest);
    match object(&tree) {
        Object::Service(service) => service.to_model().spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_is_read_whole() {
    let read = service(
        json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd96::1"], "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": ["203.0.113.9"], "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "loadBalancerSourceRanges": ["192.0.2.77/24", " 2001:db8::1 "],
            "healthCheckNodePort": 32_001, "trafficDistribution": "PreferSameNode",
            "publishNotReadyAddresses": true,
            "ports": [
                {"name": "http", "port": 80, "targetPort": "Web", "nodePort": 30_080},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
                {"name": "same", "port": 81},
            ],
        }),
        json!({
            "metadata": {
                "name": "web", "creationTimestamp": "2026-01-01T00:00:01Z",
                "labels": {"service.kubernetes.io/service-proxy-name": "other"},
                "annotations": {
                    "service.cilium.io/lb-algorithm": "Maglev",
                    "service.cilium.io/forwarding-mode": "dsr",
                    "service.cilium.io/src-ranges-policy": "deny",
                    "service.cilium.io/type": "LoadBalancer, NodePort",
                },
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "203.0.113.1"}, {"hostname": "lb.example"},
                {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"ip": "203.0.113.3", "ipMode": "VIP"},
            ]}},
        }),
    );
    assert_eq!(read.faults, []);
    assert_eq!(read.created, "2026-01-01T00:00:01Z");
    assert_eq!(read.kind, ServiceKind::LoadBalancer);
    let written = |list: &[axon_model::Written]| -> Vec<(String, String)> {
        let texts = list.iter().map(|w| (w.field.clone(), w.addr.to_string()));
        texts.collect()
    };
    let pair = |field: &str, addr: &str| (field.to_owned(), addr.to_owned());
    assert_eq!(
        written(&read.cluster_ips),
        [
            pair("spec.clusterIP", "10.96.0.1"),
            pair("spec.clusterIPs[1]", "fd96::1")
        ]
    );
    assert_eq!(
        written(&read.load_balancer_ips),
        [
            pair("status.loadBalancer.ingress[0].ip", "203.0.113.1"),
            pair("status.loadBalancer.ingress[3].ip", "203.0.113.3"),
        ]
    );
    assert_eq!(
        written(&read.external_ips),
        [pair("spec.externalIPs[0]", "203.0.113.9")]
    );
    let ranges: Vec<String> = read.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["192.0.2.0/24", "2001:db8::1/128"]);
    assert!(read.external_local && read.internal_local && read.source_deny);
    assert!(read.publish_not_ready && read.follows_hints && read.has_v4 && read.has_v6);
    assert_eq!(
        (read.affinity_timeout_s, read.health_check_node_port),
        (Some(60), 32_001)
    );
    assert_eq!(read.distribution, Distribution::Node);
    assert_eq!(read.algorithm, Some(Algorithm::Maglev));
    assert_eq!(read.forwarding, Some(Forwarding::Dsr));
    assert!(!read.exposed.cluster_ip && read.exposed.node_port && read.exposed.load_balancer);
    assert_eq!(read.proxy_name, "other");
    let ports = read.ports.iter();
    let ports: Vec<_> = ports
        .map(|p| (p.port, p.protocol, p.target.clone(), p.node_port))
        .collect();
    assert_eq!(
        ports,
        [
            (
                80,
                Protocol::TCP,
                TargetPort::Name("web".to_owned()),
                30_080
            ),
            (53, Protocol::UDP, TargetPort::Number(5353), 0),
            (81, Protocol::TCP, TargetPort::Number(81), 0),
        ]
    );
}

#[test]
fn what_is_wrong_with_a_field_of_a_service_is_told_by_its_path() {
    for (spec, field, parts) in [
        (
            json!({"type": "Loadbalancer"}),
            "spec.type",
            ["\"Loadbalancer\"", "LoadBalancer"],
        ),
        (
            json!({"clusterIP": "10.96.0.256"}),
            "spec.clusterIP",
            ["10.96.0.256", "as 10.0.0.1"],
        ),
        (
            json!({"clusterIPs": ["10.96.0.1", "fd96::g"]}),
            "spec.clusterIPs[1]",
            ["fd96::g", "fd00::1"],
        ),
        (
            json!({"ipFamilies": ["IPv4", "ipv6"]}),
            "spec.ipFamilies[1]",
            ["\"ipv6\"", "IPv4 or IPv6"],
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies",
            ["IPv6", "other family"],
        ),
        (
            json!({"externalIPs": ["203.0.113.9", "x"]}),
            "spec.externalIPs[1]",
            ["\"x\"", "address"],
        ),
        (
            json!({"externalTrafficPolicy": "local"}),
            "spec.externalTrafficPolicy",
            ["\"local\"", "Local"],
        ),
        (
            json!({"internalTrafficPolicy": "Node"}),
            "spec.internalTrafficPolicy",
            ["\"Node\"", "Cluster"],
        ),
        (
            json!({"sessionAffinity": "ClientIp"}),
            "spec.sessionAffinity",
            ["\"ClientIp\"", "ClientIP"],
        ),
        (
            json!({"loadBalancerSourceRanges": ["192.0.2.0/24", "office"]}),
            "spec.loadBalancerSourceRanges[1]",
            ["\"office\"", "10.0.0.0/8"],
        ),
        (
            json!({"healthCheckNodePort": 70_000}),
            "spec.healthCheckNodePort",
            ["70000", "1 to 65535"],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 0}]}),
            "spec.ports[1].port",
            ["0", "1 to 65535"],
        ),
        (
            json!({"ports": [{"port": -1}]}),
            "spec.ports[0].port",
            ["-1", "1 to 65535"],
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": 70_000}]}),
            "spec.ports[0].targetPort",
            ["70000", "1 to 65535"],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 65_536}]}),
            "spec.ports[0].nodePort",
            ["65536", "1 to 65535"],
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "tcp"}]}),
            "spec.ports[0].protocol",
            ["\"tcp\"", "TCP, UDP or SCTP"],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 80, "name": "again"}]}),
            "spec.ports[1].port",
            ["80", "already"],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            "spec.ports[1].name",
            ["another port's", "a name for each"],
        ),
    ] {
        only(&service(spec, json!({})).faults, field, &parts);
    }
    for seconds in [0, -1, 86_401] {
        let read = service(
            json!({
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
            }),
            json!({}),
        );
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        only(&read.faults, field, &[&seconds.to_string(), "1 to 86400"]);
        assert_eq!(
            read.affinity_timeout_s,
            Some(10_800),
            "affinity is wanted, for the usual time"
        );
    }
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "lb.example"}]}}});
    let faults = service(json!({}), status).faults;
    only(
        &faults,
        "status.loadBalancer.ingress[0].ip",
        &["lb.example", "address"],
    );
}

#[test]
fn annotations_that_say_something_else_are_told_and_do_nothing() {
    for (name, text, expected) in [
        ("lb-algorithm", "roundrobin", "random or maglev"),
        ("forwarding-mode", "nat", "snat or dsr"),
        ("src-ranges-policy", "Deny", "allow or deny"),
        (
            "type",
            "NodePort,External",
            "ClusterIP, NodePort, LoadBalancer",
        ),
        ("node-selector", "pool in edge", "pool=edge"),
        ("node-selector", "pool=(edge", "pool=edge"),
        ("node-selector", "!", "pool=edge"),
    ] {
        let key = format!("service.cilium.io/{name}");
        let metadata = json!({"metadata": {"name": "web", "annotations": {&key: text}}});
        let read = service(json!({}), metadata);
        only(
            &read.faults,
            &format!("metadata.annotations[{key}]"),
            &[text, expected],
        );
        let plain = service(json!({}), json!({}));
        assert_eq!(
            ServiceSpec {
                faults: Vec::new(),
                ..read
            },
            plain,
            "{name}"
        );
    }
}

/// What is left of a service with a wrong field is in force.
#[test]
fn the_rest_of_a_service_counts() {
    let ports = json!([{"name": "a", "port": 70_000}, {"name": "b", "port": 81}, {"port": 82, "nodePort": 0}]);
    let read = service(json!({"ports": ports}), json!({}));
    let ports: Vec<_> = read
        .ports
        .iter()
        .map(|port| (port.index, port.port))
        .collect();
    assert_eq!(ports, [(1, 81), (2, 82)], "fields keep their places");
    let ranges = json!({"loadBalancerSourceRanges": ["office"]});
    let read = service(ranges, json!({}));
    assert!(
        read.has_source_ranges && read.source_ranges.is_empty(),
        "nobody is let in"
    );
    let read = service(json!({"ports": [{"port": 80, "nodePort": -7}]}), json!({}));
    assert_eq!(read.ports.first().map(|port| port.node_port), Some(0));
    let headless = service(
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({}),
    );
    assert!(headless.is_headless && headless.cluster_ips.is_empty() && headless.faults.is_empty());
}

#[test]
fn what_has_another_form_is_refused_by_its_path() {
    for (tree, path) in [
        (
            json!({"spec": {"ports": [{"port": "http"}]}}),
            "spec.ports[0].port",
        ),
        (
            json!({"spec": {"ports": [{"name": "http"}]}}),
            "spec.ports[0]",
        ),
        (
            json!({"spec": {"selector": {"app": 1}}}),
            "spec.selector.app",
        ),
        (
            json!({"spec": {"clusterIPs": "10.96.0.1"}}),
            "spec.clusterIPs",
        ),
        (
            json!({"status": {"loadBalancer": {"ingress": 7}}}),
            "status.loadBalancer.ingress",
        ),
    ] {
        let mut whole = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}});
        merge(&mut whole, tree);
        let error = parse(whole.to_string().as_bytes()).expect_err(path);
        assert!(error.path.starts_with(path), "{path}: {error}");
    }
}
