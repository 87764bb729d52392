//! What an API server gives to services: addresses, node ports, and what it
//! fills in; and what a cloud gives to those of type LoadBalancer.
//!
//! What a service has it keeps for as long as it is there; what its manifest asks
//! for it gets, unless another has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::manifest::{Id, text};
use crate::plan::{OWN, Plan};

/// Options of the ConfigMap `axon-lab`.
pub(crate) const CIDRS: &str = "service-cidr";
pub(crate) const POOL: &str = "load-balancer-pool";
pub(crate) const CONFLICTS: &str = "service-conflicts";
/// The Service of the name server: its address is the tenth of the range, as
/// everywhere.
const DNS: (&str, &str) = ("kube-system", "kube-dns");
const DNS_PLACE: usize = 10;

/// Where services' addresses and ports come from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges {
    /// Cluster addresses, the first family first.
    cluster: Vec<IpNet>,
    /// Load balancers' addresses.
    pool: Vec<IpNet>,
    node_ports: (u16, u16),
    /// Whether two may ask for the same: then agents tell of it.
    conflicts: bool,
}

impl Ranges {
    fn of(plan: &Plan) -> Result<Self> {
        let options = plan.config_map(OWN);
        let option = |name: &str| options.and_then(|o| o.get(name)).and_then(Value::as_str);
        let nets = |name: &str, default: &str| -> Result<Vec<IpNet>> {
            let words = option(name).unwrap_or(default).split([',', ' ', '\n']);
            let words = words.filter(|word| !word.is_empty());
            let net = |word: &str| {
                let net = word.parse::<IpNet>().map(|net| net.trunc());
                net.with_context(|| format!("ConfigMap kube-system/{OWN}: data.{name}: {word:?}"))
            };
            words.map(net).collect()
        };
        let conflicts = match option(CONFLICTS) {
            None | Some("refuse") => false,
            Some("allow") => true,
            Some(other) => bail!(
                "ConfigMap kube-system/{OWN}: data.{CONFLICTS}: {other:?}; expected refuse or allow"
            ),
        };
        let range = plan.option("node-port-range").unwrap_or("30000,32767");
        let ends = range.split_once([',', '-']);
        let ends = ends.and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        Ok(Self {
            cluster: nets(CIDRS, "10.96.0.0/16,fd00:10:96::/112")?,
            pool: nets(POOL, "192.0.2.0/24,2001:db8:192::/112")?,
            // What agents make of a range that is none is theirs to tell.
            node_ports: ends.unwrap_or((30_000, 32_767)),
            conflicts,
        })
    }
}

/// Who has what.
#[derive(Debug, Default)]
struct Taken {
    ips: BTreeMap<IpAddr, Id>,
    ports: BTreeMap<u16, Id>,
}

/// Gives the services of a plan what they lack; what they had in the old one they
/// keep. Who is new was made now.
///
/// # Errors
/// Two ask for the same, or a range is used up: which service, which field.
pub(crate) fn assign(plan: &mut Plan, old: &Plan, now: &str) -> Result<()> {
    let ranges = Ranges::of(plan)?;
    let ids: Vec<Id> = plan.others.keys().cloned().collect();
    let ids: Vec<Id> = ids.into_iter().filter(|id| id.kind == "Service").collect();
    let mut taken = Taken::default();
    // Who is there already comes before who is new, and who asks before who does not.
    let (had, new): (Vec<&Id>, Vec<&Id>) = ids.iter().partition(|id| old.others.contains_key(*id));
    for id in had.iter().chain(&new) {
        if let Some(value) = plan.others.get_mut(id) {
            fill(value);
            keep(value, old.others.get(id), now);
            taken.claim(id, value, &ranges)?;
        }
    }
    for id in had.into_iter().chain(new) {
        if let Some(value) = plan.others.get_mut(id) {
            give(id, value, &ranges, &mut taken).with_context(|| id.to_string())?;
        }
    }
    Ok(())
}

/// Writes what holds of a service whose manifest does not say otherwise.
fn fill(value: &mut Value) {
    value["apiVersion"] = "v1".into();
    if !value["spec"].is_object() {
        value["spec"] = json!({});
    }
    let spec = &mut value["spec"];
    let default = |spec: &mut Value, key: &str, word: &str| {
        if spec[key].as_str().is_none_or(str::is_empty) {
            spec[key] = word.into();
        }
    };
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if spec["type"] == "ExternalName" {
        return;
    }
    default(spec, "internalTrafficPolicy", "Cluster");
    if spec["type"] != "ClusterIP" {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if !port.is_object() {
            continue;
        }
        default(port, "protocol", "TCP");
        if port["targetPort"].is_null() {
            port["targetPort"] = port["port"].clone();
        }
    }
    families(spec);
}

