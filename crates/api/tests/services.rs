//! Services, slices and redirections: what is read of them, and what is said of
//! what is wrong.

use axon_api::manifest::{Object, parse};
use axon_model::{
    Algorithm, Distribution, EndpointSlice, Fault, Forwarding, LocalRedirect, ObjectKey, Protocol,
    RedirectFrontend, ServiceKind, ServiceSpec, TargetPort,
};
use serde_json::{Value, json};

fn object(tree: &Value) -> Object {
    let manifest = parse(tree.to_string().as_bytes()).unwrap_or_else(|e| panic!("{tree}: {e}"));
    let document = manifest.documents.into_iter().next().expect("a document");
    document.object.expect("a kind that is known")
}

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

fn slice(rest: Value) -> EndpointSlice {
    let mut tree = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
    });
    merge(&mut tree, rest);
    match object(&tree) {
        Object::EndpointSlice(slice) => slice.to_model(),
        other => panic!("{other:?}"),
    }
}

fn redirect_tree(front: Value, back: Value) -> Value {
    let mut tree = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumLocalRedirectPolicy",
        "metadata": {"name": "dns", "namespace": "kube-system"},
    });
    tree["spec"]["redirectFrontend"] = front;
    tree["spec"]["redirectBackend"] = back;
    tree
}

fn redirect(front: Value, back: Value) -> LocalRedirect {
    match object(&redirect_tree(front, back)) {
        Object::CiliumLocalRedirectPolicy(policy) => policy.to_model().expect("a redirection"),
        other => panic!("{other:?}"),
    }
}

/// Puts fields in the place of those of the same name.
fn merge(tree: &mut Value, fields: Value) {
    let (Value::Object(tree), Value::Object(fields)) = (tree, fields) else {
        panic!("no maps");
    };
    tree.extend(fields);
}

/// The one fault, and that it names the value and what was expected.
fn only(faults: &[Fault], field: &str, parts: &[&str]) {
    let [fault] = faults else {
        panic!("{field}: {faults:?}");
    };
    assert_eq!(fault.field, field, "{fault:?}");
    for part in parts {
        assert!(fault.reason.contains(part), "{part}: {fault:?}");
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

#[test]
fn a_slice_is_read_whole() {
    let read = slice(json!({
        "addressType": "IPv6",
        "metadata": {
            "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"service.cilium.io/weight": "90"},
        },
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "all"}],
        "endpoints": [
            {"addresses": ["fd00::1"]},
            {
                "addresses": ["fd00::2"], "nodeName": "n2",
                "conditions": {"ready": false, "serving": true, "terminating": true},
                "hints": {"forZones": [{"name": "za"}], "forNodes": [{"name": "n2"}]},
            },
        ],
    }));
    assert_eq!(read.faults, []);
    assert_eq!((read.service.as_str(), read.weight), ("web", Some(90)));
    let ports: Vec<_> = read
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.port, p.protocol))
        .collect();
    assert_eq!(
        ports,
        [("http", 8080, Protocol::TCP), ("dns", 53, Protocol::UDP)]
    );
    let [first, second] = read.endpoints.as_slice() else {
        panic!("{:?}", read.endpoints);
    };
    assert!(
        first.is_ready && first.is_serving && !first.is_terminating,
        "as Kubernetes has it"
    );
    assert!(!second.is_ready && second.is_serving && second.is_terminating);
    assert_eq!(
        (second.for_zones.as_slice(), second.for_nodes.as_slice()),
        (&["za".to_owned()][..], &["n2".to_owned()][..])
    );
    assert_eq!(read.addresses.len(), 1, "for policies: who is ready");
}

#[test]
fn what_is_wrong_with_a_slice_is_told_and_the_rest_of_it_counts() {
    let label = "metadata.labels[kubernetes.io/service-name]";
    let weight = "metadata.annotations[service.cilium.io/weight]";
    let named = |annotations: Value| {
        json!({"metadata": {
            "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}, "annotations": annotations,
        }})
    };
    for (tree, field, parts, left) in [
        (
            json!({"metadata": {"name": "a"}}),
            label,
            ["missing", "service"],
            2,
        ),
        (
            named(json!({"service.cilium.io/weight": "70000"})),
            weight,
            ["\"70000\"", "0 to 65535"],
            2,
        ),
        (
            json!({"addressType": "ipv4"}),
            "addressType",
            ["\"ipv4\"", "IPv4, IPv6 or FQDN"],
            0,
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1", "x"]}]}),
            "endpoints[0].addresses[1]",
            ["\"x\"", "address"],
            1,
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}]}),
            "endpoints[1].addresses[0]",
            ["fd00::1", "addressType IPv4"],
            1,
        ),
        (
            json!({"endpoints": [{"addresses": ["127.0.0.1"]}, {"addresses": ["10.0.0.1"]}]}),
            "endpoints[0].addresses[0]",
            ["127.0.0.1", "one endpoint"],
            1,
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.1"]}]}),
            "endpoints[1].addresses[0]",
            ["10.0.0.1", "already"],
            1,
        ),
    ] {
        let read = slice(tree);
        only(&read.faults, field, &parts);
        let addresses = read
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.addresses);
        assert_eq!(addresses.count(), left, "{field}");
    }
    for (port, field, parts) in [
        (
            json!({"port": 70_000}),
            "ports[0].port",
            ["70000", "1 to 65535"],
        ),
        (
            json!({"port": 80, "protocol": "QUIC"}),
            "ports[0].protocol",
            ["\"QUIC\"", "UDP"],
        ),
    ] {
        let read = slice(json!({"ports": [port, {"name": "b", "port": 81}]}));
        only(&read.faults, field, &parts);
        let ports: Vec<u16> = read.ports.iter().map(|port| port.port).collect();
        assert_eq!(ports, [81]);
    }
}

