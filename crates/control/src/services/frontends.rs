//! What a service asks for: which addresses it claims. What an address leads to is in `lists`; ports of
//! pods and redirections are in `near`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axon_abi::{
    Be16, FrontendKind, ListRef, ServiceEntry, ServiceFlags, ServiceKey, SourceRangeKey,
};
use axon_model::{
    EndpointSlice, Fault, Forwarding, NodeAddressKind, ObjectKey, Protocol, Service, ServiceKind,
    ServicePort, Written, source,
};

use super::asked::{Asked, Kind, Object, Step, What};
use super::endpoints;
use super::{Cluster, HealthCheck, Mode, Numbers, ServicesConfig};

/// Where it is asked what is to be: on a node of a cluster.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) node: &'a str,
    pub(super) config: &'a ServicesConfig,
}

/// An object that is being asked.
pub(super) struct Asking<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) node: &'a str,
    pub(super) config: &'a ServicesConfig,
    pub(super) numbers: &'a mut Numbers,
    /// The node's own addresses.
    pub(super) own: Vec<IpAddr>,
    pub(super) asked: Asked,
}

/// The lists of a service's port, of one family.
#[derive(Clone, Copy, Default)]
pub(super) struct Lists {
    /// Everybody that may be chosen.
    pub(super) cluster: ListRef,
    /// Who of them is here.
    pub(super) local: ListRef,
}

pub(super) fn key(addr: IpAddr, port: u16, protocol: Protocol) -> ServiceKey {
    ServiceKey {
        addr: addr.into(),
        port: Be16::new(port),
        protocol: protocol.0,
        pad: 0,
    }
}

impl<'a> Asking<'a> {
    pub(super) fn new(place: Place<'a>, numbers: &'a mut Numbers) -> Self {
        let own = place.cluster.nodes.get(place.node);
        let own = own.into_iter().flat_map(|node| &node.addresses);
        let own = own.filter(|a| a.kind != NodeAddressKind::CiliumInternalIP);
        Self {
            own: own.map(|address| address.addr).collect(),
            cluster: place.cluster,
            node: place.node,
            config: place.config,
            numbers,
            asked: Asked::default(),
        }
    }

    /// What an object asks for; of one that is not there, nothing.
    pub(super) fn object(mut self, object: &Object) -> Asked {
        let (cluster, key) = (self.cluster, &object.key);
        match object.kind {
            Kind::Service => {
                if let Some(service) = cluster.services.get(key) {
                    self.service(key, service);
                }
            }
            Kind::Slice => {
                if let Some(slice) = cluster.slices.get(key) {
                    self.slice(key, slice);
                }
            }
            Kind::Pod => {
                if let Some(pod) = cluster.pods.get(key) {
                    self.host_ports(key, pod);
                }
            }
            Kind::Redirect => {
                if let Some(redirect) = cluster.redirects.get(key) {
                    self.redirect(key, redirect);
                }
            }
        }
        self.asked
    }

    /// Tells of a field.
    fn report(&mut self, field: &str, reason: String) {
        self.step(field, What::Wrong(reason));
    }

    fn step(&mut self, field: &str, what: What) {
        self.asked.steps.push(Step {
            field: field.to_owned(),
            what,
        });
    }

    /// The number of a port.
    pub(super) fn port(&mut self, owner: &str, name: &str, protocol: Protocol) -> u32 {
        let number = self.numbers.port(owner, name, protocol);
        self.asked.ports.insert(number);
        number
    }

    fn faults(&mut self, faults: &[Fault]) {
        for fault in faults {
            self.report(&fault.field, fault.reason.clone());
        }
    }

    fn slice(&mut self, object: &ObjectKey, slice: &EndpointSlice) {
        self.faults(&slice.faults);
        let named = ObjectKey::new(&object.namespace, &slice.service);
        if !slice.service.is_empty() && !self.cluster.services.contains_key(&named) {
            let reason = format!("there is no service {named}");
            self.report("metadata.labels[kubernetes.io/service-name]", reason);
        }
    }

