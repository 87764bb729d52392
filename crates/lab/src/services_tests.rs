use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::assign;
use crate::manifest::Id;
use crate::plan::{Plan, plan};

const NOW: &str = "2026-11-29T12:00:00Z";
const LATER: &str = "2026-11-29T13:00:00Z";

/// The services of manifests, given what an earlier plan had.
fn assigned(text: &str, old: &Plan, now: &str) -> Result<Plan, String> {
    let objects = crate::manifest::parse(text).map_err(|e| format!("{e:#}"))?;
    let objects = objects.into_iter().map(|o| (o.id.clone(), o)).collect();
    let plan = plan(&objects, &BTreeMap::new());
    let mut plan = plan.map_err(|e| format!("{e:#}"))?;
    assign(&mut plan, old, now).map_err(|e| format!("{e:#}"))?;
    Ok(plan)
}

fn given(text: &str) -> Plan {
    assigned(text, &Plan::default(), NOW).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    assigned(text, &Plan::default(), NOW).expect_err(text)
}

fn service<'p>(plan: &'p Plan, namespace: &str, name: &str) -> &'p Value {
    let id = Id {
        kind: "Service".into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    &plan.others[&id]
}

/// A service of that name and spec.
fn of(name: &str, spec: &Value) -> String {
    let object = json!({"kind": "Service", "metadata": {"name": name}, "spec": spec});
    format!("---\n{object}\n")
}

/// The spec that a service has in the end.
fn spec(spec: &Value) -> Value {
    service(&given(&of("s", spec)), "default", "s")["spec"].clone()
}

#[test]
fn families_and_addresses_follow_the_policy() {
    let (first_v4, first_v6) = ("10.96.1.1", "fd00:10:96::101");
    for (name, asked, policy, families, ips) in [
        (
            "nothing said",
            json!({}),
            "SingleStack",
            json!(["IPv4"]),
            json!([first_v4]),
        ),
        (
            "IPv6 alone",
            json!({"ipFamilies": ["IPv6"]}),
            "SingleStack",
            json!(["IPv6"]),
            json!([first_v6]),
        ),
        (
            "both if there are",
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            "PreferDualStack",
            json!(["IPv4", "IPv6"]),
            json!([first_v4, first_v6]),
        ),
        (
            "both, IPv6 first",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
            "RequireDualStack",
            json!(["IPv6", "IPv4"]),
            json!([first_v6, first_v4]),
        ),
        (
            "both families named",
            json!({"ipFamilies": ["IPv6", "IPv4"]}),
            "RequireDualStack",
            json!(["IPv6", "IPv4"]),
            json!([first_v6, first_v4]),
        ),
        (
            "an address asked for",
            json!({"clusterIP": "10.96.7.7"}),
            "SingleStack",
            json!(["IPv4"]),
            json!(["10.96.7.7"]),
        ),
        (
            "an IPv6 address asked for, and another of the other family",
            json!({"clusterIP": "fd00:10:96::7", "ipFamilyPolicy": "PreferDualStack"}),
            "PreferDualStack",
            json!(["IPv6", "IPv4"]),
            json!(["fd00:10:96::7", first_v4]),
        ),
        (
            "one family asked for, and an address of the other, of which agents tell",
            json!({"clusterIP": "10.96.7.7", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}),
            "SingleStack",
            json!(["IPv6"]),
            json!(["10.96.7.7"]),
        ),
        (
            "an address of nobody's range",
            json!({"clusterIP": "172.20.0.1"}),
            "SingleStack",
            json!(["IPv4"]),
            json!(["172.20.0.1"]),
        ),
        (
            "headless",
            json!({"clusterIP": "None", "selector": {"a": "b"}}),
            "SingleStack",
            json!(["IPv4"]),
            json!(["None"]),
        ),
        (
            "headless, with endpoints of somebody else",
            json!({"clusterIP": "None"}),
            "RequireDualStack",
            json!(["IPv4", "IPv6"]),
            json!(["None"]),
        ),
    ] {
        let spec = spec(&asked);
        assert_eq!(spec["ipFamilyPolicy"], policy, "{name}");
        assert_eq!(spec["ipFamilies"], families, "{name}");
        assert_eq!(spec["clusterIPs"], ips, "{name}");
        assert_eq!(spec["clusterIP"], ips[0], "{name}");
    }
    let external = spec(&json!({"type": "ExternalName", "externalName": "a.test"}));
    assert!(external["clusterIPs"].is_null() && external["ipFamilies"].is_null());
}

#[test]
fn what_is_not_said_is_filled_in() {
    let spec = spec(
        &json!({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}),
    );
    assert_eq!(spec["type"], "ClusterIP");
    assert_eq!(spec["sessionAffinity"], "None");
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert!(spec["externalTrafficPolicy"].is_null());
    let ports = json!([
        {"port": 80, "protocol": "TCP", "targetPort": 80},
        {"port": 53, "protocol": "UDP", "targetPort": "dns"},
    ]);
    assert_eq!(spec["ports"], ports);
}

