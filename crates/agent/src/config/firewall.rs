//! Options of the host firewall.

use std::time::Duration;

use axon_model::{PortMatch, PortRule, Protocol};
use axon_policy::Failsafe;

use super::read::Reader;

/// Policy for the node itself.
#[derive(Clone, Debug, Default)]
pub struct Firewall {
    /// Enforce it.
    pub enabled: bool,
    /// How long policy for it that has changed waits to be confirmed before it is
    /// taken back; zero is off.
    pub confirm_timeout: Duration,
    /// What it never denies.
    pub failsafe: Failsafe,
}

impl Firewall {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            enabled: reader.boolean("enable-host-firewall"),
            confirm_timeout: reader.duration("host-firewall-confirm-timeout"),
            failsafe: Failsafe {
                ingress: ports(reader, "host-firewall-failsafe-ingress"),
                egress: ports(reader, "host-firewall-failsafe-egress"),
            },
        }
    }
}

fn ports(reader: &mut Reader<'_>, name: &str) -> Vec<PortRule> {
    let mut rules = Vec::new();
    for text in reader.settings.list(name) {
        if let Some(rule) = port(&text) {
            rules.push(rule);
        } else {
            reader.refuse(
                name,
                format!("protocols and ports as tcp/22 or udp/67-68, not {text:?}"),
            );
        }
    }
    rules
}

fn port(text: &str) -> Option<PortRule> {
    let (protocol, ports) = text.split_once('/')?;
    let protocol: Protocol = protocol.parse().ok()?;
    if ![Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol) {
        return None;
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (1..=last).contains(&first).then_some(PortRule {
        port: PortMatch::Range(first, last),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use axon_model::{PortMatch, Protocol};

    use super::port;

    #[test]
    fn ports_are_read_strictly() {
        for (text, first, last) in [
            ("tcp/22", 22, 22),
            ("UDP/67-68", 67, 68),
            ("sctp/1-65535", 1, 65535),
        ] {
            let read = port(text).expect(text);
            assert_eq!(read.port, PortMatch::Range(first, last), "{text}");
        }
        assert_eq!(port("udp/53").expect("a port").protocol, Protocol::UDP);
        for text in [
            "",
            "22",
            "tcp",
            "tcp/",
            "tcp/0",
            "tcp/5-4",
            "tcp/70000",
            "icmp/8",
            "any/22",
            "tcp/ssh",
        ] {
            assert!(port(text).is_none(), "{text}");
        }
    }
}