#[test]
fn a_redirection_is_read_whole() {
    let back = json!({
        "localEndpointSelector": {"matchLabels": {"app": "cache"}},
        "toPorts": [
            {"port": "5353", "protocol": "UDP", "name": "DNS"}, {"port": "5354", "name": "dns-tcp"},
        ],
    });
    let front = json!({"addressMatcher": {"ip": "169.254.20.10", "toPorts": [
        {"port": "53", "protocol": "UDP", "name": "dns"}, {"port": "53", "protocol": "TCP", "name": "dns-tcp"},
    ]}});
    let read = redirect(front, back.clone());
    let RedirectFrontend::Address(addr, ports) = &read.frontend else {
        panic!("{read:?}");
    };
    assert_eq!(addr.to_string(), "169.254.20.10");
    let numbers = |ports: &[axon_model::RedirectPort]| -> Vec<(String, u16, Protocol)> {
        let ports = ports.iter();
        ports
            .map(|p| (p.name.clone(), p.port, p.protocol))
            .collect()
    };
    let named = |name: &str, port, protocol| (name.to_owned(), port, protocol);
    let (udp, tcp) = (Protocol::UDP, Protocol::TCP);
    assert_eq!(
        numbers(ports),
        [named("dns", 53, udp), named("dns-tcp", 53, tcp)]
    );
    assert_eq!(
        numbers(&read.ports),
        [named("dns", 5353, udp), named("dns-tcp", 5354, tcp)]
    );
    assert!(!read.skips_own);
    let front = json!({"serviceMatcher": {"serviceName": "kube-dns", "namespace": "kube-system"}});
    let read = redirect(front, back);
    let service = ObjectKey::new("kube-system", "kube-dns");
    assert_eq!(
        read.frontend,
        RedirectFrontend::Service(service, Vec::new())
    );
}

#[test]
fn a_redirection_with_which_something_is_wrong_is_refused_by_its_path() {
    let matcher = json!({"addressMatcher": {"ip": "169.254.20.10", "toPorts": [{"port": "53"}]}});
    let front = "spec.redirectFrontend";
    let back = |ports: Value| json!({"localEndpointSelector": {"matchLabels": {"a": "b"}}, "toPorts": ports});
    let good = back(json!([{"port": "53"}]));
    let address = |ip: &str, ports: Value| json!({"addressMatcher": {"ip": ip, "toPorts": ports}});
    let service =
        |namespace: &str| json!({"serviceMatcher": {"serviceName": "a", "namespace": namespace}});
    for (redirected, answers, path, part) in [
        (
            json!({}),
            &good,
            front.to_owned(),
            "addressMatcher or serviceMatcher",
        ),
        (
            json!({"addressMatcher": matcher["addressMatcher"], "serviceMatcher": service("kube-system")["serviceMatcher"]}),
            &good,
            front.to_owned(),
            "either",
        ),
        (
            address("x", json!([{"port": "53"}])),
            &good,
            format!("{front}.addressMatcher.ip"),
            "\"x\"",
        ),
        (
            address("10.0.0.1", json!([])),
            &good,
            format!("{front}.addressMatcher.toPorts"),
            "at least one",
        ),
        (
            address("10.0.0.1", json!([{"port": "0"}])),
            &good,
            format!("{front}.addressMatcher.toPorts[0].port"),
            "1 to 65535",
        ),
        (
            address(
                "10.0.0.1",
                json!([{"port": "1", "name": "a"}, {"port": "2"}]),
            ),
            &good,
            format!("{front}.addressMatcher.toPorts[1].name"),
            "each of several",
        ),
        (
            service("default"),
            &good,
            format!("{front}.serviceMatcher.namespace"),
            "kube-system",
        ),
        (
            matcher.clone(),
            &back(json!([])),
            "spec.redirectBackend.toPorts".to_owned(),
            "at least one",
        ),
        (
            matcher.clone(),
            &back(json!([{"port": "http"}])),
            "spec.redirectBackend.toPorts[0].port".to_owned(),
            "\"http\"",
        ),
        (
            matcher.clone(),
            &back(json!([{"port": "53", "protocol": "ANY"}])),
            "spec.redirectBackend.toPorts[0].protocol".to_owned(),
            "TCP, UDP or SCTP",
        ),
    ] {
        let tree = redirect_tree(redirected, answers.clone());
        let error = parse(tree.to_string().as_bytes()).expect_err(&path);
        assert_eq!(error.path, path, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}
