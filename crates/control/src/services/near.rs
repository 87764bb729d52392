//! Frontends that lead to pods of this node alone: their host ports, and what
//! CiliumLocalRedirectPolicies put in the place of others.

use std::net::IpAddr;

use axon_abi::{FrontendKind, IpKey, ServiceClient, ServiceEntry, ServiceFlags, ServiceKey};
use axon_model::{LocalRedirect, ObjectKey, Pod, RedirectFrontend, RedirectPort, source};

use super::frontends::{Resolution, key};

impl Resolution<'_> {
    /// The ports of the node that lead to a pod.
    pub(super) fn host_ports(&mut self, object: &ObjectKey, pod: &Pod) {
        let name = format!("Pod {object}");
        for port in pod.ports.iter().filter(|port| port.host_port != 0) {
            let number = self
                .numbers
                .port(&name, &port.host_port.to_string(), port.protocol);
            let field = format!("{}.hostPort", port.field);
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
                    self.take(&name, &field, key, entry);
                }
            }
        }
    }

    pub(super) fn redirect(&mut self, redirect: &LocalRedirect) {
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
        // Without a service behind it, the address is what it is.
        let passed = before.map_or(ServiceFlags::SKIP_AWAY, |_| ServiceFlags::SKIP_OWN);
        let skips = u32::from(redirect.skips_own) * passed;
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
