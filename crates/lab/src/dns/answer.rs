//! From a query's bytes to those of its answer.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Book, DOMAIN, Hit};

/// How long an answer may be kept: pods come and go.
const TTL_S: u32 = 5;
/// How long that of the schema's version may be.
const VERSION_TTL_S: u32 = 28_800;
/// The longest answer over UDP, and what we say we take.
const UDP_MAX: u16 = 1232;
/// The longest answer over UDP to a client that does not say what it takes.
const UDP_PLAIN: u16 = 512;
/// Names that stand for names, one after the other.
const ALIASES_MAX: usize = 8;
/// Bytes of a header.
const HEADER: usize = 12;

/// What a query came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
}

/// The answer to a query; none to what is none.
pub(crate) fn answer(query: &[u8], (book, serial): (&Book, u32), by: By) -> Option<Vec<u8>> {
    let Ok(asked) = Message::from_vec(query) else {
        return malformed(query);
    };
    if asked.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.add_queries(asked.queries.iter().cloned());
    if let Some(edns) = &asked.edns {
        let mut own = Edns::new();
        own.set_max_payload(UDP_MAX);
        own.set_dnssec_ok(edns.flags().dnssec_ok);
        message.set_edns(own);
    }
    message.metadata.response_code = if asked.metadata.op_code != OpCode::Query {
        ResponseCode::NotImp
    } else if asked.version() > 0 {
        ResponseCode::BADVERS
    } else {
        match asked.queries.as_slice() {
            [question] if question.query_class() == DNSClass::IN => Answering {
                book,
                serial,
                message: &mut message,
            }
            .question(question),
            [_] => ResponseCode::Refused,
            _ => ResponseCode::FormErr,
        }
    };
    let room = match by {
        By::Tcp => u16::MAX,
        By::Udp => asked.max_payload().clamp(UDP_PLAIN, UDP_MAX),
    };
    fit(message, usize::from(room))
}

/// What is said to what looks like a query and cannot be read.
fn malformed(query: &[u8]) -> Option<Vec<u8>> {
    let head = query.get(..HEADER)?;
    let (id, flags) = (u16::from_be_bytes([head[0], head[1]]), head[2]);
    let is_response = flags & 0x80 != 0;
    let op_code = OpCode::from_u8((flags >> 3) & 0xf);
    let code = match op_code {
        OpCode::Query => ResponseCode::FormErr,
        _ => ResponseCode::NotImp,
    };
    let message = Message::error_msg(id, op_code, code);
    message.to_vec().ok().filter(|_| !is_response)
}

