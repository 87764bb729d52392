//! What services say, and what is wrong with it.

use axon_model::{
    Algorithm, Distribution, Exposed, Fault, Forwarding, Operator, Requirement, Selector,
    ServiceKind, ServicePort, ServiceSpec, TargetPort, Written, source,
};

use super::{IntOrString, Service};
use crate::manifest::FieldError;
use crate::select::{address, prefix_or_address, transport};

/// Seconds of affinity if none are given: three hours.
const AFFINITY_S: u32 = 10_800;
/// Seconds of affinity at most: a day.
const AFFINITY_S_MAX: i64 = 86_400;

pub(super) fn annotation_path(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

pub(super) fn fault(error: FieldError) -> Fault {
    Fault::new(error.path, error.message)
}

/// One of two words; the first also if the text is empty.
fn is_second(text: &str, words: [&str; 2], path: &str, faults: &mut Vec<Fault>) -> bool {
    let [first, second] = words;
    if !["", first, second].contains(&text) {
        let reason = format!("{text:?}; expected {first} or {second}");
        faults.push(Fault::new(path, reason));
    }
    text == second
}

/// What a service asks for.
pub(super) fn read(service: &Service) -> ServiceSpec {
    let spec = &service.spec;
    let mut faults = Vec::new();
    let kind = match spec.kind.as_str() {
        "" | "ClusterIP" => ServiceKind::ClusterIp,
        "NodePort" => ServiceKind::NodePort,
        "LoadBalancer" => ServiceKind::LoadBalancer,
        "ExternalName" => ServiceKind::ExternalName,
        other => {
            let expected = "expected ClusterIP, NodePort, LoadBalancer or ExternalName";
            faults.push(Fault::new("spec.type", format!("{other:?}; {expected}")));
            ServiceKind::ClusterIp
        }
    };
    let is_headless = spec.cluster_ip.eq_ignore_ascii_case("none")
        || service
            .metadata
            .labels
            .contains_key("service.kubernetes.io/headless");
    let cluster_ips = cluster_ips(service, &mut faults);
    let (has_v4, has_v6) = families(service, &cluster_ips, &mut faults);
    let cluster_ips = cluster_ips.into_iter();
    let cluster_ips = cluster_ips.filter(|ip| if ip.addr.is_ipv4() { has_v4 } else { has_v6 });
    let external_ips = spec.external_ips.iter().enumerate();
    let external_ips = external_ips.map(|(n, ip)| (format!("spec.externalIPs[{n}]"), ip));
    let ingress = &service.status.load_balancer.ingress;
    let vips = ingress.iter().enumerate();
    let vips = vips.filter(|(_, given)| matches!(given.ip_mode.as_str(), "" | "VIP"));
    let vips = vips.map(|(n, given)| {
        let field = format!("status.loadBalancer.ingress[{n}].ip");
        (field, &given.ip)
    });
    let mut ranges = Vec::new();
    for (n, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        let path = format!("spec.loadBalancerSourceRanges[{n}]");
        match prefix_or_address(text.trim(), &path) {
            Ok(prefix) => ranges.push(prefix.trunc()),
            Err(error) => faults.push(fault(error)),
        }
    }
    let mut read = ServiceSpec {
        created: service.metadata.creation_timestamp.clone(),
        kind,
        is_headless,
        cluster_ips: cluster_ips.collect(),
        load_balancer_ips: written(vips, &mut faults),
        external_ips: written(external_ips, &mut faults),
        has_v4,
        has_v6,
        ports: ports(service, &mut faults),
        external_local: is_second(
            &spec.external_traffic_policy,
            ["Cluster", "Local"],
            "spec.externalTrafficPolicy",
            &mut faults,
        ),
        internal_local: is_second(
            &spec.internal_traffic_policy,
            ["Cluster", "Local"],
            "spec.internalTrafficPolicy",
            &mut faults,
        ),
        affinity_timeout_s: affinity(service, &mut faults),
        source_ranges: ranges,
        has_source_ranges: !spec.load_balancer_source_ranges.is_empty(),
        health_check_node_port: spec.health_check_node_port.map_or(0, |port| {
            number(port, "spec.healthCheckNodePort", &mut faults).unwrap_or(0)
        }),
        publish_not_ready: spec.publish_not_ready_addresses,
        distribution: match spec.traffic_distribution.as_str() {
            "PreferClose" | "PreferSameZone" => Distribution::Zone,
            "PreferSameNode" => Distribution::Node,
            _ => Distribution::Even,
        },
        proxy_name: service
            .metadata
            .labels
            .get("service.kubernetes.io/service-proxy-name")
            .cloned()
            .unwrap_or_default(),
        ..ServiceSpec::default()
    };
    annotations(service, &mut read, &mut faults);
    read.faults = faults;
    read
}

/// The addresses that are some, of texts that may be empty.
fn written<'a>(
    texts: impl Iterator<Item = (String, &'a String)>,
    faults: &mut Vec<Fault>,
) -> Vec<Written> {
    let mut addresses = Vec::new();
    for (field, text) in texts {
        match address(text, &field) {
            _ if text.is_empty() => {}
            Ok(addr) => addresses.push(Written { field, addr }),
            Err(error) => faults.push(fault(error)),
        }
    }
    addresses
}

fn cluster_ips(service: &Service, faults: &mut Vec<Fault>) -> Vec<Written> {
    let spec = &service.spec;
    let first = ("spec.clusterIP".to_owned(), &spec.cluster_ip);
    let listed = spec.cluster_ips.iter().enumerate();
    let listed = listed.filter(|(_, ip)| **ip != spec.cluster_ip);
    let listed = listed.map(|(n, ip)| (format!("spec.clusterIPs[{n}]"), ip));
    let all = std::iter::once(first).chain(listed);
    written(
        all.filter(|(_, ip)| !ip.eq_ignore_ascii_case("none")),
        faults,
    )
}

/// Which families the service has: those it names, or else those of its
/// addresses.
fn families(service: &Service, ips: &[Written], faults: &mut Vec<Fault>) -> (bool, bool) {
    let named = &service.spec.ip_families;
    let (v4, v6) = (
        ips.iter().any(|ip| ip.addr.is_ipv4()),
        ips.iter().any(|ip| ip.addr.is_ipv6()),
    );
    if named.is_empty() {
        // A headless service without either is asked for in both.
        return match (v4, v6) {
            (false, false) => (true, true),
            known => known,
        };
    }
    for (n, name) in named.iter().enumerate() {
        if !["IPv4", "IPv6"].contains(&name.as_str()) {
            let reason = format!("{name:?}; expected IPv4 or IPv6");
            faults.push(Fault::new(format!("spec.ipFamilies[{n}]"), reason));
        }
    }
    let has = |name: &str| named.iter().any(|n| n == name);
    let (has_v4, has_v6) = (has("IPv4"), has("IPv6"));
    if (v4 && !has_v4) || (v6 && !has_v6) {
        let reason = format!("{named:?}, and a cluster address is of the other family");
        faults.push(Fault::new("spec.ipFamilies", reason));
    }
    (has_v4, has_v6)
}

/// A port's number, from 1 to 65535.
pub(super) fn number(value: i64, path: &str, faults: &mut Vec<Fault>) -> Option<u16> {
    let number = u16::try_from(value).ok().filter(|port| *port != 0);
    if number.is_none() {
        let reason = format!("{value} is no port; expected 1 to 65535");
        faults.push(Fault::new(path, reason));
    }
    number
}

fn ports(service: &Service, faults: &mut Vec<Fault>) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, port) in service.spec.ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        let protocol = match transport(&port.protocol, &at("protocol")) {
            Ok(protocol) => Some(protocol),
            Err(error) => {
                faults.push(fault(error));
                None
            }
        };
        let own = number(port.port, &at("port"), faults);
        let target = match &port.target_port {
            None => own.map(TargetPort::Number),
            Some(IntOrString::Int(0)) => own.map(TargetPort::Number),
            Some(IntOrString::Int(target)) => {
                number(*target, &at("targetPort"), faults).map(TargetPort::Number)
            }
            Some(IntOrString::String(name)) => Some(TargetPort::Name(name.to_ascii_lowercase())),
        };
        let node_port = match port.node_port {
            None | Some(0) => Some(0),
            // A wrong one leaves the port without, not the service without the port.
            Some(value) => Some(number(value, &at("nodePort"), faults).unwrap_or(0)),
        };
        let (Some(protocol), Some(own), Some(target), Some(node_port)) =
            (protocol, own, target, node_port)
        else {
            continue;
        };
        if ports
            .iter()
            .any(|other| (other.port, other.protocol) == (own, protocol))
        {
            let reason = format!("{own} with this protocol is the service's already");
            faults.push(Fault::new(at("port"), reason));
            continue;
        }
        // Endpoints are told apart by it.
        let is_taken =
            |other: &ServicePort| (&other.name, other.protocol) == (&port.name, protocol);
        if ports.iter().any(is_taken) {
            let reason = format!(
                "{:?} is another port's already; expected a name for each",
                port.name
            );
            faults.push(Fault::new(at("name"), reason));
            continue;
        }
        ports.push(ServicePort {
            index,
            name: port.name.clone(),
            protocol,
            port: own,
            target,
            node_port,
        });
    }
    ports
}