    fn service(&mut self, object: &ObjectKey, service: &Service) {
        let name = Object::new(Kind::Service, object).name();
        let spec = &service.spec;
        self.faults(&spec.faults);
        let labels = || {
            let node = self.cluster.nodes.get(self.node);
            let labels = node.into_iter().flat_map(|node| &node.labels);
            let labels = labels.map(|(k, v)| axon_model::Label::new(source::K8S, k, v));
            labels.collect()
        };
        let is_here = spec
            .nodes
            .as_ref()
            .is_none_or(|selector| selector.matches(&labels()));
        if spec.kind == ServiceKind::ExternalName
            || spec.is_headless
            || !is_here
            || spec.proxy_name != self.config.proxy_name
        {
            return;
        }
        for port in &spec.ports {
            let number = self.port(&name, &port.name, port.protocol);
            let all = endpoints::all(self.cluster, (&object.namespace, service), port, self.node);
            let lists = [false, true].map(|v6| self.lists(number, service, port, (&all, v6)));
            self.ranges(number, service);
            self.frontends(service, port, number, lists);
        }
        self.health(object, service);
    }

    fn ranges(&mut self, number: u32, service: &Service) {
        for range in &service.spec.source_ranges {
            let bits = u32::from(range.prefix_len()) + if range.addr().is_ipv4() { 96 } else { 0 };
            self.asked.ranges.insert(SourceRangeKey {
                prefix_bits: SourceRangeKey::SERVICE_BITS + bits,
                service: number,
                addr: range.addr().into(),
            });
        }
    }

    /// Claims every address of a service's port.
    fn frontends(&mut self, service: &Service, port: &ServicePort, number: u32, lists: [Lists; 2]) {
        let spec = &service.spec;
        let mut base = self.base(service, number);
        let ranges = self.range_flags(service);
        let everywhere = if self.config.source_range_all_types {
            ranges
        } else {
            0
        };
        let in_family = |addr: IpAddr| lists[usize::from(addr.is_ipv6())];
        if spec.exposed.cluster_ip {
            let closed = match self.config.external_cluster_ip {
                true => everywhere,
                false => ServiceFlags::CLOSED_OUTSIDE,
            };
            let at = (spec.internal_local, spec.internal_local);
            for ip in &spec.cluster_ips {
                let entry = self.entry(
                    base,
                    FrontendKind::ClusterIp,
                    closed,
                    (in_family(ip.addr), at),
                );
                self.claim(ip, port, entry);
            }
        }
        let at = (spec.internal_local, spec.external_local);
        let is_balanced = spec.kind == ServiceKind::LoadBalancer;
        if is_balanced && spec.exposed.load_balancer {
            for ip in &spec.load_balancer_ips {
                if super::is_node(self.cluster, ip.addr) {
                    let reason = format!("{} is a node's own address", ip.addr);
                    self.report(&ip.field, reason);
                }
                let entry = self.entry(
                    base,
                    FrontendKind::LoadBalancer,
                    ranges,
                    (in_family(ip.addr), at),
                );
                self.claim(ip, port, entry);
            }
        }
        let at = (spec.external_local, spec.external_local);
        for ip in &spec.external_ips {
            let is_own = self.own.contains(&ip.addr) || self.config.external_ips_inside;
            let closed = if is_own {
                0
            } else {
                ServiceFlags::CLOSED_INSIDE
            };
            let flags = everywhere | closed;
            let entry = self.entry(
                base,
                FrontendKind::ExternalIp,
                flags,
                (in_family(ip.addr), at),
            );
            self.claim(ip, port, entry);
        }
        let has_node_port = is_balanced || spec.kind == ServiceKind::NodePort;
        if has_node_port && spec.exposed.node_port && port.node_port != 0 {
            base.flags |= everywhere;
            self.node_port(service, port, base, lists);
        }
    }

    /// What all frontends of a service's port have.
    fn base(&self, service: &Service, number: u32) -> ServiceEntry {
        let spec = &service.spec;
        let own_mode = spec.forwarding.filter(|_| self.config.mode_annotation);
        let mode = match own_mode {
            Some(Forwarding::Dsr) => Mode::Dsr,
            Some(Forwarding::Snat) => Mode::Snat,
            None => self.config.mode,
        };
        let mut flags = match mode {
            Mode::Snat => 0,
            Mode::Hybrid => ServiceFlags::DSR_TCP,
            Mode::Dsr => ServiceFlags::DSR_TCP | ServiceFlags::DSR_OTHER,
        };
        let timeout = spec
            .affinity_timeout_s
            .filter(|_| self.config.session_affinity);
        if timeout.is_some() {
            flags |= ServiceFlags::AFFINITY;
        }
        ServiceEntry {
            service: number,
            flags,
            maglev_slots: self.config.maglev_table_size,
            affinity_timeout_s: timeout.unwrap_or(0),
            ..ServiceEntry::default()
        }
    }