/// Settles which families a service has.
fn families(spec: &mut Value) {
    let explicit = addresses(spec);
    let mut families: Vec<String> = strings(&spec["ipFamilies"]);
    // Who asks for one family and an address of the other is told so by the agents.
    let is_settled = is_single(spec) && !families.is_empty();
    for ip in &explicit {
        let family = family(*ip).to_owned();
        if !is_settled && !families.contains(&family) {
            families.push(family);
        }
    }
    let policy = spec["ipFamilyPolicy"].as_str().filter(|p| !p.is_empty());
    let is_told = is_headless(spec) && spec["selector"].as_object().is_none_or(Map::is_empty);
    let policy = match policy {
        Some(policy) => policy.to_owned(),
        None if families.len() > 1 => "RequireDualStack".into(),
        // Whose endpoints are told by somebody else may have them of both.
        None if is_told && families.is_empty() => "RequireDualStack".into(),
        None => "SingleStack".into(),
    };
    let wanted = if policy == "SingleStack" { 1 } else { 2 };
    for family in ["IPv4", "IPv6"] {
        if families.len() < wanted && !families.iter().any(|f| f == family) {
            families.push(family.into());
        }
    }
    spec["ipFamilyPolicy"] = policy.into();
    spec["ipFamilies"] = families.into();
}

fn is_single(spec: &Value) -> bool {
    spec["ipFamilyPolicy"] == "SingleStack"
}

/// Whether a service has as many addresses as it is to have, of whatever family.
fn has_all(spec: &Value, ips: &[IpAddr]) -> bool {
    is_single(spec) && !ips.is_empty()
}