fn affinity(service: &Service, faults: &mut Vec<Fault>) -> Option<u32> {
    let spec = &service.spec;
    let sticks = is_second(
        &spec.session_affinity,
        ["None", "ClientIP"],
        "spec.sessionAffinity",
        faults,
    );
    if !sticks {
        return None;
    }
    let Some(seconds) = spec.session_affinity_config.client_ip.timeout_seconds else {
        return Some(AFFINITY_S);
    };
    match u32::try_from(seconds) {
        Ok(valid) if (1..=AFFINITY_S_MAX).contains(&seconds) => Some(valid),
        _ => {
            let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let reason = format!("{seconds}; expected 1 to {AFFINITY_S_MAX}");
            faults.push(Fault::new(path, reason));
            Some(AFFINITY_S)
        }
    }
}

fn annotations(service: &Service, read: &mut ServiceSpec, faults: &mut Vec<Fault>) {
    let annotations = &service.metadata.annotations;
    let get = |key: &str| annotations.get(key).map(String::as_str);
    let mut wrong = |key: &str, text: &str, expected: &str| {
        let reason = format!("{text:?}; expected {expected}");
        faults.push(Fault::new(annotation_path(key), reason));
    };
    let key = "service.cilium.io/lb-algorithm";
    read.algorithm = match get(key).map(|text| (text, text.to_ascii_lowercase())) {
        None => None,
        Some((_, word)) if word == "random" => Some(Algorithm::Random),
        Some((_, word)) if word == "maglev" => Some(Algorithm::Maglev),
        Some((text, _)) => {
            wrong(key, text, "random or maglev");
            None
        }
    };
    let key = "service.cilium.io/forwarding-mode";
    read.forwarding = match get(key).map(|text| (text, text.to_ascii_lowercase())) {
        None => None,
        Some((_, word)) if word == "snat" => Some(Forwarding::Snat),
        Some((_, word)) if word == "dsr" => Some(Forwarding::Dsr),
        Some((text, _)) => {
            wrong(key, text, "snat or dsr");
            None
        }
    };
    let key = "service.cilium.io/src-ranges-policy";
    read.source_deny = match get(key) {
        None | Some("allow") => false,
        Some("deny") => true,
        Some(text) => {
            wrong(key, text, "allow or deny");
            false
        }
    };
    let key = "service.cilium.io/type";
    if let Some(text) = get(key) {
        let mut exposed = Exposed {
            cluster_ip: false,
            node_port: false,
            load_balancer: false,
        };
        let mut is_known = true;
        for word in text.split(',').map(str::trim) {
            match word {
                "ClusterIP" => exposed.cluster_ip = true,
                "NodePort" => exposed.node_port = true,
                "LoadBalancer" => exposed.load_balancer = true,
                _ => is_known = false,
            }
        }
        if is_known {
            read.exposed = exposed;
        } else {
            wrong(
                key,
                text,
                "ClusterIP, NodePort, LoadBalancer, or several of them",
            );
        }
    }
    let hints = get("service.kubernetes.io/topology-aware-hints");
    let hints = hints.or_else(|| get("service.kubernetes.io/topology-mode"));
    let by_annotation = hints.is_some_and(|word| !["", "disabled", "Disabled"].contains(&word));
    read.follows_hints = by_annotation || read.distribution != Distribution::Even;
    let key = "service.cilium.io/node-selector";
    match get(key).map(|text| (text, selector(text))) {
        Some((_, Some(selector))) => read.nodes = Some(selector),
        Some((text, None)) => wrong(key, text, "a selector of labels as \"pool=edge,!old\""),
        None => {
            let key = "service.cilium.io/node";
            let named = get(key);
            read.nodes =
                named.map(|name| Selector::new(vec![Requirement::equals(source::K8S, key, name)]));
        }
    }
}