    /// Ranges of which none could be read let in nobody.
    fn range_flags(&self, service: &Service) -> u32 {
        let spec = &service.spec;
        let deny = u32::from(spec.source_deny) * ServiceFlags::SOURCE_DENY;
        u32::from(spec.has_source_ranges) * (ServiceFlags::SOURCE_RANGES | deny)
    }

    /// The row of a frontend whose scopes see the node alone, or not.
    fn entry(
        &self,
        base: ServiceEntry,
        kind: FrontendKind,
        flags: u32,
        (lists, (internal_local, external_local)): (Lists, (bool, bool)),
    ) -> ServiceEntry {
        let of = |is_local: bool| if is_local { lists.local } else { lists.cluster };
        // Somebody is there, only not here: another node may have the client.
        let drops = |is_local: bool| {
            let is_elsewhere = is_local && lists.cluster.list != 0;
            of(is_local).list == 0 && (is_elsewhere || self.config.drop_without_backends)
        };
        ServiceEntry {
            flags: base.flags
                | kind as u32
                | flags
                | (u32::from(drops(internal_local)) * ServiceFlags::DROP_INSIDE)
                | (u32::from(drops(external_local)) * ServiceFlags::DROP_OUTSIDE),
            internal: of(internal_local),
            external: of(external_local),
            ..base
        }
    }

    /// A frontend at an address that is written in a service, unless somebody
    /// has it.
    fn claim(&mut self, ip: &Written, port: &ServicePort, entry: ServiceEntry) {
        if ip.addr.is_ipv6() && !self.config.ipv6 {
            return;
        }
        let key = key(ip.addr, port.port, port.protocol);
        let is_whole = !super::is_node(self.cluster, ip.addr);
        let whole = is_whole.then_some(entry.flags & ServiceFlags::CLOSED_INSIDE);
        self.step(&ip.field, What::Frontend { key, entry, whole });
    }

    /// A frontend, unless somebody else has it.
    pub(super) fn take(&mut self, field: &str, key: ServiceKey, entry: ServiceEntry) {
        let whole = None;
        self.step(field, What::Frontend { key, entry, whole });
    }

    fn node_port(
        &mut self,
        service: &Service,
        port: &ServicePort,
        base: ServiceEntry,
        lists: [Lists; 2],
    ) {
        let spec = &service.spec;
        let field = format!("spec.ports[{}].nodePort", port.index);
        let (first, last) = self.config.node_port_range;
        if !(first..=last).contains(&port.node_port) {
            let reason = format!("{}; expected {first} to {last}", port.node_port);
            return self.report(&field, reason);
        }
        if self
            .cluster
            .listeners
            .contains(&(port.protocol, port.node_port))
        {
            let reason = format!(
                "a process of node {} listens at {}",
                self.node, port.node_port
            );
            self.report(&field, reason);
        }
        let at = (spec.internal_local, spec.external_local);
        let families = [
            (spec.has_v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            (
                spec.has_v6 && self.config.ipv6,
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ),
        ];
        for (is_wanted, any) in families {
            if !is_wanted {
                continue;
            }
            let of_family = lists[usize::from(any.is_ipv6())];
            let entry = self.entry(base, FrontendKind::NodePort, 0, (of_family, at));
            let here = self.own.iter().filter(|own| own.is_ipv6() == any.is_ipv6());
            let wanted = &self.config.node_port_addresses;
            let here =
                here.filter(|own| wanted.is_empty() || wanted.iter().any(|net| net.contains(*own)));
            let addresses: Vec<IpAddr> = here.copied().chain([any]).collect();
            for addr in addresses {
                self.take(&field, key(addr, port.node_port, port.protocol), entry);
            }
        }
    }

    /// Where the node tells how many backends of a service it has.
    fn health(&mut self, object: &ObjectKey, service: &Service) {
        let spec = &service.spec;
        let is_told = self.config.health_checks
            && spec.kind == ServiceKind::LoadBalancer
            && spec.external_local
            && spec.health_check_node_port != 0;
        if !is_told {
            return;
        }
        let mut here = std::collections::BTreeSet::new();
        for port in &spec.ports {
            let all = endpoints::all(self.cluster, (&object.namespace, service), port, self.node);
            let ready = all.iter().filter(|c| c.is_ready && c.is_local);
            here.extend(
                ready
                    .filter(|c| c.addr.is_ipv4() == spec.has_v4)
                    .map(|c| c.addr),
            );
        }
        let what = What::Health {
            port: spec.health_check_node_port,
            check: HealthCheck {
                service: object.clone(),
                here: here.len(),
            },
        };
        self.step("spec.healthCheckNodePort", what);
    }
}