/// Takes over what a service had and its manifest does not ask for otherwise.
fn keep(value: &mut Value, old: Option<&Value>, now: &str) {
    let metadata = &mut value["metadata"];
    let created = metadata["creationTimestamp"].as_str().is_some();
    match old {
        _ if created => {}
        _ => {
            let old = old.and_then(|old| old["metadata"]["creationTimestamp"].as_str());
            metadata["creationTimestamp"] = old.unwrap_or(now).into();
        }
    }
    let Some(old) = old else { return };
    let spec = &mut value["spec"];
    if !is_headless(spec) && spec["type"] != "ExternalName" {
        let mut ips = addresses(spec);
        for ip in addresses(&old["spec"]) {
            let is_wanted = strings(&spec["ipFamilies"]).iter().any(|f| f == family(ip));
            let has = has_all(spec, &ips) || ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
            if is_wanted && !has {
                ips.push(ip);
            }
        }
        set_addresses(spec, &ips);
    }
    if has_node_ports(spec) {
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            let olds = old["spec"]["ports"].as_array().into_iter().flatten();
            let same =
                |old: &&Value| old["port"] == port["port"] && old["protocol"] == port["protocol"];
            let mut olds = olds.filter(same);
            if let (None, Some(old)) = (node_port(port), olds.next())
                && let Some(number) = node_port(old)
            {
                port["nodePort"] = number.into();
            }
        }
    }
    if has_health_check(spec) && spec["healthCheckNodePort"].as_u64().is_none() {
        spec["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
    if spec["type"] == "LoadBalancer" && ingress(value).is_empty() {
        set_ingress(value, &ingress(old));
    }
}

impl Taken {
    /// Notes what a service asks for.
    fn claim(&mut self, id: &Id, value: &Value, ranges: &Ranges) -> Result<()> {
        let spec = &value["spec"];
        let mut ips: Vec<(&str, IpAddr)> = Vec::new();
        if spec["type"] != "ExternalName" {
            ips.extend(
                addresses(spec)
                    .into_iter()
                    .map(|ip| ("spec.clusterIPs", ip)),
            );
        }
        let lent = ingress(value);
        ips.extend(
            lent.into_iter()
                .map(|ip| ("status.loadBalancer.ingress", ip)),
        );
        for (field, ip) in ips {
            let owner = self.ips.entry(ip).or_insert_with(|| id.clone());
            if owner != id && !ranges.conflicts {
                bail!("{id}: {field}: {ip} is {owner}'s already");
            }
        }
        for (field, number) in ports(spec) {
            let (first, last) = ranges.node_ports;
            let fits = (first..=last).contains(&number);
            let owner = self.ports.entry(number).or_insert_with(|| id.clone());
            if ranges.conflicts {
                continue;
            }
            if owner != id {
                bail!("{id}: {field}: {number} is {owner}'s already");
            }
            if !fits {
                bail!("{id}: {field}: {number}; expected {first} to {last}");
            }
        }
        Ok(())
    }

    fn address(&mut self, id: &Id, (nets, what): (&[IpNet], &str), v6: bool) -> Result<IpAddr> {
        let nets = nets.iter().filter(|net| net.addr().is_ipv6() == v6);
        let is_free = |ip: &IpAddr| !self.ips.contains_key(ip);
        let found = nets.into_iter().find_map(|net| {
            // The lower part is for those who ask for one (KEP-3070).
            let low = 1 + low_part(net);
            let upper = hosts(net).skip(low).find(is_free);
            upper.or_else(|| hosts(net).skip(1).find(is_free))
        });
        let family = if v6 { "IPv6" } else { "IPv4" };
        let ip = found.with_context(|| format!("{what} has no {family} address left"))?;
        self.ips.insert(ip, id.clone());
        Ok(ip)
    }

    fn port(&mut self, id: &Id, (first, last): (u16, u16)) -> Result<u16> {
        let mut free = (first..=last).filter(|port| !self.ports.contains_key(port));
        let port = free
            .next()
            .with_context(|| format!("no node port of {first} to {last} is left"))?;
        self.ports.insert(port, id.clone());
        Ok(port)
    }
}

/// Gives a service what it lacks.
fn give(id: &Id, value: &mut Value, ranges: &Ranges, taken: &mut Taken) -> Result<()> {
    let spec = &mut value["spec"];
    if spec["type"] == "ExternalName" {
        return Ok(());
    }
    if is_headless(spec) {
        spec["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let mut ips = addresses(spec);
    for family in strings(&spec["ipFamilies"]) {
        let v6 = family == "IPv6";
        if has_all(spec, &ips) || ips.iter().any(|ip| ip.is_ipv6() == v6) {
            continue;
        }
        let nets = (&ranges.cluster[..], "the range of services");
        let ip = match name_servers(id, ranges, v6).filter(|ip| !taken.ips.contains_key(ip)) {
            Some(ip) => {
                taken.ips.insert(ip, id.clone());
                ip
            }
            None => taken.address(id, nets, v6)?,
        };
        ips.push(ip);
    }
    let order = strings(&spec["ipFamilies"]);
    ips.sort_by_key(|ip| order.iter().position(|f| f == family(*ip)));
    set_addresses(spec, &ips);
    give_ports(id, spec, ranges, taken)?;
    let is_balanced = spec["type"] == "LoadBalancer" && spec["loadBalancerClass"].is_null();
    if !is_balanced || !ingress(value).is_empty() {
        return Ok(());
    }
    let asked = text(value, "/spec/loadBalancerIP").and_then(|ip| ip.parse::<IpAddr>().ok());
    let mut lent: Vec<IpAddr> = asked.into_iter().collect();
    for family in strings(&value["spec"]["ipFamilies"]) {
        let v6 = family == "IPv6";
        let has = lent.iter().any(|ip| ip.is_ipv6() == v6);
        if !has && ranges.pool.iter().any(|net| net.addr().is_ipv6() == v6) {
            lent.push(taken.address(id, (&ranges.pool, POOL), v6)?);
        }
    }
    set_ingress(value, &lent);
    Ok(())
}

fn give_ports(id: &Id, spec: &mut Value, ranges: &Ranges, taken: &mut Taken) -> Result<()> {
    if has_node_ports(spec) {
        // One number does for a port of several protocols.
        let mut given: BTreeMap<u64, BTreeSet<(u16, String)>> = BTreeMap::new();
        let all = spec["ports"].as_array().into_iter().flatten();
        for port in all {
            if let (Some(own), Some(number)) = (port["port"].as_u64(), node_port(port)) {
                let protocol = port["protocol"].as_str().unwrap_or_default();
                given
                    .entry(own)
                    .or_default()
                    .insert((number, protocol.into()));
            }
        }
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let (Some(own), None) = (port["port"].as_u64(), node_port(port)) else {
                continue;
            };
            let protocol = port["protocol"].as_str().unwrap_or_default().to_owned();
            let of_port = given.entry(own).or_default();
            let shared = of_port
                .iter()
                .find(|(number, _)| !of_port.contains(&(*number, protocol.clone())));
            let number = match shared {
                Some((number, _)) => *number,
                None => taken.port(id, ranges.node_ports)?,
            };
            of_port.insert((number, protocol));
            port["nodePort"] = number.into();
        }
    }
    if has_health_check(spec) && spec["healthCheckNodePort"].as_u64().is_none_or(|p| p == 0) {
        spec["healthCheckNodePort"] = taken.port(id, ranges.node_ports)?.into();
    }
    Ok(())
}

/// The address of the name server's Service.
fn name_servers(id: &Id, ranges: &Ranges, v6: bool) -> Option<IpAddr> {
    let is_it = (id.namespace.as_str(), id.name.as_str()) == DNS;
    let mut nets = ranges.cluster.iter();
    let net = nets.find(|net| net.addr().is_ipv6() == v6 && is_it)?;
    hosts(net).nth(DNS_PLACE)
}

/// The addresses of a net from its own on, without IPv4's broadcast address.
fn hosts(net: &IpNet) -> impl Iterator<Item = IpAddr> {
    let net = *net;
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let count = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    (0..count).map_while(move |n| match net.addr() {
        IpAddr::V4(ip) => {
            let ip = u32::from(ip).checked_add(u32::try_from(n).ok()?)?;
            (n + 1 < count).then(|| Ipv4Addr::from(ip).into())
        }
        IpAddr::V6(ip) => Some(Ipv6Addr::from(u128::from(ip).checked_add(n)?).into()),
    })
}

/// How much of a range is for those who ask for an address.
fn low_part(net: &IpNet) -> usize {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let count = 1_usize.checked_shl(bits).unwrap_or(usize::MAX);
    match count / 16 {
        0 => 0,
        part => part.clamp(16, 256).min(count),
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether it has no address of its own.
pub(crate) fn is_headless(spec: &Value) -> bool {
    let none = |value: &Value| {
        value
            .as_str()
            .is_some_and(|ip| ip.eq_ignore_ascii_case("none"))
    };
    none(&spec["clusterIP"]) || none(&spec["clusterIPs"][0])
}

/// Cluster addresses.
pub(crate) fn addresses(spec: &Value) -> Vec<IpAddr> {
    let first = spec["clusterIP"].as_str();
    let all = spec["clusterIPs"].as_array().into_iter().flatten();
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in first.into_iter().chain(all.filter_map(Value::as_str)) {
        if let Ok(ip) = text.parse()
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
    }
    ips
}

fn set_addresses(spec: &mut Value, ips: &[IpAddr]) {
    if let Some(first) = ips.first() {
        spec["clusterIP"] = first.to_string().into();
        spec["clusterIPs"] = ips.iter().map(ToString::to_string).collect();
    }
}

/// Addresses that a load balancer has for it.
pub(crate) fn ingress(value: &Value) -> Vec<IpAddr> {
    let list = value["status"]["loadBalancer"]["ingress"].as_array();
    let ips = list
        .into_iter()
        .flatten()
        .filter_map(|item| item["ip"].as_str());
    ips.filter_map(|ip| ip.parse().ok()).collect()
}

fn set_ingress(value: &mut Value, ips: &[IpAddr]) {
    let ips = ips
        .iter()
        .map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"}));
    let ips: Vec<Value> = ips.collect();
    if ips.is_empty() {
        return;
    }
    if !value["status"].is_object() {
        value["status"] = json!({});
    }
    if !value["status"]["loadBalancer"].is_object() {
        value["status"]["loadBalancer"] = json!({});
    }
    value["status"]["loadBalancer"]["ingress"] = ips.into();
}

fn has_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn has_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

fn node_port(port: &Value) -> Option<u16> {
    let number = port["nodePort"].as_u64().filter(|port| *port != 0)?;
    u16::try_from(number).ok()
}

/// Node ports that are written, and where.
fn ports(spec: &Value) -> Vec<(String, u16)> {
    let is_exposed = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    let all = spec["ports"].as_array().into_iter().flatten().enumerate();
    let of_ports =
        all.filter_map(|(n, port)| Some((format!("spec.ports[{n}].nodePort"), node_port(port)?)));
    let health = spec["healthCheckNodePort"].as_u64();
    let health = health.and_then(|port| u16::try_from(port).ok());
    let health = health.filter(|port| *port != 0 && has_health_check(spec));
    let health = health.map(|port| ("spec.healthCheckNodePort".to_owned(), port));
    of_ports.filter(|_| is_exposed).chain(health).collect()
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