#[test]
fn node_ports_and_addresses_from_outside() {
    let node_ports = |spec: &Value| -> Vec<Option<u64>> {
        let ports = spec["ports"].as_array().into_iter().flatten();
        ports.map(|port| port["nodePort"].as_u64()).collect()
    };
    for (name, asked, ports, health) in [
        (
            "no node ports",
            json!({"ports": [{"port": 80}]}),
            vec![None],
            None,
        ),
        (
            "one for each port",
            json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "name": "b"}]}),
            vec![Some(30_000), Some(30_001)],
            None,
        ),
        (
            "one for both protocols of a port",
            json!({"type": "NodePort", "ports": [
                {"port": 53, "name": "a"}, {"port": 53, "name": "b", "protocol": "UDP"}]}),
            vec![Some(30_000), Some(30_000)],
            None,
        ),
        (
            "one that is asked for, and one that is not",
            json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "name": "b", "nodePort": 30_000}]}),
            vec![Some(30_001), Some(30_000)],
            None,
        ),
        (
            "a load balancer's",
            json!({"type": "LoadBalancer", "ports": [{"port": 80}]}),
            vec![Some(30_000)],
            None,
        ),
        (
            "a load balancer's, without",
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}),
            vec![None],
            None,
        ),
        (
            "where health is told",
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}),
            vec![Some(30_000)],
            Some(30_001),
        ),
    ] {
        let spec = spec(&asked);
        assert_eq!(node_ports(&spec), ports, "{name}");
        assert_eq!(spec["healthCheckNodePort"].as_u64(), health, "{name}");
    }
    let balanced = json!({"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack"});
    let plan = given(&of("s", &balanced));
    let lent = &service(&plan, "default", "s")["status"]["loadBalancer"]["ingress"];
    let expected = json!([
        {"ip": "192.0.2.17", "ipMode": "VIP"},
        {"ip": "2001:db8:192::101", "ipMode": "VIP"},
    ]);
    assert_eq!(*lent, expected);
    let asked = json!({"type": "LoadBalancer", "loadBalancerIP": "192.0.2.9"});
    let plan = given(&of("s", &asked));
    let lent = &service(&plan, "default", "s")["status"]["loadBalancer"]["ingress"];
    assert_eq!(lent[0]["ip"], "192.0.2.9");
    let other = json!({"type": "LoadBalancer", "loadBalancerClass": "example.org/other"});
    let plan = given(&of("s", &other));
    assert!(
        service(&plan, "default", "s")["status"].is_null(),
        "somebody else's"
    );
}

