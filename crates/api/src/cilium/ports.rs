//! `toPorts` and `icmps` as port rules.

use axon_abi::Direction;
use axon_model::{L7, PortMatch, PortRule, Ports, Protocol};

use super::icmp;
use super::l7::l7;
use super::policy::{IcmpRule, PortProtocol, ToPorts};
use crate::manifest::FieldError;
use crate::select::is_port_name;

/// Ports that one item of `toPorts` may name.
const PORTS_MAX: usize = 40;
/// The ports of a rule, and what must be said on them; nothing if it names
/// none. Those on which anything may be said come together.
///
/// # Errors
/// What Cilium would refuse and what is not enforced yet, by its path.
pub(super) fn ports(
    to_ports: &[ToPorts],
    icmps: &[IcmpRule],
    direction: Direction,
    path: &str,
) -> Result<Vec<(Ports, Option<L7>)>, FieldError> {
    if !to_ports.is_empty() && !icmps.is_empty() {
        return Err(FieldError::new(
            format!("{path}.icmps"),
            "stands beside toPorts; expected a rule of its own",
        ));
    }
    if to_ports.is_empty() && icmps.is_empty() {
        return Ok(Vec::new());
    }
    let mut plain = icmp::port_rules(icmps, &format!("{path}.icmps"))?;
    let mut spoken = Vec::new();
    for (n, item) in to_ports.iter().enumerate() {
        let path = format!("{path}.toPorts[{n}]");
        if item.ports.is_empty() || item.ports.len() > PORTS_MAX {
            return Err(FieldError::new(
                format!("{path}.ports"),
                format!("{} ports; expected 1 to {PORTS_MAX}", item.ports.len()),
            ));
        }
        let mut rules = Vec::new();
        for (m, port) in item.ports.iter().enumerate() {
            rules.extend(port_rules(port, &format!("{path}.ports[{m}]"))?);
        }
        match l7(item, direction, &path)? {
            None => plain.extend(rules),
            Some(l7) => spoken.push((Ports::List(rules), Some(l7))),
        }
    }
    if !plain.is_empty() || spoken.is_empty() {
        spoken.insert(0, (Ports::List(plain), None));
    }
    Ok(spoken)
}

fn port_rules(port: &PortProtocol, path: &str) -> Result<Vec<PortRule>, FieldError> {
    let named = Protocol::named(&port.protocol);
    if let Some(protocol) = named.filter(|protocol| protocol.is_extended()) {
        return portless(port, protocol, path);
    }
    let protocols: &[Protocol] = match port.protocol.to_ascii_uppercase().as_str() {
        "" | "ANY" => &Protocol::WITH_PORTS,
        "TCP" => &[Protocol::TCP],
        "UDP" => &[Protocol::UDP],
        "SCTP" => &[Protocol::SCTP],
        "ICMP" | "ICMPV6" => {
            return Err(FieldError::new(
                format!("{path}.protocol"),
                format!(
                    "{:?} has no ports; expected its types in icmps",
                    port.protocol
                ),
            ));
        }
        _ => {
            return Err(FieldError::new(
                format!("{path}.protocol"),
                format!("{:?}; expected TCP, UDP, SCTP or ANY", port.protocol),
            ));
        }
    };
    let port = port_match(port, path)?;
    let rule = |protocol: &Protocol| PortRule {
        protocol: *protocol,
        port: port.clone(),
    };
    Ok(protocols.iter().map(rule).collect())
}

fn portless(
    port: &PortProtocol,
    protocol: Protocol,
    path: &str,
) -> Result<Vec<PortRule>, FieldError> {
    if !matches!(port.port.as_str(), "" | "0") || port.end_port != 0 {
        return Err(FieldError::new(
            format!("{path}.port"),
            format!(
                "{:?} beside {}, which has no ports; expected none",
                port.port, port.protocol
            ),
        ));
    }
    Ok(vec![PortRule {
        protocol,
        port: PortMatch::Any,
    }])
}

fn port_match(port: &PortProtocol, path: &str) -> Result<PortMatch, FieldError> {
    let at = |field: &str, message: String| FieldError::new(format!("{path}.{field}"), message);
    if is_port_name(&port.port) {
        return match port.end_port {
            0 => Ok(PortMatch::Named(port.port.to_ascii_lowercase())),
            last => Err(at(
                "endPort",
                format!("{last}; a port by name has no range"),
            )),
        };
    }
    // "010" would be eight to some readers and ten to others.
    let plain = port.port == "0" || !port.port.starts_with(['0', '+']);
    let first: u16 = match port.port.parse() {
        Ok(first) if plain => first,
        _ => {
            return Err(at(
                "port",
                format!(
                    "{:?}; expected \"0\" to \"65535\" or a port's name",
                    port.port
                ),
            ));
        }
    };
    match (first, u16::try_from(port.end_port)) {
        (0, Ok(0)) => Ok(PortMatch::Any),
        (first, Ok(0)) => Ok(PortMatch::Range(first, first)),
        (first, Ok(last)) if first > 0 && last >= first => Ok(PortMatch::Range(first, last)),
        _ => Err(at(
            "endPort",
            format!(
                "{}; expected a port from {} to 65535",
                port.end_port,
                first.max(1)
            ),
        )),
    }
}
