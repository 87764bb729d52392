//! What an address leads to: backends, lists of them, tables of choice.

use std::net::IpAddr;

use axon_abi::{
    Backend, BackendFlags, BackendState, Be16, LIST_BLOCK_SLOTS, LIST_SLOTS_MAX, ListKey, ListRef,
    MAGLEV_BLOCK_SLOTS, MaglevKey,
};
use axon_model::{Algorithm, Protocol, Service, ServicePort};

use super::endpoints::{self, Candidate};
use super::frontends::{Asking, Lists};
use super::{MAGLEV_SEED, maglev_table};

impl Asking<'_> {
    /// The lists of one family, with backends and tables.
    pub(super) fn lists(
        &mut self,
        number: u32,
        service: &Service,
        port: &ServicePort,
        (all, v6): (&[Candidate], bool),
    ) -> Lists {
        // Addresses of IPv4 come before those of IPv6.
        let (v4, of_v6) = all.split_at(all.partition_point(|c| c.addr.is_ipv4()));
        let all = if v6 { of_v6 } else { v4 };
        if all.is_empty() {
            return Lists::default();
        }
        let place = (self.cluster, self.node);
        let wide = endpoints::eligible(all, place, service, (self.config, false));
        let near = endpoints::eligible(all, place, service, (self.config, true));
        let spec = &service.spec;
        let mut members = [Vec::new(), Vec::new()];
        let [of_wide, of_near] = &mut members;
        // Both have them in the order of all.
        let (mut wide, mut near) = (wide.into_iter().peekable(), near.into_iter().peekable());
        for candidate in all {
            let (id, generation) = self.numbers.backend(number, candidate.addr, candidate.port);
            let is_same = |other: &&Candidate| std::ptr::eq(*other, candidate);
            let is_wide = wide.next_if(is_same).is_some();
            let is_near = near.next_if(is_same).is_some();
            of_wide.extend(is_wide.then_some((id, candidate)));
            of_near.extend(is_near.then_some((id, candidate)));
            let listed = |is_local: bool, flag: u32| {
                let is_in = if is_local { is_near } else { is_wide };
                u32::from(is_in) * flag
            };
            let state = if candidate.is_ready {
                BackendState::Active
            } else if candidate.is_terminating {
                BackendState::Terminating
            } else {
                BackendState::Maintenance
            };
            let local = u32::from(candidate.is_here) * BackendFlags::LOCAL;
            let backend = Backend {
                addr: candidate.addr.into(),
                port: Be16::new(candidate.port),
                protocol: port.protocol.0,
                state: state as u8,
                service: number,
                flags: listed(spec.internal_local, BackendFlags::IN_INTERNAL)
                    | listed(spec.external_local, BackendFlags::IN_EXTERNAL)
                    | local,
                generation,
            };
            self.asked.backends.insert(id, backend);
        }
        let by_annotation = spec.algorithm.filter(|_| self.config.algorithm_annotation);
        let maglev = by_annotation.unwrap_or(self.config.algorithm) == Algorithm::Maglev;
        let [of_wide, of_near] = members;
        Lists {
            cluster: self.list(of_wide, (port, maglev)),
            local: self.list(of_near, (port, maglev)),
        }
    }

    fn list(
        &mut self,
        mut members: Vec<(u32, &Candidate)>,
        (port, maglev): (&ServicePort, bool),
    ) -> ListRef {
        members.truncate(LIST_SLOTS_MAX as usize - 1);
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
            let row = self.asked.maglev.entry(key).or_default();
            for (slot, index) in row.slots.iter_mut().zip(chunk) {
                *slot = *index;
            }
        }
        list
    }

    pub(super) fn plain_list(&mut self, ids: &[u32]) -> ListRef {
        if ids.is_empty() {
            return ListRef::default();
        }
        let list = self.numbers.list(ids);
        for (block, chunk) in (0..).zip(ids.chunks(LIST_BLOCK_SLOTS as usize)) {
            let row = self.asked.lists.entry(ListKey { list, block }).or_default();
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

    /// A backend of this node that is always active.
    pub(super) fn backend(
        &mut self,
        service: u32,
        (addr, port): (IpAddr, u16),
        protocol: Protocol,
    ) -> u32 {
        let (id, generation) = self.numbers.backend(service, addr, port);
        let flags = BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL | BackendFlags::LOCAL;
        let backend = Backend {
            addr: addr.into(),
            port: Be16::new(port),
            protocol: protocol.0,
            service,
            flags,
            generation,
            ..Backend::default()
        };
        self.asked.backends.insert(id, backend);
        id
    }
}
