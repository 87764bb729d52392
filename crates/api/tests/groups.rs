//! Objects that policies refer to: CIDR groups, services, endpoint slices.

use axon_api::manifest::{Object, parse, to_yaml};

fn object(text: &str) -> Object {
    let manifest = parse(text.as_bytes()).expect(text);
    let document = manifest.documents.into_iter().next().expect("a document");
    document.object.expect("an object")
}

fn group(version: &str, spec: &str) -> String {
    let metadata = "metadata: {name: partners, labels: {trust: low}}";
    format!("{{apiVersion: cilium.io/{version}, kind: CiliumCIDRGroup, {metadata}, {spec}}}")
}

#[test]
fn a_group_is_its_prefixes() {
    let spec = "spec: {externalCIDRs: [198.51.100.7/24, 'fd00::/8']}";
    for version in ["v2", "v2alpha1"] {
        let Object::CiliumCidrGroup(read) = object(&group(version, spec)) else {
            panic!("no group");
        };
        let model = read.to_model().expect("a group");
        assert_eq!(model.name, "partners");
        assert_eq!(model.labels["trust"], "low");
        let cidrs: Vec<String> = model.cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["198.51.100.0/24", "fd00::/8"]);
        let read = Object::CiliumCidrGroup(read);
        let again = to_yaml(&read).expect("text");
        assert_eq!(object(&again), read, "{again}");
    }
}

#[test]
fn what_is_no_group_is_refused_by_its_path() {
    for (version, spec, path, part) in [
        (
            "v2",
            "spec: {externalCIDRs: [10.0.0.0/8, 10.0.0.1]}",
            "spec.externalCIDRs[1]",
            "\"10.0.0.1\"",
        ),
        (
            "v2",
            "spec: {externalCIDRs: [10.0.0.0/33]}",
            "spec.externalCIDRs[0]",
            "address/length",
        ),
        (
            "v2",
            "spec: {externalCIDRs: 10.0.0.0/8}",
            "spec.externalCIDRs",
            "10.0.0.0/8",
        ),
        ("v2", "spec: {externalCidrs: []}", "spec", "externalCIDRs"),
        ("v2", "spec: {}", "spec", "externalCIDRs"),
        ("v2", "status: {}", "", "spec"),
        (
            "v3",
            "spec: {externalCIDRs: []}",
            "apiVersion",
            "cilium.io/v2",
        ),
    ] {
        let text = group(version, spec);
        let error = parse(text.as_bytes()).expect_err(&text);
        assert!(error.path.starts_with(path), "{text}: {error}");
        let told = error.to_string();
        assert!(told.contains(part), "{text}: {told}");
    }
}

#[test]
fn slices_tell_addresses_that_may_be_sent_to() {
    let slice = |kind: &str, endpoints: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: {kind}, \
             metadata: {{name: a, labels: {{kubernetes.io/service-name: web}}}}, \
             endpoints: {endpoints}}}"
        )
    };
    let addresses = |text: &str| {
        let Object::EndpointSlice(slice) = object(text) else {
            panic!("no slice");
        };
        let slice = slice.to_model();
        assert_eq!(slice.service, "web");
        let addresses = slice.addresses.iter().map(ToString::to_string);
        addresses.collect::<Vec<_>>()
    };
    let several = "[{addresses: [192.0.2.1, 192.0.2.2]}, \
                   {addresses: [192.0.2.3], conditions: {ready: true}}, \
                   {addresses: [192.0.2.4], conditions: {ready: false}}]";
    let told = addresses(&slice("IPv4", several));
    assert_eq!(told, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    let names = slice("FQDN", "[{addresses: [db.example]}]");
    assert!(addresses(&names).is_empty());
    let wrong = slice("IPv4", "[{addresses: [192.0.2.1]}, {addresses: [x]}]");
    assert_eq!(addresses(&wrong), ["192.0.2.1"], "the rest counts");
}

#[test]
fn a_service_that_is_a_name_elsewhere_has_no_pods() {
    let pods = |kind: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, \
             spec: {{type: {kind}, selector: {{app: a}}}}}}"
        );
        let Object::Service(service) = object(&text) else {
            panic!("no service");
        };
        service.to_model().selector.len()
    };
    assert_eq!(pods("ClusterIP"), 1);
    assert_eq!(pods("ExternalName"), 0);
}

#[test]
fn services_of_a_rule_are_named_as_kubernetes_names_them() {
    let kind = |wrong: &str| format!("k8sService: {{{wrong}}}");
    let labels = "k8sServiceSelector: {selector: {matchLabels: {a/b/c: d}}}";
    for (service, path, part) in [
        (String::new(), "", "k8sService"),
        (kind("serviceName: A"), ".k8sService.serviceName", "\"A\""),
        (
            kind("serviceName: a, namespace: b.c"),
            ".k8sService.namespace",
            "\"b.c\"",
        ),
        (
            labels.to_owned(),
            ".k8sServiceSelector.selector.matchLabels.a/b/c",
            "label key",
        ),
    ] {
        let spec = format!("{{endpointSelector: {{}}, egress: [{{toServices: [{{{service}}}]}}]}}");
        let text = format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
        );
        let refused = parse(text.as_bytes()).expect(&text).refused;
        let error = &refused.first().expect(&text).error;
        assert_eq!(error.path, format!("spec.egress[0].toServices[0]{path}"));
        assert!(error.message.contains(part), "{error}");
    }
}