/// Its bytes, with as many records as there is room for.
fn fit(mut message: Message, room: usize) -> Option<Vec<u8>> {
    let bytes = |message: &Message| message.to_vec().ok().filter(|b| b.len() <= room);
    if let Some(bytes) = bytes(&message) {
        return Some(bytes);
    }
    // What is only there to save a question may be missing without notice (RFC 2181, section 9).
    message.additionals.clear();
    if let Some(bytes) = bytes(&message) {
        return Some(bytes);
    }
    message.metadata.truncation = true;
    message.authorities.clear();
    let answers = std::mem::take(&mut message.answers);
    // Least number of records that do not fit.
    let (mut fits, mut too_many) = (0, answers.len());
    while fits + 1 < too_many {
        let middle = usize::midpoint(fits, too_many);
        message.answers = answers.iter().take(middle).cloned().collect();
        if bytes(&message).is_some() {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    message.answers = answers.into_iter().take(fits).collect();
    bytes(&message)
}

/// A question that is being answered.
struct Answering<'a> {
    book: &'a Book,
    serial: u32,
    message: &'a mut Message,
}

impl Answering<'_> {
    /// Answers, and says with which code.
    fn question(&mut self, question: &Query) -> ResponseCode {
        self.message.metadata.recursion_available = true;
        let name = question.name();
        let zones = [DOMAIN, "in-addr.arpa", "ip6.arpa"];
        let zones = zones.iter().filter_map(|zone| fqdn(zone));
        let Some(zone) = zones.into_iter().find(|zone| zone.zone_of(name)) else {
            // There is no world of names around a lab.
            return ResponseCode::NXDomain;
        };
        self.message.metadata.authoritative = true;
        let is_ours = fqdn(DOMAIN).is_some_and(|domain| domain == zone);
        let code = if is_ours {
            self.of_cluster(question)
        } else {
            self.of_address(question, &zone)
        };
        if question.query_type() == RecordType::SOA && *name == zone {
            if let Some(soa) = self.soa(&zone) {
                self.message.add_answer(soa);
            }
            return ResponseCode::NoError;
        }
        if self.message.answers.is_empty()
            && let Some(soa) = self.soa(&zone)
        {
            self.message.add_authority(soa);
        }
        code
    }

    fn of_cluster(&mut self, question: &Query) -> ResponseCode {
        let mut name = question.name().clone();
        for _ in 0..=ALIASES_MAX {
            let Some(hits) = self.find(&name) else {
                // The name that was asked for is there, whatever the one that it stands for is.
                return match self.message.answers.is_empty() {
                    true => ResponseCode::NXDomain,
                    false => ResponseCode::NoError,
                };
            };
            let alias = hits.iter().find_map(|hit| match hit {
                Hit::Alias(target) => fqdn(target),
                _ => None,
            });
            let Some(target) = alias else {
                self.records(&name, question.query_type(), &hits);
                return ResponseCode::NoError;
            };
            let data = RData::CNAME(CNAME(target.clone()));
            self.message
                .add_answer(Record::from_rdata(name, TTL_S, data));
            if question.query_type() == RecordType::CNAME || !is_in_cluster(&target) {
                return ResponseCode::NoError;
            }
            name = target;
        }
        ResponseCode::ServFail
    }

    /// What a name of the cluster stands for.
    fn find(&self, name: &Name) -> Option<Vec<Hit>> {
        let text = name.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        let below = text.strip_suffix(DOMAIN)?.trim_end_matches('.');
        let labels: Vec<&str> = match below {
            "" => Vec::new(),
            below => below.split('.').collect(),
        };
        self.book.find(&labels)
    }

    /// The records of a type, of what a name stands for.
    fn records(&mut self, name: &Name, kind: RecordType, hits: &[Hit]) {
        match kind {
            RecordType::A | RecordType::AAAA => {
                let mut ips: Vec<IpAddr> = Vec::new();
                for hit in hits {
                    if let Hit::Address { addr, .. } = hit
                        && addr.is_ipv4() == (kind == RecordType::A)
                        && !ips.contains(addr)
                    {
                        ips.push(*addr);
                    }
                }
                for ip in rotated(ips) {
                    let record = Record::from_rdata(name.clone(), TTL_S, address(ip));
                    self.message.add_answer(record);
                }
            }
            RecordType::SRV => self.ports(name, hits),
            RecordType::TXT => {
                for hit in hits {
                    if let Hit::Text(text) = hit {
                        let data = RData::TXT(TXT::new(vec![(*text).to_owned()]));
                        let record = Record::from_rdata(name.clone(), VERSION_TTL_S, data);
                        self.message.add_answer(record);
                    }
                }
            }
            RecordType::NS if hits.contains(&Hit::Server) => {
                let Some(server) = fqdn(&format!("ns.dns.{DOMAIN}")) else {
                    return;
                };
                let data = RData::NS(NS(server.clone()));
                self.message
                    .add_answer(Record::from_rdata(name.clone(), TTL_S, data));
                for ip in &self.book.server {
                    let record = Record::from_rdata(server.clone(), TTL_S, address(*ip));
                    self.message.add_additional(record);
                }
            }
            _ => {}
        }
    }

    /// Who serves a port, each with an equal part of a hundred.
    fn ports(&mut self, name: &Name, hits: &[Hit]) {
        let mut targets: Vec<(&str, u16)> = Vec::new();
        let mut owners: Vec<(&str, IpAddr)> = Vec::new();
        for hit in hits {
            if let Hit::Address {
                owner,
                addr,
                port: Some(port),
            } = hit
            {
                let owner = owner.as_str();
                if !targets.contains(&(owner, *port)) {
                    targets.push((owner, *port));
                }
                if !owners.contains(&(owner, *addr)) {
                    owners.push((owner, *addr));
                }
            }
        }
        let weight = u16::try_from(100 / targets.len().max(1))
            .unwrap_or(1)
            .max(1);
        for (target, port) in targets {
            if let Some(target) = fqdn(target) {
                let data = RData::SRV(SRV::new(0, weight, port, target));
                self.message
                    .add_answer(Record::from_rdata(name.clone(), TTL_S, data));
            }
        }
        for (owner, ip) in owners {
            if let Some(owner) = fqdn(owner) {
                self.message
                    .add_additional(Record::from_rdata(owner, TTL_S, address(ip)));
            }
        }
    }

    fn of_address(&mut self, question: &Query, zone: &Name) -> ResponseCode {
        let name = question.name();
        if name == zone {
            return ResponseCode::NoError;
        }
        let Some(addr) = host_of(name) else {
            return ResponseCode::NXDomain;
        };
        let names = self.book.names_of(addr);
        if question.query_type() == RecordType::PTR {
            for target in names.iter().filter_map(|name| fqdn(name)) {
                let data = RData::PTR(PTR(target));
                self.message
                    .add_answer(Record::from_rdata(name.clone(), TTL_S, data));
            }
        }
        match names.is_empty() {
            true => ResponseCode::NXDomain,
            false => ResponseCode::NoError,
        }
    }

    /// What tells how long an answer that there is nothing may be kept.
    fn soa(&self, zone: &Name) -> Option<Record> {
        let under = |label: &str| Name::from_ascii(label).ok()?.append_domain(zone).ok();
        let (server, mailbox) = (under("ns.dns")?, under("hostmaster")?);
        let soa = SOA::new(server, mailbox, self.serial, 7200, 1800, 86_400, TTL_S);
        let mut zone = zone.clone();
        zone.set_fqdn(true);
        Some(Record::from_rdata(zone, TTL_S, RData::SOA(soa)))
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// A name from the root on; none if it is too long for one.
fn fqdn(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn is_in_cluster(name: &Name) -> bool {
    fqdn(DOMAIN).is_some_and(|domain| domain.zone_of(name))
}

/// The address that a name below `arpa` stands for.
fn host_of(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// The addresses, beginning with another one each time: so those who take the
/// first take turns.
fn rotated(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    if !ips.is_empty() {
        let turn = TURN.fetch_add(1, Ordering::Relaxed) % ips.len();
        ips.rotate_left(turn);
    }
    ips
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
