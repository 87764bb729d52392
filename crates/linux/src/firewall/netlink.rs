//! Dumps of nf_tables: nfnetlink, in the few messages that are read here.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The kernel's pieces of a dump are at most so long.
const RECEIVE_LEN: usize = 64 * 1024;
/// A dump that changes under our hands is asked for again, so often.
const DUMP_ATTEMPTS: usize = 5;
/// More objects than this are not read.
const OBJECTS_MAX: usize = 65_536;
const HEADER_LEN: usize = 16;
/// Family, version and resource id, which follow the header.
const GENERIC_LEN: usize = 4;
const NESTED_FLAGS: u16 = 0xc000;

/// A table, chain or rule as the kernel tells it.
pub(super) struct Object {
    pub(super) family: u8,
    pub(super) attributes: Vec<u8>,
}

/// A socket in the network namespace in which it was opened.
pub(super) struct Nfnetlink {
    socket: Socket,
    sequence: u32,
    until: Instant,
}

/// The attributes of a message or of another attribute: kind and bytes.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let [a, b, c, d] = *head;
        let (len, kind) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        let value = rest.get(head.len()..usize::from(len))?;
        rest = rest
            .get(usize::from(len).next_multiple_of(4)..)
            .unwrap_or(&[]);
        Some((kind & !NESTED_FLAGS, value))
    })
}

/// The first attribute of a kind; empty if there is none.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> &[u8] {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map_or(&[], |(_, value)| value)
}

/// A text that ends with its first zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
    String::from_utf8_lossy(text).into_owned()
}

/// A number in network order, as nf_tables has them.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

impl Nfnetlink {
    /// `None` if the kernel has no netfilter.
    pub(super) fn open(until: Instant) -> io::Result<Option<Self>> {
        let connect = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        match connect() {
            Ok(socket) => Ok(Some(Self {
                socket,
                sequence: 0,
                until,
            })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects that a request asks for; none if the kernel has no nf_tables,
    /// or what the attributes name is gone.
    pub(super) fn dump(
        &mut self,
        request: u8,
        family: u8,
        named: &[(u16, &str)],
    ) -> io::Result<Vec<Object>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(request, family, named) {
                Ok(Some(objects)) => return Ok(objects),
                Ok(None) => {}
                Err(error) if is_absent(&error) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(
            "the rules change faster than they are read",
        ))
    }

    /// `None` if the dump was interrupted by a change.
    fn dump_once(
        &mut self,
        request: u8,
        family: u8,
        named: &[(u16, &str)],
    ) -> io::Result<Option<Vec<Object>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = encode(self.sequence, request, family, named);
        self.socket.send(&bytes, 0)?;
        let (mut objects, mut interrupted) = (Vec::new(), false);
        let mut buffer = Vec::with_capacity(RECEIVE_LEN);
        loop {
            buffer.clear();
            self.receive(&mut buffer)?;
            for message in messages(&buffer).filter(|m| m.sequence == self.sequence) {
                interrupted |= message.flags & (libc::NLM_F_DUMP_INTR as u16) != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let code = message
                            .body
                            .first_chunk()
                            .map_or(0, |c| i32::from_ne_bytes(*c));
                        if code < 0 {
                            return Err(io::Error::from_raw_os_error(-code));
                        }
                        return Ok((!interrupted).then_some(objects));
                    }
                    _ if objects.len() >= OBJECTS_MAX => {
                        return Err(io::Error::other("too many rules to be read"));
                    }
                    _ => objects.extend(object(message.body)),
                }
            }
        }
    }

    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.socket.recv(buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What is said of a subsystem that the kernel lacks, and of an object that is
/// gone.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOENT)
    )
}

fn encode(sequence: u32, request: u8, family: u8, named: &[(u16, &str)]) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0];
    for (kind, name) in named {
        let len = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
        body.extend(len.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(name.bytes().chain([0]));
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let len = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | u16::from(request);
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let head = rest.first_chunk::<HEADER_LEN>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *head;
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = rest.get(HEADER_LEN..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    })
}

fn object(body: &[u8]) -> Option<Object> {
    let (generic, attributes) = body.split_first_chunk::<GENERIC_LEN>()?;
    let [family, ..] = *generic;
    Some(Object {
        family,
        attributes: attributes.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::{attributes, messages};

    #[test]
    fn what_is_cut_short_ends_and_what_lies_about_its_length_too() {
        let attribute = [8, 0, 1, 0x80, 0, 0, 0, 7];
        let found: Vec<_> = attributes(&attribute).collect();
        assert_eq!(found, [(1, &[0, 0, 0, 7][..])]);
        for len in [0, 3, 9, 0xff] {
            let lying = [len, 0, 1, 0, 0, 0, 0, 7];
            assert_eq!(attributes(&lying).count(), 0, "{len}");
            let mut message = [0; 20];
            message[0] = len;
            assert_eq!(messages(&message).count(), 0, "{len}");
        }
        for len in 0..attribute.len() {
            assert_eq!(attributes(&attribute[..len]).count(), 0, "{len}");
        }
    }
}
