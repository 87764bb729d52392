//! `axon lab dns`: the lab's name server, an ordinary process in an ordinary
//! pod.
//!
//! It answers for `cluster.local` from the file of names that the supervisor
//! keeps, and says of every other name that there is none.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use crate::names::Names;

/// How long an answer may be kept: pods come and go.
const TTL_S: u32 = 5;
/// The longest answer over UDP.
const UDP_MAX: usize = 1232;

/// Serves names over UDP and TCP until killed.
///
/// # Errors
/// Port 53 is taken.
pub(crate) fn run(names: &Path) -> Result<()> {
    let tcp = TcpListener::bind("[::]:53").context("listening on TCP port 53")?;
    let udp = UdpSocket::bind("[::]:53").context("listening on UDP port 53")?;
    let file = names.to_owned();
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let file = file.clone();
            std::thread::spawn(move || serve_tcp(&file, stream));
        }
    });
    let mut book = Book::new(names);
    let mut buffer = [0; 4096];
    loop {
        let (length, peer) = udp.recv_from(&mut buffer).context("receiving")?;
        let answer = answer(&buffer[..length], book.names());
        let Some(mut bytes) = answer.as_ref().and_then(|a| a.to_vec().ok()) else {
            continue;
        };
        if bytes.len() > UDP_MAX {
            let truncated = answer.map(|a| a.truncate().to_vec());
            bytes = truncated.and_then(Result::ok).unwrap_or_default();
        }
        // A peer that has gone is no reason to stop.
        let _ = udp.send_to(&bytes, peer);
    }
}

fn serve_tcp(names: &Path, mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut book = Book::new(names);
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        let answer = answer(&query, book.names()).and_then(|a| a.to_vec().ok());
        let Some(bytes) = answer else { return };
        let Ok(length) = u16::try_from(bytes.len()) else {
            return;
        };
        let sent = stream
            .write_all(&length.to_be_bytes())
            .and_then(|()| stream.write_all(&bytes));
        if sent.is_err() {
            return;
        }
    }
}

/// The file of names, read again when it has changed.
struct Book {
    path: PathBuf,
    seen: Option<SystemTime>,
    names: Names,
}

impl Book {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: None,
            names: Names::new(),
        }
    }

    fn names(&mut self) -> &Names {
        let written = std::fs::metadata(&self.path)
            .and_then(|m| m.modified())
            .ok();
        if written != self.seen
            && let Ok(text) = std::fs::read(&self.path)
            && let Ok(names) = serde_json::from_slice(&text)
        {
            self.names = names;
            self.seen = written;
        }
        &self.names
    }
}

/// The answer to a query; none to what is none.
fn answer(query: &[u8], names: &Names) -> Option<Message> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let (id, code) = (query.metadata.id, query.metadata.op_code);
    let mut message = Message::response(id, code);
    message.metadata.recursion_desired = query.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.authoritative = true;
    message.add_queries(query.queries.iter().cloned());
    let [question] = query.queries.as_slice() else {
        message.metadata.response_code = ResponseCode::FormErr;
        return Some(message);
    };
    if code != OpCode::Query || question.query_class() != DNSClass::IN {
        message.metadata.response_code = ResponseCode::NotImp;
        return Some(message);
    }
    let name = question.name().to_ascii().to_ascii_lowercase();
    let Some(ips) = names.get(name.trim_end_matches('.')) else {
        message.metadata.response_code = ResponseCode::NXDomain;
        return Some(message);
    };
    let wanted = |ip: &&IpAddr| match question.query_type() {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    for ip in rotated(ips).iter().filter(wanted) {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(A(*ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
        };
        message.add_answer(Record::from_rdata(question.name().clone(), TTL_S, data));
    }
    Some(message)
}

/// The addresses, beginning with another one each time: so a Service's pods
/// take turns.
fn rotated(ips: &[IpAddr]) -> Vec<IpAddr> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let mut ips = ips.to_vec();
    if !ips.is_empty() {
        let turn = TURN.fetch_add(1, Ordering::Relaxed) % ips.len();
        ips.rotate_left(turn);
    }
    ips
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    use super::{Names, answer};

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, usize) {
        let names: Names = [
            (
                "web.a.svc.cluster.local",
                vec!["10.0.0.1", "fd00::1", "10.0.0.2"],
            ),
            ("none.a.svc.cluster.local", vec![]),
        ]
        .into_iter()
        .map(|(n, ips)| {
            (
                n.into(),
                ips.iter().map(|i| i.parse().expect("ip")).collect(),
            )
        })
        .collect();
        let mut query = Message::new(7, hickory_proto::op::MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
        let bytes = query.to_vec().expect("query");
        let answer = answer(&bytes, &names).expect("answer");
        assert_eq!(answer.metadata.id, 7);
        (answer.metadata.response_code, answer.answers.len())
    }

    #[test]
    fn names_are_answered_by_family_and_whatever_their_case() {
        for (name, kind, expected) in [
            (
                "web.a.svc.cluster.local.",
                RecordType::A,
                (ResponseCode::NoError, 2),
            ),
            (
                "WEB.a.svc.cluster.local.",
                RecordType::AAAA,
                (ResponseCode::NoError, 1),
            ),
            (
                "web.a.svc.cluster.local.",
                RecordType::TXT,
                (ResponseCode::NoError, 0),
            ),
            (
                "none.a.svc.cluster.local.",
                RecordType::A,
                (ResponseCode::NoError, 0),
            ),
            ("web.", RecordType::A, (ResponseCode::NXDomain, 0)),
        ] {
            assert_eq!(ask(name, kind), expected, "{name} {kind}");
        }
    }

    #[test]
    fn what_is_no_query_is_not_answered() {
        for bytes in [&b""[..], b"\0", b"not DNS at all, not at all"] {
            assert!(answer(bytes, &Names::new()).is_none());
        }
    }
}
