//! Frontends that lead to pods of this node alone: their host ports, and what
//! CiliumLocalRedirectPolicies put in the place of others.

use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::{
    FrontendKind, IpKey, ListRef, ServiceClient, ServiceEntry, ServiceFlags, ServiceKey,
};
use axon_model::{LocalRedirect, ObjectKey, Pod, RedirectFrontend, RedirectPort, source};

use super::asked::{Kind, Object, Over, redirected};
use super::frontends::{Asking, key};

impl Asking<'_> {
    /// The ports of the node that lead to a pod.
    pub(super) fn host_ports(&mut self, object: &ObjectKey, pod: &Pod) {
        if pod.node != self.node || pod.host_network || pod.is_finished {
            return;
        }
        let name = Object::new(Kind::Pod, object).name();
        for port in pod.ports.iter().filter(|port| port.host_port != 0) {
            let number = self.port(&name, &port.host_port.to_string(), port.protocol);
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
                    self.take(&field, key, entry);
                }
            }
        }
    }

    pub(super) fn redirect(&mut self, object: &ObjectKey, redirect: &LocalRedirect) {
        if !self.config.local_redirects {
            return;
        }
        let name = Object::new(Kind::Redirect, object).name();
        let pods = self.cluster.pods.values();
        let pods = pods.filter(|pod| pod.node == self.node && answers(redirect, pod));
        let pods: Vec<&Arc<Pod>> = pods.collect();
        match &redirect.frontend {
            RedirectFrontend::Address(addr, ports) => {
                for port in ports {
                    let key = key(*addr, port.port, port.protocol);
                    self.redirect_address((&name, redirect), &pods, (&port.name, key));
                }
            }
            RedirectFrontend::Service(object, wanted) => {
                let Some(service) = self.cluster.services.get(object) else {
                    return;
                };
                for port in &service.spec.ports {
                    let is_wanted =
                        |w: &RedirectPort| (w.port, w.protocol) == (port.port, port.protocol);
                    let by_name = wanted.iter().find(|w| is_wanted(w)).map(|w| &w.name);
                    if !wanted.is_empty() && by_name.is_none() {
                        continue;
                    }
                    for ip in &service.spec.cluster_ips {
                        let key = key(ip.addr, port.port, port.protocol);
                        let front = (by_name.unwrap_or(&port.name).as_str(), key);
                        let Some((number, list)) = self.answering((&name, redirect), &pods, front)
                        else {
                            continue;
                        };
                        let over = Over {
                            service: object.clone(),
                            number,
                            list,
                            skips_own: redirect.skips_own,
                        };
                        self.asked.overs.entry(key).or_insert(over);
                    }
                }
            }
        }
    }

    /// A frontend where there is no service.
    fn redirect_address(
        &mut self,
        (name, redirect): (&str, &LocalRedirect),
        pods: &[&Arc<Pod>],
        (by_name, key): (&str, ServiceKey),
    ) {
        let Some(list) = self.answering((name, redirect), pods, (by_name, key)) else {
            return;
        };
        let before = ServiceEntry {
            flags: ServiceFlags::CLOSED_OUTSIDE,
            ..ServiceEntry::default()
        };
        // Who passes by finds the address as it is.
        let skips = u32::from(redirect.skips_own) * ServiceFlags::SKIP_AWAY;
        let entry = redirected(list, before, skips);
        self.take("spec.redirectFrontend.addressMatcher", key, entry);
    }

    /// The number of a redirected frontend and the list of pods that answer there,
    /// if there is one.
    fn answering(
        &mut self,
        (name, redirect): (&str, &LocalRedirect),
        pods: &[&Arc<Pod>],
        (by_name, key): (&str, ServiceKey),
    ) -> Option<(u32, ListRef)> {
        let is_several = redirect.ports.len() > 1;
        let mut ports = redirect.ports.iter();
        let port = ports
            .find(|port| port.protocol.0 == key.protocol && (!is_several || port.name == by_name));
        let port = port?;
        let addresses = pods.iter().flat_map(|pod| &pod.ips);
        let mut addresses = addresses
            .filter(|ip| ip.is_ipv4() == key.addr.is_v4())
            .peekable();
        addresses.peek()?;
        let label = format!("{}:{}", IpAddr::from(key.addr), key.port.get());
        let number = self.port(name, &label, port.protocol);
        let ids: Vec<u32> = addresses
            .map(|ip| self.backend(number, (*ip, port.port), port.protocol))
            .collect();
        if redirect.skips_own {
            for pod in pods {
                let clients = pod.ips.iter().map(|ip| IpKey::from(*ip));
                self.asked.skips.extend(clients.map(|client| ServiceClient {
                    client,
                    service: number,
                    external: 0,
                }));
            }
        }
        Some((number, self.plain_list(&ids)))
    }
}

/// Whether a pod is one that a redirection leads to, on its node.
fn answers(redirect: &LocalRedirect, pod: &Pod) -> bool {
    pod.namespace == redirect.namespace
        && pod.is_ready
        && !pod.is_terminating
        && !pod.is_finished
        && selects(redirect, pod)
}

/// Whether it is one of them when it is ready.
pub(super) fn selects(redirect: &LocalRedirect, pod: &Pod) -> bool {
    let labels = pod.labels.iter();
    let labels = labels
        .map(|(k, v)| axon_model::Label::new(source::K8S, k, v))
        .collect();
    redirect.selector.matches(&labels)
}
