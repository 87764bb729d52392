//! Who else on the node may stop pods' traffic: firewalls, and programs on the
//! same devices.
//!
//! Looked at when somebody asks, and not again within [`FRESH`].

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axon_api::agent::{PartStatus, State};
use axon_linux::firewall::{ChainHook, ClosedChain, Family, Firewall};
use axon_linux::{OtherProgram, Standing, device, link};

use super::remedies::{programs_go, rules_for};
use super::{bad, few, well};
use crate::node::{Node, lock};
use crate::problem::chain as causes;

/// Askers within it get the same answer.
const FRESH: Duration = Duration::from_secs(1);
/// How long is looked at programs, and then at firewalls; what is not known by
/// then is told to be so.
const PATIENCE: Duration = Duration::from_millis(500);

/// What was found last.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Mutex<Option<(Instant, PartStatus)>>);

pub(super) fn neighbours(node: &Node) -> PartStatus {
    let mut last = lock(&node.neighbours.0);
    match &*last {
        Some((when, status)) if when.elapsed() < FRESH => status.clone(),
        _ => {
            let status = Seen::look(node).status();
            *last = Some((Instant::now(), status.clone()));
            status
        }
    }
}

/// What there is of others; in place of what is not known stands why not.
struct Seen {
    programs: Result<Vec<OtherProgram>, String>,
    /// By what keeps their rules.
    firewalls: [(&'static str, Result<Firewall, String>); 2],
    /// Devices that are neither ours nor uplinks and lead somewhere: what pods
    /// have to do with those behind passes the node's stack.
    beyond: Result<Vec<String>, String>,
    uplinks: Vec<String>,
    ipv4: bool,
    ipv6: bool,
}

/// What is to be said.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    remedies: Vec<String>,
    /// Of what does no harm.
    notes: Vec<String>,
    /// What is told beside either.
    unknown: Vec<String>,
}

impl Found {
    fn status(mut self) -> PartStatus {
        if !self.wrong.is_empty() {
            self.wrong.extend(self.unknown);
            return bad(State::Warning, few(self.wrong), few(self.remedies));
        }
        self.notes.extend(self.unknown);
        if self.notes.is_empty() {
            return well("no firewall that closes, no program of others on our devices");
        }
        well(few(self.notes))
    }
}

impl Seen {
    fn look(node: &Node) -> Self {
        let stubs = lock(&node.datapath).stubs();
        let until = || Instant::now() + PATIENCE;
        // First, and with time of their own: a program may pass by policy, a firewall
        // only stops what policy allows.
        let programs = axon_linux::others(&stubs, until()).map_err(|error| causes(&error));
        let until = until();
        // The smaller first: what ip_tables hold is read in a few calls.
        let firewalls = [
            ("ip_tables", Firewall::ip_tables(until)),
            ("nf_tables", Firewall::nf_tables(until)),
        ]
        .map(|(keeper, firewall)| (keeper, firewall.map_err(|error| causes(&error))));
        let mut known = firewalls.iter().filter_map(|(_, f)| f.as_ref().ok());
        let closes = known.any(|f| !f.closed.is_empty());
        let uplinks = node.uplinks.borrow().names();
        Self {
            programs,
            firewalls,
            beyond: if closes {
                device::list()
                    .map(|devices| beyond(devices, &uplinks))
                    .map_err(|error| causes(&error))
            } else {
                Ok(Vec::new())
            },
            uplinks,
            ipv4: node.config.network.ipv4,
            ipv6: node.config.network.ipv6,
        }
    }

    fn status(&self) -> PartStatus {
        let mut found = Found::default();
        match &self.programs {
            Ok(programs) => {
                let of = |standing: Standing| {
                    programs
                        .iter()
                        .filter(move |program| program.standing == standing)
                };
                found.wrong.extend(told(of(Standing::Ahead)));
                found.remedies.extend(programs_go(of(Standing::Ahead)));
                found.notes.extend(told(of(Standing::Behind)));
            }
            Err(error) => {
                found.wrong.push(format!(
                    "programs of others are not known, and one ahead of ours has its way \
                     whatever policy says: {error}"
                ));
                found.remedies.push("see bpftool net show".to_owned());
            }
        }
        for (keeper, firewall) in &self.firewalls {
            match firewall {
                Ok(firewall) => self.chains(firewall, &mut found),
                Err(error) => found
                    .unknown
                    .push(format!("rules of {keeper} are not known: {error}")),
            }
        }
        found.status()
    }

    fn chains(&self, firewall: &Firewall, found: &mut Found) {
        for chain in self.concerning(firewall) {
            let (drops, passing) = (drops(chain), self.passing(chain));
            let unknown = self.not_known();
            let unknown = unknown.filter(|_| chain.hook == ChainHook::Forward);
            match (passing.is_empty(), unknown) {
                (true, None) => {
                    let note = format!("{drops}: no pod's traffic passes it");
                    found.notes.push(note);
                }
                _ if chain.names_endpoints => {
                    found.notes.push(format!("{drops}, and has rules for lxc*"));
                }
                (true, Some(error)) => found.unknown.push(format!(
                    "{drops}: whether pods' traffic passes it is not known: {error}"
                )),
                (false, _) => {
                    let what = passing.join(", ");
                    found.wrong.push(format!("{drops}: {what} passes it"));
                    found.remedies.push(rules_for(chain));
                }
            }
        }
    }

