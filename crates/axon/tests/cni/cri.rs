//! As much of a kubelet as asks a container runtime for pods: CRI's calls over
//! HTTP/2, one connection each. Of an answer the message is read; why there is
//! none, the runtime's log tells.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A field of a protobuf message: `LEN` only, for that is all we send.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

fn text(number: u8, content: &str) -> Vec<u8> {
    field(number, content.as_bytes())
}

/// A field of a small number.
fn number(number: u8, mut value: u32) -> Vec<u8> {
    let mut bytes = vec![number << 3];
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The fields of a message that have this number: content, or value.
fn fields(mut message: &[u8], wanted: u64) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    while let Some(tag) = varint(&mut message) {
        let (value, content) = match tag & 7 {
            0 => (varint(&mut message).expect("a number"), &[][..]),
            2 => {
                let length = varint(&mut message).expect("a length") as usize;
                let (content, rest) = message.split_at(length);
                message = rest;
                (0, content)
            }
            other => panic!("wire type {other}"),
        };
        if tag >> 3 == wanted {
            found.push((value, content));
        }
    }
    found
}

fn string(message: &[u8], wanted: u64) -> String {
    let found = fields(message, wanted);
    let content = found.first().map_or(&[][..], |(_, content)| content);
    String::from_utf8_lossy(content).into_owned()
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// One call: the answer's message, `None` if the runtime refuses.
fn call(
    socket: &Path,
    method: &str,
    message: &[u8],
    patience: Duration,
) -> io::Result<Option<Vec<u8>>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    let mut head = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &format!("/runtime.v1.RuntimeService/{method}")),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // Literal, without an index and without Huffman's code.
        head.push(0);
        for word in [name, value] {
            head.push(u8::try_from(word.len()).expect("a short header"));
            head.extend(word.as_bytes());
        }
    }
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(SETTINGS, 0, 0, &[]));
    request.extend(frame(HEADERS, END_HEADERS, 1, &head));
    request.extend(frame(DATA, END_STREAM, 1, &body));
    stream.write_all(&request)?;
    let mut answer = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload)?;
        match kind {
            DATA => answer.extend(payload),
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            RESET | GO_AWAY => return Ok(None),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            // One flag, four bytes of length, the message.
            return Ok(answer.get(5..).map(<[u8]>::to_vec));
        }
    }
}

/// A container runtime's CRI.
pub(crate) struct Cri {
    pub(crate) socket: PathBuf,
}

/// A pod as a kubelet describes it.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) cgroup: String,
    pub(crate) logs: String,
    /// On the host, and in the pod.
    pub(crate) ports: Vec<(u32, u32)>,
}

impl Pod {
    fn message(&self) -> Vec<u8> {
        let uid = format!("uid-{}", self.name);
        let metadata = [text(1, &self.name), text(2, &uid), text(3, "default")].concat();
        let mut message = [
            field(1, &metadata),
            text(2, &self.name),
            text(3, &self.logs),
        ]
        .concat();
        for (host, inside) in &self.ports {
            let port = [number(2, *inside), number(3, *host)].concat();
            message.extend(field(5, &port));
        }
        message.extend(field(8, &text(1, &self.cgroup)));
        message
    }
}

impl Cri {
    fn ask(&self, method: &str, message: &[u8]) -> Option<Vec<u8>> {
        call(&self.socket, method, message, crate::node::PATIENCE)
            .ok()
            .flatten()
    }

    /// Whether the runtime and its network are ready.
    pub(crate) fn is_ready(&self) -> bool {
        let Some(answer) = self.ask("Status", &[]) else {
            return false;
        };
        let status = fields(&answer, 1);
        let conditions = status.iter().flat_map(|(_, status)| fields(status, 1));
        let met = conditions.filter(|(_, c)| fields(c, 2).first().is_some_and(|(v, _)| *v == 1));
        met.count() >= 2
    }

    /// Makes a pod; its id.
    pub(crate) fn run_pod(&self, pod: &Pod) -> Option<String> {
        let answer = self.ask("RunPodSandbox", &field(1, &pod.message()))?;
        Some(string(&answer, 1)).filter(|id| !id.is_empty())
    }

    /// Runs a container in a pod; its id.
    pub(crate) fn run_container(&self, id: &str, pod: &Pod, command: &[&str]) -> Option<String> {
        let mut config = [
            field(1, &text(1, "c")),
            field(2, &text(1, crate::image::NAME)),
        ]
        .concat();
        config.extend(command.iter().flat_map(|word| text(3, word)));
        config.extend(text(11, "c.log"));
        let message = [text(1, id), field(2, &config), field(3, &pod.message())].concat();
        let container = string(&self.ask("CreateContainer", &message)?, 1);
        self.ask("StartContainer", &text(1, &container))?;
        Some(container)
    }

    /// Runs a command in a container; what it printed, and its status.
    pub(crate) fn exec(&self, container: &str, command: &[&str]) -> Option<(String, u64)> {
        let mut message = text(1, container);
        message.extend(command.iter().flat_map(|word| text(2, word)));
        message.extend(number(3, 20));
        let answer = self.ask("ExecSync", &message)?;
        let status = fields(&answer, 3).first().map_or(0, |(value, _)| *value);
        Some((string(&answer, 1), status))
    }

    /// The addresses of a pod.
    pub(crate) fn addresses(&self, id: &str) -> Vec<String> {
        let answer = self
            .ask("PodSandboxStatus", &text(1, id))
            .expect("a status");
        let status = fields(&answer, 1);
        let network = status.iter().flat_map(|(_, status)| fields(status, 5));
        network
            .flat_map(|(_, network)| {
                let more = fields(network, 2);
                let more = more.into_iter().map(|(_, ip)| string(ip, 1));
                std::iter::once(string(network, 1))
                    .chain(more)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Stops a pod, its containers, and its network.
    pub(crate) fn stop(&self, id: &str) -> bool {
        self.ask("StopPodSandbox", &text(1, id)).is_some()
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, id: &str) -> bool {
        self.ask("RemovePodSandbox", &text(1, id)).is_some()
    }
}
