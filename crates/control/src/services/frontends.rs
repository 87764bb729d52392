//! Who may claim which address, and the rows that follow from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axon_abi::{
    Backend, BackendFlags, BackendState, Be16, FrontendKind, IpKey, LIST_BLOCK_SLOTS,
    LIST_SLOTS_MAX, ListKey, ListRef, MAGLEV_BLOCK_SLOTS, MaglevKey, ServiceClient, ServiceEntry,
    ServiceFlags, ServiceKey, SourceRangeKey,
};
use axon_model::{
    Algorithm, Fault, Forwarding, LocalRedirect, NodeAddressKind, ObjectKey, Pod, Protocol,
    RedirectFrontend, RedirectPort, Service, ServiceKind, ServicePort, Written, source,
};

use super::endpoints::{self, Candidate};
use super::{
    Cluster, MAGLEV_SEED, Mode, Numbers, Report, ServiceRows, ServicesConfig, maglev_table,
};

/// One pass over all that is known.
pub(super) struct Resolution<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    config: &'a ServicesConfig,
    numbers: &'a mut Numbers,
    rows: ServiceRows,
    /// Who has which frontend.
    owners: BTreeMap<ServiceKey, String>,
    /// The node's own addresses.
    own: Vec<IpAddr>,
}

/// The lists of a service's port, of one family.
#[derive(Clone, Copy, Default)]
struct Lists {
    /// Everybody that may be chosen.
    cluster: ListRef,
    /// Who of them is here.
    local: ListRef,
}

fn key(addr: IpAddr, port: u16, protocol: Protocol) -> ServiceKey {
    ServiceKey {
        addr: addr.into(),
        port: Be16::new(port),
        protocol: protocol.0,
        pad: 0,
    }
}

