//! `axon bpf ct` and `axon bpf nat`: those that are meant, who has most of them,
//! and how full their maps are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_api::maps::{CtMapRow, LbBackendRow, LbRow, MapName, NatMapRow, PressureRow};
use ipnet::IpNet;
use serde::Serialize;

use super::bpf::{Args, rows};
use super::maps;
use crate::failure::{ABSENT, Failure};
use crate::output::{print, table};

/// Protocols that have a name.
const PROTOCOLS: [&str; 5] = ["tcp", "udp", "sctp", "icmp", "icmpv6"];
/// Maps that a table of flows may be short of.
const CT_MAPS: [&str; 2] = [axon_abi::CT4, axon_abi::CT6];
const NAT_MAPS: [&str; 2] = [axon_abi::NAT, axon_abi::SERVICE_FLOW];

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Traffic {
    /// Every row, or those that are meant.
    List(Filter),
    /// Who has most of them.
    Top {
        #[command(flatten)]
        filter: Filter,
        /// By whom they are counted.
        #[arg(long, value_enum, default_value_t)]
        by: By,
        /// How many are told of.
        #[arg(long, value_name = "COUNT", default_value_t = 10)]
        count: usize,
    },
    /// How full the map is.
    Pressure,
}

/// By whom flows are counted.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum By {
    /// Who opened them.
    #[default]
    Source,
    /// Whom they were opened to.
    Destination,
    /// Both.
    Pair,
}