#[test]
fn what_a_service_has_it_keeps() {
    let asked = json!({"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack",
        "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let first = given(&(of("b", &asked) + &of("c", &asked)));
    let had = service(&first, "default", "b").clone();
    assert_eq!(had["metadata"]["creationTimestamp"], NOW);
    // Another that comes first by name, and a port more.
    let mut more = asked.clone();
    more["ports"] = json!([{"port": 79, "name": "a"}, {"port": 80, "name": "b"}]);
    let text = of("a", &asked) + &of("b", &more) + &of("c", &asked);
    let second = assigned(&text, &first, LATER).expect("fits");
    let has = service(&second, "default", "b");
    for pointer in [
        "/spec/clusterIPs",
        "/spec/healthCheckNodePort",
        "/status/loadBalancer/ingress",
        "/metadata/creationTimestamp",
    ] {
        assert_eq!(has.pointer(pointer), had.pointer(pointer), "{pointer}");
    }
    assert_eq!(
        has["spec"]["ports"][1]["nodePort"],
        had["spec"]["ports"][0]["nodePort"]
    );
    assert_eq!(
        service(&second, "default", "a")["metadata"]["creationTimestamp"],
        LATER
    );
    let mut all: Vec<String> = Vec::new();
    for name in ["a", "b", "c"] {
        let value = service(&second, "default", name);
        all.extend(
            super::addresses(&value["spec"])
                .iter()
                .map(ToString::to_string),
        );
        all.extend(super::ingress(value).iter().map(ToString::to_string));
    }
    let several: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(several.len(), 12, "nobody shares: {all:?}");
    // What it does not ask for any more it loses, and who has gone leaves what he had.
    let plain = json!({"ports": [{"port": 80}]});
    let third = assigned(&of("b", &plain), &second, LATER).expect("fits");
    let has = &service(&third, "default", "b")["spec"];
    assert_eq!(has["clusterIPs"], json!([had["spec"]["clusterIPs"][0]]));
    assert!(has["ports"][0]["nodePort"].is_null() && has["healthCheckNodePort"].is_null());
    let fourth = assigned(&of("x", &plain), &third, LATER).expect("fits");
    assert_eq!(
        service(&fourth, "default", "x")["spec"]["clusterIP"],
        "10.96.1.1"
    );
    // One that gives its own address up for none, and one that gets it back.
    let headless = assigned(&of("x", &json!({"clusterIP": "None"})), &fourth, LATER).expect("fits");
    assert_eq!(
        service(&headless, "default", "x")["spec"]["clusterIPs"],
        json!(["None"])
    );
    let back = assigned(&of("x", &plain), &headless, LATER).expect("fits");
    assert_eq!(
        service(&back, "default", "x")["spec"]["clusterIP"],
        "10.96.1.1"
    );
}

#[test]
fn two_cannot_have_the_same() {
    let ip = |ip: &str| json!({"clusterIP": ip});
    let node_port =
        |port: u16| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let lent = |ip: &str| {
        let object = json!({"kind": "Service", "metadata": {"name": "b"}, "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
        format!("---\n{object}\n")
    };
    for (name, text, expected) in [
        (
            "a cluster address",
            of("a", &ip("10.96.0.5")) + &of("b", &ip("10.96.0.5")),
            "Service default/b: spec.clusterIPs: 10.96.0.5 is Service default/a's already",
        ),
        (
            "a node port",
            of("a", &node_port(30_100)) + &of("b", &node_port(30_100)),
            "Service default/b: spec.ports[0].nodePort: 30100 is Service default/a's already",
        ),
        (
            "an address of a load balancer",
            of("a", &ip("10.96.0.5")) + &lent("10.96.0.5"),
            "Service default/b: status.loadBalancer.ingress: 10.96.0.5 is Service default/a's already",
        ),
        (
            "a node port out of the range",
            of("a", &node_port(80)),
            "Service default/a: spec.ports[0].nodePort: 80; expected 30000 to 32767",
        ),
    ] {
        assert_eq!(refused(&text), expected, "{name}");
        let allow = json!({"kind": "ConfigMap", "metadata": {"name": "axon-lab", "namespace": "kube-system"},
            "data": {"service-conflicts": "allow"}});
        given(&format!("{text}---\n{allow}\n"));
    }
    // Who has an address without having asked for it is not driven out.
    let first = given(&of("b", &json!({})));
    let text = of("a", &ip("10.96.1.1")) + &of("b", &json!({}));
    let error = assigned(&text, &first, LATER).expect_err("taken");
    assert!(
        error.contains("Service default/a: spec.clusterIPs"),
        "{error}"
    );
}

#[test]
fn ranges_are_those_of_the_lab() {
    let options = |data: &Value| {
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "axon-lab", "namespace": "kube-system"}, "data": data});
        format!("---\n{map}\n")
    };
    let dual = json!({"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack"});
    let small = options(
        &json!({"service-cidr": "10.1.0.0/30, fd01::/120", "load-balancer-pool": "10.2.0.0/24"}),
    );
    let plan = given(&(small.clone() + &of("a", &dual)));
    let value = service(&plan, "default", "a");
    assert_eq!(value["spec"]["clusterIPs"], json!(["10.1.0.1", "fd01::11"]));
    assert_eq!(
        value["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "10.2.0.17", "ipMode": "VIP"}])
    );
    let none = json!({});
    let error = refused(&(small + &of("a", &none) + &of("b", &none) + &of("c", &none)));
    assert_eq!(
        error,
        "Service default/c: the range of services has no IPv4 address left"
    );
    for (data, expected) in [
        (
            json!({"service-cidr": "10.1.0.0/33"}),
            "data.service-cidr: \"10.1.0.0/33\"",
        ),
        (
            json!({"load-balancer-pool": "x"}),
            "data.load-balancer-pool: \"x\"",
        ),
        (
            json!({"service-conflicts": "x"}),
            "data.service-conflicts: \"x\"",
        ),
        (json!({"pod-status": "x"}), "data.pod-status"),
        (json!({"other": "x"}), "data.other"),
    ] {
        let error = refused(&options(&data));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_name_server_has_the_tenth_address() {
    let object = json!({"kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let plan = given(&format!("---\n{object}\n"));
    let spec = &service(&plan, "kube-system", "kube-dns")["spec"];
    assert_eq!(spec["clusterIPs"], json!(["10.96.0.10", "fd00:10:96::a"]));
}

#[test]
fn odd_objects_do_no_harm() {
    for value in [
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": []}),
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": {"port": 1}}}),
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [1, null, {"port": "x"}]}}),
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ipFamilies": "IPv4", "clusterIPs": 7}}),
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ipFamilies": ["IPv9"]}}),
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "LoadBalancer"}, "status": "x"}),
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": []}}),
    ] {
        // Refused or not: agents tell what is wrong with it.
        let _ = assigned(&format!("---\n{value}\n"), &Plan::default(), NOW);
    }
}