impl<'a> Resolution<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        node: &'a str,
        config: &'a ServicesConfig,
        numbers: &'a mut Numbers,
    ) -> Self {
        let own = cluster.nodes.get(node).map(|node| node.addresses.iter());
        let own = own.into_iter().flatten();
        let own = own.filter(|a| a.kind != NodeAddressKind::CiliumInternalIP);
        Self {
            cluster,
            node,
            config,
            numbers,
            rows: ServiceRows::default(),
            owners: BTreeMap::new(),
            own: own.map(|address| address.addr).collect(),
        }
    }

    pub(super) fn run(mut self) -> ServiceRows {
        // Who came first keeps what he has.
        let mut services: Vec<(&ObjectKey, &Service)> = self.cluster.services.iter().collect();
        services.sort_by(|a, b| (&a.1.spec.created, a.0).cmp(&(&b.1.spec.created, b.0)));
        for (object, service) in services {
            self.service(object, service);
        }
        for (key, slice) in &self.cluster.slices {
            let object = format!("EndpointSlice {key}");
            self.faults(&object, &slice.faults);
            let named = ObjectKey::new(&key.namespace, &slice.service);
            if !slice.service.is_empty() && !self.cluster.services.contains_key(&named) {
                let reason = format!("there is no service {named}");
                self.report(
                    &object,
                    "metadata.labels[kubernetes.io/service-name]",
                    reason,
                );
            }
        }
        for (key, pod) in &self.cluster.pods {
            if pod.node == self.node && !pod.host_network && !pod.is_finished {
                self.host_ports(key, pod);
            }
        }
        if self.config.local_redirects {
            let mut redirects: Vec<_> = self.cluster.redirects.values().collect();
            redirects.sort_by(|a, b| {
                (&a.created, &a.namespace, &a.name).cmp(&(&b.created, &b.namespace, &b.name))
            });
            for redirect in redirects {
                self.redirect(redirect);
            }
        }
        self.rows
    }

    /// Tells of a field, once: a port is claimed at several addresses.
    fn report(&mut self, object: &str, field: &str, reason: String) {
        let mut told = self.rows.reports.iter();
        if told.any(|report| report.object == object && report.field == field) {
            return;
        }
        self.rows.reports.insert(Report {
            object: object.to_owned(),
            field: field.to_owned(),
            reason,
        });
    }

    fn faults(&mut self, object: &str, faults: &[Fault]) {
        for fault in faults {
            self.report(object, &fault.field, fault.reason.clone());
        }
    }

    fn service(&mut self, object: &ObjectKey, service: &Service) {
        let name = format!("Service {object}");
        let spec = &service.spec;
        self.faults(&name, &spec.faults);
        let labels = self.cluster.nodes.get(self.node).map(|node| &node.labels);
        let labels = labels.into_iter().flatten();
        let labels = labels
            .map(|(k, v)| axon_model::Label::new(source::K8S, k, v))
            .collect();
        let is_here = spec
            .nodes
            .as_ref()
            .is_none_or(|selector| selector.matches(&labels));
        if spec.kind == ServiceKind::ExternalName
            || spec.is_headless
            || !is_here
            || spec.proxy_name != self.config.proxy_name
        {
            return;
        }
        for port in &spec.ports {
            let number = self.numbers.port(&name, &port.name, port.protocol);
            let all = endpoints::all(self.cluster, (&object.namespace, service), port, self.node);
            let lists = [false, true].map(|v6| self.lists(number, service, port, (&all, v6)));
            self.ranges(number, service);
            self.frontends((&name, service), port, number, lists);
        }
        self.health(object, service);
    }

    /// The lists of one family, with backends and tables.
    fn lists(
        &mut self,
        number: u32,
        service: &Service,
        port: &ServicePort,
        (all, v6): (&[Candidate], bool),
    ) -> Lists {
        let all: Vec<Candidate> = all
            .iter()
            .filter(|c| c.addr.is_ipv6() == v6)
            .cloned()
            .collect();
        let place = (self.cluster, self.node);
        let wide = endpoints::eligible(&all, place, service, (self.config, false));
        let near = endpoints::eligible(&all, place, service, (self.config, true));
        let spec = &service.spec;
        for candidate in &all {
            let id = self.numbers.backend(number, candidate.addr, candidate.port);
            let listed = |is_local: bool, flag: u32| {
                let list = if is_local { &near } else { &wide };
                u32::from(list.contains(&candidate)) * flag
            };
            let state = if candidate.is_ready {
                BackendState::Active
            } else if candidate.is_terminating {
                BackendState::Terminating
            } else {
                BackendState::Maintenance
            };
            let local = u32::from(candidate.is_local) * BackendFlags::LOCAL;
            let backend = Backend {
                addr: candidate.addr.into(),
                port: Be16::new(candidate.port),
                protocol: port.protocol.0,
                state: state as u8,
                service: number,
                flags: listed(spec.internal_local, BackendFlags::IN_INTERNAL)
                    | listed(spec.external_local, BackendFlags::IN_EXTERNAL)
                    | local,
                generation: 0,
            };
            self.rows.backends.insert(id, backend);
        }
        let by_annotation = spec.algorithm.filter(|_| self.config.algorithm_annotation);
        let maglev = by_annotation.unwrap_or(self.config.algorithm) == Algorithm::Maglev;
        let mut list = |candidates: &[&Candidate]| self.list(number, candidates, (port, maglev));
        Lists {
            cluster: list(&wide),
            local: list(&near),
        }
    }

    fn list(
        &mut self,
        number: u32,
        candidates: &[&Candidate],
        (port, maglev): (&ServicePort, bool),
    ) -> ListRef {
        let candidates = candidates.iter().take(LIST_SLOTS_MAX as usize - 1);
        let members: Vec<(u32, &Candidate)> = candidates
            .map(|c| (self.numbers.backend(number, c.addr, c.port), *c))
            .collect();
        let ids: Vec<u32> = members.iter().map(|(id, _)| *id).collect();
        let mut list = self.plain_list(&ids);
        if list.list == 0 || !maglev {
            return list;
        }
        let weights: Vec<(u32, u16)> = members.iter().map(|(id, c)| (*id, c.weight)).collect();
        let size = self.config.maglev_table_size;
        list.maglev = self.numbers.table(&weights, size);
        let protocol = match port.protocol {
            Protocol::UDP => "UDP",
            Protocol::SCTP => "SCTP",
            _ => "TCP",
        };
        let texts = members.iter().map(|(_, c)| {
            let at = std::net::SocketAddr::new(c.addr, c.port);
            (format!("[{at}/{protocol},State:active]"), c.weight.max(1))
        });
        let places = maglev_table(&texts.collect::<Vec<_>>(), size, MAGLEV_SEED);
        for (block, chunk) in (0..).zip(places.chunks(MAGLEV_BLOCK_SLOTS as usize)) {
            let key = MaglevKey {
                table: list.maglev,
                block,
            };
            let row = self.rows.maglev.entry(key).or_default();
            for (slot, index) in row.slots.iter_mut().zip(chunk) {
                *slot = *index;
            }
        }
        list
    }

    fn plain_list(&mut self, ids: &[u32]) -> ListRef {
        if ids.is_empty() {
            return ListRef::default();
        }
        let list = self.numbers.list(ids);
        for (block, chunk) in (0..).zip(ids.chunks(LIST_BLOCK_SLOTS as usize)) {
            let row = self.rows.lists.entry(ListKey { list, block }).or_default();
            for (slot, id) in row.backends.iter_mut().zip(chunk) {
                *slot = *id;
            }
        }
        ListRef {
            list,
            slots: ids.len() as u32,
            maglev: 0,
        }
    }

    fn ranges(&mut self, number: u32, service: &Service) {
        for range in &service.spec.source_ranges {
            let bits = u32::from(range.prefix_len()) + if range.addr().is_ipv4() { 96 } else { 0 };
            self.rows.ranges.insert(SourceRangeKey {
                prefix_bits: SourceRangeKey::SERVICE_BITS + bits,
                service: number,
                addr: range.addr().into(),
            });
        }
    }

    /// Claims every address of a service's port.
    fn frontends(
        &mut self,
        (name, service): (&str, &Service),
        port: &ServicePort,
        number: u32,
        lists: [Lists; 2],
    ) {
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
                self.claim(name, ip, port, entry);
            }
        }
        let at = (spec.internal_local, spec.external_local);
        let is_balanced = spec.kind == ServiceKind::LoadBalancer;
        if is_balanced && spec.exposed.load_balancer {
            for ip in &spec.load_balancer_ips {
                if super::is_node(self.cluster, ip.addr) {
                    let reason = format!("{} is a node's own address", ip.addr);
                    self.report(name, &ip.field, reason);
                }
                let entry = self.entry(
                    base,
                    FrontendKind::LoadBalancer,
                    ranges,
                    (in_family(ip.addr), at),
                );
                self.claim(name, ip, port, entry);
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
            self.claim(name, ip, port, entry);
        }
        let has_node_port = is_balanced || spec.kind == ServiceKind::NodePort;
        if has_node_port && spec.exposed.node_port && port.node_port != 0 {
            base.flags |= everywhere;
            self.node_port((name, service), port, base, lists);
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
    fn claim(&mut self, name: &str, ip: &Written, port: &ServicePort, entry: ServiceEntry) {
        if ip.addr.is_ipv6() && !self.config.ipv6 {
            return;
        }
        let key = key(ip.addr, port.port, port.protocol);
        if self.take(name, &ip.field, key, entry) && !super::is_node(self.cluster, ip.addr) {
            self.whole(ip.addr, entry.flags & ServiceFlags::CLOSED_INSIDE);
        }
    }

    /// Enters a frontend, unless somebody else has it.
    fn take(&mut self, name: &str, field: &str, key: ServiceKey, entry: ServiceEntry) -> bool {
        match self.owners.get(&key) {
            Some(owner) if owner != name => {
                let reason = format!(
                    "{} with port {} is {owner}'s already",
                    IpAddr::from(key.addr),
                    key.port.get()
                );
                self.report(name, field, reason);
                false
            }
            // An address that a service writes twice is one frontend.
            Some(_) => true,
            None => {
                self.owners.insert(key, name.to_owned());
                self.rows.services.insert(key, entry);
                true
            }
        }
    }

    /// The address as a whole. It is a service's from inside if one of its
    /// ports is.
    fn whole(&mut self, addr: IpAddr, closed: u32) {
        let key = key(addr, 0, Protocol(0));
        let row = self.rows.services.entry(key).or_insert(ServiceEntry {
            flags: FrontendKind::Address as u32 | closed,
            ..ServiceEntry::default()
        });
        row.flags &= closed | !ServiceFlags::CLOSED_INSIDE;
    }

    fn node_port(
        &mut self,
        (name, service): (&str, &Service),
        port: &ServicePort,
        base: ServiceEntry,
        lists: [Lists; 2],
    ) {
        let spec = &service.spec;
        let field = format!("spec.ports[{}].nodePort", port.index);
        let (first, last) = self.config.node_port_range;
        if !(first..=last).contains(&port.node_port) {
            let reason = format!("{}; expected {first} to {last}", port.node_port);
            return self.report(name, &field, reason);
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
            self.report(name, &field, reason);
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
                self.take(
                    name,
                    &field,
                    key(addr, port.node_port, port.protocol),
                    entry,
                );
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
        self.rows
            .health
            .insert(spec.health_check_node_port, here.len());
    }

    /// The ports of the node that lead to a pod.
    fn host_ports(&mut self, object: &ObjectKey, pod: &Pod) {
        let name = format!("Pod {object}");
        for port in pod.ports.iter().filter(|port| port.host_port != 0) {
            let number = self
                .numbers
                .port(&name, &port.host_port.to_string(), port.protocol);
            for ip in &pod.ips {
                let id = self.backend(number, (*ip, port.port), port.protocol);
                let list = self.plain_list(&[id]);
                let entry = ServiceEntry {
                    service: number,
                    flags: FrontendKind::HostPort as u32,
                    internal: list,
                    external: list,
                    ..ServiceEntry::default()
                };
                let here = self.own.iter().filter(|own| own.is_ipv6() == ip.is_ipv6());
                let here = here.filter(|own| port.host_ip.is_none_or(|wanted| wanted == **own));
                for own in here.copied().collect::<Vec<_>>() {
                    let key = key(own, port.host_port, port.protocol);
                    self.take(&name, "spec.containers", key, entry);
                }
            }
        }
    }

    /// A backend of this node that is always active.
    fn backend(&mut self, service: u32, (addr, port): (IpAddr, u16), protocol: Protocol) -> u32 {
        let id = self.numbers.backend(service, addr, port);
        let flags = BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL | BackendFlags::LOCAL;
        let backend = Backend {
            addr: addr.into(),
            port: Be16::new(port),
            protocol: protocol.0,
            service,
            flags,
            ..Backend::default()
        };
        self.rows.backends.insert(id, backend);
        id
    }

    fn redirect(&mut self, redirect: &LocalRedirect) {
        let name = format!(
            "CiliumLocalRedirectPolicy {}/{}",
            redirect.namespace, redirect.name
        );
        let pods = self.cluster.pods.values().filter(|pod| {
            let labels = pod.labels.iter();
            let labels = labels
                .map(|(k, v)| axon_model::Label::new(source::K8S, k, v))
                .collect();
            pod.node == self.node
                && pod.namespace == redirect.namespace
                && pod.is_ready
                && !pod.is_terminating
                && !pod.is_finished
                && redirect.selector.matches(&labels)
        });
        let pods: Vec<&Pod> = pods.collect();
        match &redirect.frontend {
            RedirectFrontend::Address(addr, ports) => {
                for port in ports {
                    let key = key(*addr, port.port, port.protocol);
                    let front = (port.name.as_str(), key, None);
                    self.redirect_one((&name, redirect), &pods, front);
                }
            }
            RedirectFrontend::Service(object, wanted) => {
                let Some(service) = self.cluster.services.get(object) else {
                    return;
                };
                let owner = format!("Service {object}");
                for port in &service.spec.ports {
                    let is_wanted =
                        |w: &RedirectPort| (w.port, w.protocol) == (port.port, port.protocol);
                    if !wanted.is_empty() && !wanted.iter().any(is_wanted) {
                        continue;
                    }
                    let by_name = wanted.iter().find(|w| is_wanted(w)).map(|w| w.name.clone());
                    for ip in &service.spec.cluster_ips {
                        let key = key(ip.addr, port.port, port.protocol);
                        if self.owners.get(&key) != Some(&owner) {
                            continue;
                        }
                        let before = self.rows.services.get(&key).copied();
                        let by = by_name.as_deref().unwrap_or(&port.name);
                        self.redirect_one((&name, redirect), &pods, (by, key, before));
                    }
                }
            }
        }
    }

    /// One frontend, in place of what was there; without pods that stays.
    fn redirect_one(
        &mut self,
        (name, redirect): (&str, &LocalRedirect),
        pods: &[&Pod],
        (by_name, key, before): (&str, ServiceKey, Option<ServiceEntry>),
    ) {
        let is_several = redirect.ports.len() > 1;
        let mut ports = redirect.ports.iter();
        let port = ports
            .find(|port| port.protocol.0 == key.protocol && (!is_several || port.name == by_name));
        let Some(port) = port else {
            return;
        };
        let label = format!("{}:{}", IpAddr::from(key.addr), key.port.get());
        let number = self.numbers.port(name, &label, port.protocol);
        let addresses = pods.iter().flat_map(|pod| &pod.ips);
        let addresses = addresses.filter(|ip| ip.is_ipv4() == key.addr.is_v4());
        let ids: Vec<u32> = addresses
            .map(|ip| self.backend(number, (*ip, port.port), port.protocol))
            .collect();
        if ids.is_empty() {
            return;
        }
        let before_flags = before.map_or(ServiceFlags::CLOSED_OUTSIDE, |entry| entry.flags);
        let skips = u32::from(redirect.skips_own) * ServiceFlags::SKIP_OWN;
        let entry = ServiceEntry {
            service: number,
            flags: FrontendKind::LocalRedirect as u32
                | (before_flags & !ServiceFlags::KIND_MASK & !ServiceFlags::AFFINITY)
                | skips,
            internal: self.plain_list(&ids),
            external: before.map(|entry| entry.internal).unwrap_or_default(),
            ..before.unwrap_or_default()
        };
        if redirect.skips_own {
            for pod in pods {
                let clients = pod.ips.iter().map(|ip| IpKey::from(*ip));
                self.rows.skips.extend(clients.map(|client| ServiceClient {
                    client,
                    service: number,
                    external: 0,
                }));
            }
        }
        if before.is_some() {
            self.rows.services.insert(key, entry);
        } else {
            self.take(name, "spec.redirectFrontend.addressMatcher", key, entry);
        }
    }
}