/// Which flows are meant: all that is said must hold.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Filter {
    /// One of their addresses is this one, or in this prefix.
    #[arg(long, value_name = "ADDRESS[/BITS]")]
    address: Option<String>,
    /// One of their ports is this one.
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6` or a number.
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// They are to a frontend or a backend of this service, or of a port of it:
    /// `namespace/name`, `namespace/name:port`.
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
}

/// A filter that has been read.
#[derive(Debug, Default)]
struct Meant {
    net: Option<IpNet>,
    port: Option<u16>,
    protocol: Option<String>,
    /// Ends of the service: address, port, protocol.
    ends: Option<BTreeSet<(IpAddr, u16, String)>>,
}

/// What a filter asks of a row.
trait Row {
    fn protocol(&self) -> &str;
    /// Addresses and ports, the opener's first, then the other's.
    fn ends(&self) -> Vec<(IpAddr, u16)>;
    /// Packets and bytes, where they are counted.
    fn volume(&self) -> Option<(u64, u64)>;
    /// Whether it is a flow of its own, and not the other half of one.
    fn counts(&self) -> bool;
}

impl Row for CtMapRow {
    fn protocol(&self) -> &str {
        &self.protocol
    }
    fn ends(&self) -> Vec<(IpAddr, u16)> {
        vec![
            (self.source, self.source_port),
            (self.destination, self.destination_port),
        ]
    }
    fn volume(&self) -> Option<(u64, u64)> {
        let sum = |[one, other]: [u64; 2]| one.saturating_add(other);
        Some((sum(self.packets), sum(self.bytes)))
    }
    fn counts(&self) -> bool {
        true
    }
}

impl Row for NatMapRow {
    fn protocol(&self) -> &str {
        &self.protocol
    }
    fn ends(&self) -> Vec<(IpAddr, u16)> {
        let (source, destination) = (
            (self.source, self.source_port),
            (self.destination, self.destination_port),
        );
        let to = (self.to, self.to_port);
        match (self.direction.as_str(), self.owner.as_str()) {
            // Of a service's client there is the inbound row alone: he is who it is for.
            ("in", "service") => vec![to, source, destination],
            _ => vec![source, destination, to],
        }
    }
    fn volume(&self) -> Option<(u64, u64)> {
        None
    }
    fn counts(&self) -> bool {
        self.direction == "out" || self.owner == "service"
    }
}

pub(super) fn connections(args: &Args, verb: &Traffic) -> Result<(), Failure> {
    let render = |rows: &Vec<CtMapRow>| maps::conntrack(rows);
    run(args, verb, (MapName::Ct, &CT_MAPS), render)
}

pub(super) fn translations(args: &Args, verb: &Traffic) -> Result<(), Failure> {
    let render = |rows: &Vec<NatMapRow>| maps::nat(rows);
    run(args, verb, (MapName::Nat, &NAT_MAPS), render)
}

fn run<R>(
    args: &Args,
    verb: &Traffic,
    (name, of): (MapName, &[&str]),
    render: impl FnOnce(&Vec<R>) -> String,
) -> Result<(), Failure>
where
    R: Row + Serialize + serde::de::DeserializeOwned,
{
    let output = args.common.output;
    match verb {
        Traffic::List(filter) => {
            let meant = filter.read(args)?;
            let mut found: Vec<R> = rows(args, name)?;
            found.retain(|row| meant.means(row));
            print(output, &found, render)
        }
        Traffic::Top { filter, by, count } => {
            let meant = filter.read(args)?;
            let found: Vec<R> = rows(args, name)?;
            let found = found.iter().filter(|row| meant.means(*row));
            print(output, &top(found, *by, *count), |found| talkers(found))
        }
        Traffic::Pressure => {
            let mut found: Vec<PressureRow> = rows(args, MapName::Pressure)?;
            found.retain(|row| of.contains(&row.map.as_str()));
            print(output, &found, |rows: &Vec<PressureRow>| {
                maps::pressure(rows)
            })
        }
    }
}

impl Filter {
    fn read(&self, args: &Args) -> Result<Meant, Failure> {
        let mut meant = self.parse()?;
        if let Some(service) = &self.service {
            if args.bpf_root.is_some() {
                return Err(Failure::usage(
                    "--service with --bpf-root: what services are called is not in the maps",
                )
                .remedy("ask an agent, or give --address and --port"));
            }
            let backends: Vec<LbBackendRow> = rows(args, MapName::LbBackend)?;
            let frontends: Vec<LbRow> = rows(args, MapName::Lb)?;
            meant.ends = Some(ends_of(service, &frontends, &backends)?);
        }
        Ok(meant)
    }

    /// What is to be read without asking anybody.
    fn parse(&self) -> Result<Meant, Failure> {
        let wrong = |name: &str, text: &str, expected: &str| {
            Failure::usage(format!("--{name} {text:?}; expected {expected}"))
        };
        let net = self.address.as_deref().map(|text| {
            let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
            let net = text.parse().ok().or_else(one);
            net.ok_or_else(|| {
                let expected = "an address or a prefix, as 10.0.0.1 or 10.0.0.0/8";
                wrong("address", text, expected)
            })
        });
        let port = self.port.as_deref().map(|text| {
            let port = text.parse().ok();
            port.ok_or_else(|| wrong("port", text, "a number from 0 to 65535"))
        });
        let protocol = self.protocol.as_deref().map(|text| {
            let name = text.to_ascii_lowercase();
            let number = name.parse::<u8>().map(axon_api::maps::protocol_name).ok();
            let known = PROTOCOLS.contains(&name.as_str()).then_some(name);
            let expected = "tcp, udp, sctp, icmp, icmpv6 or a number from 0 to 255";
            number
                .or(known)
                .ok_or_else(|| wrong("protocol", text, expected))
        });
        if let Some(text) = &self.service
            && !matches!(text.split_once('/'), Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.starts_with(':'))
        {
            let expected = "namespace/name or namespace/name:port, as shop/web:http";
            return Err(wrong("service", text, expected));
        }
        Ok(Meant {
            net: net.transpose()?,
            port: port.transpose()?,
            protocol: protocol.transpose()?,
            ends: None,
        })
    }
}

/// Where a service listens, and who is behind it.
fn ends_of(
    service: &str,
    frontends: &[LbRow],
    backends: &[LbBackendRow],
) -> Result<BTreeSet<(IpAddr, u16, String)>, Failure> {
    let is_meant = |called: &str| {
        let rest = called.strip_prefix(service);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let front = frontends.iter().filter(|row| is_meant(&row.service));
    let front = front.map(|row| (row.address, row.port, &row.protocol));
    let behind = backends.iter().filter(|row| is_meant(&row.service));
    let behind = behind.map(|row| (row.address, row.port, &row.protocol));
    let ends = front.chain(behind);
    let ends: BTreeSet<(IpAddr, u16, String)> = ends
        .map(|(address, port, protocol)| (address, port, protocol.to_ascii_lowercase()))
        .collect();
    if ends.is_empty() {
        return Err(Failure::new(format!(
            "no service {service} has a frontend or a backend here"
        ))
        .remedy("`axon service list` and `axon bpf lb backends` tell which there are")
        .code(ABSENT));
    }
    Ok(ends)
}

impl Meant {
    fn means(&self, row: &impl Row) -> bool {
        let ends = row.ends();
        let is_end = |(address, port): &(IpAddr, u16)| {
            let end = (*address, *port, row.protocol().to_owned());
            self.ends.as_ref().is_none_or(|of| of.contains(&end))
        };
        self.net
            .is_none_or(|net| ends.iter().any(|(address, _)| net.contains(address)))
            && self
                .port
                .is_none_or(|port| ends.iter().any(|(_, has)| *has == port))
            && self
                .protocol
                .as_deref()
                .is_none_or(|protocol| protocol == row.protocol())
            && ends.iter().any(is_end)
    }
}

/// Somebody with flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Talker {
    /// Who.
    who: String,
    /// How many.
    flows: u64,
    /// Packets of both directions, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
    /// Their bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// Those with most bytes, or most flows where bytes are not counted.
fn top<'a, R: Row + 'a>(rows: impl Iterator<Item = &'a R>, by: By, count: usize) -> Vec<Talker> {
    let mut talkers: BTreeMap<String, Talker> = BTreeMap::new();
    for row in rows.filter(|row| row.counts()) {
        let ends = row.ends();
        let [(source, _), (destination, _), ..] = ends.as_slice() else {
            continue;
        };
        let who = match by {
            By::Source => source.to_string(),
            By::Destination => destination.to_string(),
            By::Pair => format!("{source} > {destination}"),
        };
        let talker = talkers.entry(who.clone()).or_insert_with(|| Talker {
            who,
            ..Talker::default()
        });
        talker.flows += 1;
        if let Some((packets, bytes)) = row.volume() {
            let add = |sum: Option<u64>, more: u64| Some(sum.unwrap_or(0).saturating_add(more));
            talker.packets = add(talker.packets, packets);
            talker.bytes = add(talker.bytes, bytes);
        }
    }
    let mut talkers: Vec<Talker> = talkers.into_values().collect();
    // Of two alike the one whose name comes first.
    talkers.sort_by_key(|talker| std::cmp::Reverse((talker.bytes, talker.flows)));
    talkers.truncate(count);
    talkers
}

fn talkers(talkers: &[Talker]) -> String {
    let sum = |sum: Option<u64>| sum.map_or_else(|| "-".to_owned(), |sum| sum.to_string());
    let rows = talkers.iter().map(|talker| {
        [
            talker.who.clone(),
            talker.flows.to_string(),
            sum(talker.packets),
            sum(talker.bytes),
        ]
    });
    table(["WHO", "FLOWS", "PACKETS", "BYTES"], rows)
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
