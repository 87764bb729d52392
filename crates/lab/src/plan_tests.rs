use std::collections::BTreeMap;

use super::{Plan, plan};
use crate::manifest::parse;

fn planned(text: &str) -> anyhow::Result<Plan> {
    let objects = parse(text).expect("parses");
    let objects = objects.into_iter().map(|o| (o.id.clone(), o)).collect();
    plan(&objects, &BTreeMap::new())
}

const POD: &str = "spec: {containers: [{name: c, command: [x]}]}";

#[test]
fn without_a_node_there_is_one() {
    let plan = planned(&format!("kind: Pod\nmetadata: {{name: a}}\n{POD}")).expect("plans");
    let node = &plan.nodes[0];
    assert_eq!(node.name, "node-1");
    assert_eq!(node.addresses.len(), 2, "one address of each family");
    assert_eq!(node.value["spec"]["podCIDRs"][0], "10.244.1.0/24");
    let pod = plan.pods.values().next().expect("a pod");
    assert_eq!(pod.value["spec"]["nodeName"], "node-1");
    let namespaces: Vec<&str> = plan.others.keys().map(|id| id.name.as_str()).collect();
    assert_eq!(namespaces, ["default", "kube-system"]);
}

#[test]
fn given_addresses_stay_and_missing_families_are_added() {
    let plan = planned(
        "
kind: Node
metadata: {name: n}
spec: {podCIDR: 10.9.0.0/24}
status: {addresses: [{type: InternalIP, address: 192.168.7.1}, {type: Hostname, address: n}]}
",
    )
    .expect("plans");
    let node = &plan.nodes[0];
    assert_eq!(node.addresses[0].to_string(), "192.168.7.1");
    assert!(node.addresses[1].is_ipv6());
    assert_eq!(node.pod_cidrs.len(), 1);
}

#[test]
fn pods_are_spread_and_replicated() {
    let nodes = "kind: Node\nmetadata: {name: a}\n---\nkind: Node\nmetadata: {name: b}\n---\n";
    let plan = planned(&format!(
        "{nodes}kind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 4\n  template:\n    \
         metadata: {{labels: {{app: web}}}}\n    {POD}\n---\nkind: DaemonSet\nmetadata: {{name: d}}\n\
         spec:\n  template:\n    {POD}\n"
    ))
    .expect("plans");
    let on = |node: &str| plan.pods.values().filter(|p| p.node == node).count();
    assert_eq!((on("a"), on("b")), (3, 3));
    let names: Vec<&str> = plan.pods.keys().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["d-1", "d-2", "web-1", "web-2", "web-3", "web-4"]);
}

#[test]
fn what_does_not_do_is_named() {
    let two = "kind: Node\nmetadata: {name: a}\nstatus: {addresses: [{type: InternalIP, address: 10.0.0.1}]}\n";
    let twins = format!("{two}---\n{}", two.replace("name: a", "name: b"));
    for (text, expected) in [
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {}",
            "spec.containers is empty",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {nodeName: x, containers: [{name: c, command: [x]}]}",
            "there is no Node x",
        ),
        (&twins, "nodes a and b have an address in common"),
        (
            "kind: Node\nmetadata: {name: a}\nspec: {podCIDRs: [nonsense]}",
            "spec.podCIDRs: \"nonsense\" is no prefix",
        ),
    ] {
        let error = format!("{:#}", planned(text).expect_err(expected));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn pods_ask_for_the_addresses_of_their_status() {
    let ips = |status: &str| {
        let text = format!("kind: Pod\nmetadata: {{name: a}}\n{POD}\nstatus: {status}");
        let plan = planned(&text).map_err(|error| format!("{error:#}"))?;
        let pod = plan.pods.values().next().expect("a pod");
        let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        Ok::<_, String>((ips, pod.ips_only))
    };
    let none: &[&str] = &[];
    for (status, expected, is_all) in [
        ("{}", none, false),
        ("{podIP: 10.244.1.9}", &["10.244.1.9"], false),
        ("{podIPs: []}", none, false),
        ("{podIPs: [{ip: 'fd00::9'}]}", &["fd00::9"], true),
        (
            "{podIP: 10.244.1.9, podIPs: [{ip: 10.244.1.9}, {ip: 'fd00::9'}]}",
            &["10.244.1.9", "fd00::9"],
            true,
        ),
    ] {
        let expected = expected.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ips(status).expect(status), (expected, is_all), "{status}");
    }
    for (status, expected) in [
        ("{podIP: ten}", "status.podIP: \"ten\" is no address"),
        ("{podIPs: [{}]}", "status.podIPs: null is no address"),
        (
            "{podIPs: [{ip: 10.244.1.9}, {ip: 10.244.1.8}]}",
            "10.244.1.8 is the second address of its family",
        ),
    ] {
        let error = ips(status).expect_err(status);
        assert!(error.contains(expected), "{status}: {error}");
    }
}

#[test]
fn the_world_outside_gets_addresses_that_nobody_has() {
    let outside = |data: &str| {
        let text = format!(
            "kind: ConfigMap\nmetadata: {{name: axon-lab, namespace: kube-system}}\ndata: {data}"
        );
        let plan = planned(&text).map_err(|error| format!("{error:#}"))?;
        Ok::<_, String>(
            plan.outside
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        )
    };
    for (data, expected) in [
        ("{}", &[][..]),
        (
            "{outside-addresses: '192.0.2.10, 2001:db8:9::1 10.244.9.9'}",
            &["10.244.9.9", "192.0.2.10", "2001:db8:9::1"],
        ),
    ] {
        assert_eq!(outside(data).expect(data), expected, "{data}");
    }
    for (data, expected) in [
        ("{outside-addresses: 192.0.2.300}", "\"192.0.2.300\""),
        ("{outside-addresses: 10.244.1.7}", "address of node node-1"),
        ("{outside: 192.0.2.3}", "expected outside-addresses"),
    ] {
        let error = outside(data).expect_err(data);
        assert!(error.contains(expected), "{data}: {error}");
    }
}