    /// The chains that see packets of pods' families at devices that matter.
    fn concerning<'a>(&'a self, firewall: &'a Firewall) -> impl Iterator<Item = &'a ClosedChain> {
        firewall.closed.iter().filter(|chain| match chain.family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
            Family::Inet => true,
            Family::Netdev => chain.devices.iter().any(|name| self.is_ours(name)),
        })
    }

    fn is_ours(&self, device: &str) -> bool {
        link::is_host_name(device) || self.uplinks.iter().any(|uplink| uplink == device)
    }

    /// What is not known of what `FORWARD` sees: the devices, or whose rules lead
    /// to pods.
    fn not_known(&self) -> Option<&String> {
        let firewalls = self.firewalls.iter();
        let firewalls = firewalls.filter_map(|(_, firewall)| firewall.as_ref().err());
        self.beyond
            .as_ref()
            .err()
            .into_iter()
            .chain(firewalls)
            .next()
    }

    /// Whose rules lead to pods, whichever firewall they are in.
    fn mappers(&self) -> Vec<&'static str> {
        let known = self.firewalls.iter().filter_map(|(_, f)| f.as_ref().ok());
        let mut mappers: Vec<_> = known.flat_map(|f| f.mappers.iter().copied()).collect();
        mappers.sort_unstable();
        mappers.dedup();
        mappers
    }

    /// What of pods' traffic a chain sees.
    fn passing(&self, chain: &ClosedChain) -> Vec<String> {
        let of_pods = chain.devices.iter().any(|name| link::is_host_name(name));
        let of_uplinks = chain.devices.iter().any(|name| self.uplinks.contains(name));
        let mut passing = Vec::new();
        match chain.hook {
            ChainHook::Input => {
                passing.push("what pods send and answer to the node itself".to_owned());
                if self.ipv6 && chain.family != Family::Ipv4 {
                    passing.push("who IPv6 neighbours at the uplinks are".to_owned());
                }
            }
            ChainHook::Output => passing.push("what the node itself sends to pods".to_owned()),
            ChainHook::Forward => {
                if let Ok(beyond) = &self.beyond
                    && !beyond.is_empty()
                {
                    let devices = beyond.join(", ");
                    passing.push(format!(
                        "what pods and those behind {devices} send each other"
                    ));
                }
                let who = self.mappers();
                if !who.is_empty() {
                    let who = who.join(", ");
                    passing.push(format!("what reaches pods by rules of {who}"));
                }
            }
            // What pods send each other, and what uplinks bring them, is gone by then.
            ChainHook::Ingress if of_pods => {
                passing.push("what pods send by the node's stack".to_owned());
            }
            ChainHook::Ingress => {}
            ChainHook::Egress => {
                if of_uplinks {
                    passing.push("what pods send out of the node".to_owned());
                }
                if of_pods {
                    passing.push("what the node's stack sends to pods".to_owned());
                }
            }
        }
        passing
    }
}

/// Devices behind which others are that are no node's.
fn beyond(all: Vec<device::Device>, uplinks: &[String]) -> Vec<String> {
    let leads = |d: &device::Device| {
        let routed = |(addr, _): &(std::net::IpAddr, u8)| match addr {
            std::net::IpAddr::V4(v4) => !v4.is_link_local(),
            std::net::IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        };
        d.running
            && !d.loopback
            && !link::is_host_name(&d.name)
            && !uplinks.contains(&d.name)
            && d.addresses.iter().any(routed)
    };
    all.into_iter().filter(leads).map(|d| d.name).collect()
}

fn drops(chain: &ClosedChain) -> String {
    let ClosedChain {
        table,
        chain: name,
        family,
        ..
    } = chain;
    let by = if chain.by_rule { "last rule" } else { "policy" };
    let at = match chain.devices.as_slice() {
        [] => String::new(),
        devices => format!(" at {}", devices.join(", ")),
    };
    format!(
        "chain {name} of table {} {table}{at} drops by {by}",
        family.name()
    )
}

/// Programs by name, those that hang on many devices once.
fn told<'a>(programs: impl Iterator<Item = &'a OtherProgram>) -> Vec<String> {
    let mut told: Vec<(String, Vec<&str>)> = Vec::new();
    for program in programs {
        let id = program.id.map_or(String::new(), |id| format!(" (id {id})"));
        let place = match program.standing {
            Standing::Ahead => "ahead of ours, whatever policy says,",
            Standing::Behind => "behind ours",
        };
        let side = if program.ingress { "ingress" } else { "egress" };
        let kind = super::remedies::kind(program);
        let text = format!("{kind} {}{id} is {place} at the {side} of ", program.name);
        match told.iter_mut().find(|(known, _)| *known == text) {
            Some((_, devices)) => devices.push(program.device.as_str()),
            None => told.push((text, vec![program.device.as_str()])),
        }
    }
    let line = |(text, devices): (String, Vec<&str>)| match devices.as_slice() {
        [first, second, third, _, ..] => {
            let more = devices.len() - 3;
            format!("{text}{first}, {second}, {third} and {more} more")
        }
        devices => text + &devices.join(", "),
    };
    told.into_iter().map(line).collect()
}

#[cfg(test)]
#[path = "neighbours_tests.rs"]
mod tests;