/// A selector in Kubernetes' short form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
fn selector(text: &str) -> Option<Selector> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                parts.push(text.get(start..at)?);
                start = at + 1;
            }
            _ => {}
        }
    }
    if depth != 0 {
        return None;
    }
    parts.push(text.get(start..)?);
    let requirements = parts.into_iter().map(|part| requirement(part.trim()));
    let requirements: Option<Vec<Requirement>> = requirements.collect();
    Some(Selector::new(requirements?))
}

fn requirement(part: &str) -> Option<Requirement> {
    let values = |list: &str| {
        let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(
            list.split(',')
                .map(|value| value.trim().to_owned())
                .collect(),
        )
    };
    let one = |value: &str| [value.trim().to_owned()].into();
    let (key, operator) = if let Some(key) = part.strip_prefix('!') {
        (key, Operator::DoesNotExist)
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Operator::NotIn(one(value)))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Operator::In(one(value)))
    } else if let Some((key, list)) = part.split_once(" notin ") {
        (key, Operator::NotIn(values(list)?))
    } else if let Some((key, list)) = part.split_once(" in ") {
        (key, Operator::In(values(list)?))
    } else {
        (part, Operator::Exists)
    };
    let key = key.trim();
    super::is_label_key(key).then(|| Requirement {
        source: source::K8S.to_owned(),
        key: key.to_owned(),
        operator,
    })
}
