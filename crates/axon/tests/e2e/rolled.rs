//! The client of a service whose deployment is rolled: a process of its own, as only a
//! process can be in a pod's group. It says on its output what becomes of it.
//!
//! ```text
//!  round N                every short-lived worker has finished something since the last
//!  now KIND N NAME        who answers a worker
//!  ended KIND N NAME      its connection was ended
//!  again KIND N NAME      a socket was refused at a port which one before it had, that NAME
//!                         answered: on the way they are one flow of UDP
//!  failed WHAT            what must not be
//! ```

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::PATIENCE;

/// Where it is told what to do: how many of each kind, when to stop, whom to call.
pub(crate) const WORKERS: &str = "AXON_ROLL_CLIENT_WORKERS";
pub(crate) const STOP: &str = "AXON_ROLL_CLIENT_STOP";
pub(crate) const TO: &str = "AXON_ROLL_CLIENT_TO";

/// Between two datagrams, and until one is sent again.
const PAUSE: Duration = Duration::from_millis(20);
const AGAIN: Duration = Duration::from_millis(300);

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// New connections, one after the other.
    New,
    /// Questions, each from a socket of its own.
    Query,
    /// A connection that is kept while it lives.
    Kept,
    /// A socket of UDP that is connected until it is told that it is over.
    Connected,
    /// One that names the service with each datagram.
    Named,
}

const KINDS: [Kind; 5] = [
    Kind::New,
    Kind::Query,
    Kind::Kept,
    Kind::Connected,
    Kind::Named,
];

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Query => "query",
            Self::Kept => "kept",
            Self::Connected => "connected",
            Self::Named => "named",
        }
    }

    fn is_short(self) -> bool {
        matches!(self, Self::New | Self::Query)
    }
}

/// Who answered last at ports of UDP that were used, by whom they called.
type Answered = Mutex<HashMap<(SocketAddr, u16), String>>;

struct Worker {
    kind: Kind,
    number: usize,
    to: SocketAddr,
    /// Without a pause.
    is_hasty: bool,
    stop: PathBuf,
    turns: AtomicU64,
    answered: Arc<Answered>,
}

/// Works until the file to stop at is there, if this process is a client.
pub(crate) fn run() {
    let Ok(to) = std::env::var(TO) else {
        return;
    };
    let given = |name| std::env::var(name).unwrap_or_else(|_| panic!("no {name}"));
    let count: usize = given(WORKERS).parse().expect("a number");
    let stop = PathBuf::from(given(STOP));
    let to: Vec<SocketAddr> = to
        .split(',')
        .map(|to| to.parse().expect("an address"))
        .collect();
    let mut workers = Vec::new();
    let answered = Arc::<Answered>::default();
    for kind in KINDS {
        for number in 0..count.max(to.len()) {
            workers.push(Worker {
                kind,
                number,
                to: to[number % to.len()],
                is_hasty: count > to.len(),
                stop: stop.clone(),
                turns: AtomicU64::new(0),
                answered: Arc::clone(&answered),
            });
        }
    }
    let turns = || -> Vec<u64> {
        let short = workers.iter().filter(|worker| worker.kind.is_short());
        short
            .map(|worker| worker.turns.load(Ordering::Relaxed))
            .collect()
    };
    std::thread::scope(|scope| {
        for worker in &workers {
            scope.spawn(|| worker.work());
        }
        let (mut rounds, mut before) = (0, turns());
        while !stop.exists() {
            let now = turns();
            if now.iter().zip(&before).all(|(now, before)| now > before) {
                rounds += 1;
                before = now;
                println!("round {rounds}");
            }
            std::thread::sleep(PAUSE);
        }
    });
    for kind in KINDS {
        let of_kind = workers.iter().filter(|worker| worker.kind == kind);
        let turns: u64 = of_kind
            .map(|worker| worker.turns.load(Ordering::Relaxed))
            .sum();
        println!("count {} {turns}", kind.word());
    }
}

/// Who has answered, and what of it is an echo.
fn split(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = answer.iter().position(|byte| *byte == b' ')?;
    let name = String::from_utf8_lossy(answer.get(..end)?).into_owned();
    Some((name, answer.get(end + 1..)?))
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A port that no question has had for as long as may be: on the way, questions from one
/// port are one flow, which stays with its backend. Other sockets have others.
fn next_port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed) % 20_000;
    10_000 + u16::try_from(next).expect("less than 20000")
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

impl Worker {
    fn work(&self) {
        let mut before = String::new();
        while !self.stop.exists() {
            match self.kind {
                Kind::New => self.held_to(self.connection()),
                Kind::Query => self.held_to(self.query()),
                Kind::Kept => self.keep(),
                Kind::Connected => self.stay(),
                Kind::Named => self.name(&mut before),
            }
            if !self.is_hasty {
                std::thread::sleep(PAUSE / 2);
            }
        }
    }

    fn say(&self, word: &str, name: &str) {
        println!("{word} {} {} {name}", self.kind.word(), self.number);
    }

    fn fail(&self, what: &impl Display) {
        println!(
            "failed {} {} to {}: {what}",
            self.kind.word(),
            self.number,
            self.to
        );
    }

    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn held_to(&self, outcome: io::Result<()>) {
        match outcome {
            // A question has counted itself.
            Ok(()) if self.kind == Kind::Query => {}
            Ok(()) => {
                self.turn();
            }
            Err(error) => {
                self.fail(&format!(
                    "{error} ({:?}), turn {}",
                    error.kind(),
                    self.turns.load(Ordering::Relaxed)
                ));
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends, and has it come back after the server's name, if that is to come first.
    fn echo(stream: &mut TcpStream, mut name: Option<&mut String>) -> io::Result<()> {
        let sent = b"0123456789abcdef";
        stream.write_all(sent)?;
        let mut byte = [0];
        while let Some(text) = &mut name {
            stream.read_exact(&mut byte)?;
            match byte[0] {
                b' ' => break,
                byte => text.push(char::from(byte)),
            }
        }
        let mut got = [0; 16];
        stream.read_exact(&mut got)?;
        match got == *sent {
            true => Ok(()),
            false => Err(io::Error::other("something else came back")),
        }
    }

    /// A new connection, from its beginning to its end.
    fn connection(&self) -> io::Result<()> {
        let mut stream = self.connect()?;
        Self::echo(&mut stream, Some(&mut String::new()))?;
        if self.is_hasty && !self.turns.load(Ordering::Relaxed).is_multiple_of(8) {
            // Reset, so that its port is free at once.
            let linger = nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&stream, sockopt::Linger, &linger)?;
        }
        Ok(())
    }

    /// A connection that ends with its server, and not before.
    fn keep(&self) {
        let mut name = String::new();
        let begun = self.connect().and_then(|mut stream| {
            Self::echo(&mut stream, Some(&mut name))?;
            Ok(stream)
        });
        let mut stream = match begun {
            Ok(stream) => stream,
            // No connection that begins may fail.
            Err(error) => return self.fail(&error),
        };
        self.say("now", &name);
        while !self.stop.exists() {
            if let Err(error) = Self::echo(&mut stream, None) {
                if is_silence(&error) {
                    self.fail(&format!("{name}: {error}"));
                }
                return self.say("ended", &name);
            }
            self.turn();
            std::thread::sleep(PAUSE);
        }
    }

    fn socket(&self) -> io::Result<UdpSocket> {
        self.bound(0)
    }

    fn bound(&self, port: u16) -> io::Result<UdpSocket> {
        let any = match self.to {
            SocketAddr::V4(_) => IpAddr::from([0; 4]),
            SocketAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let socket = UdpSocket::bind((any, port))?;
        socket.set_read_timeout(Some(AGAIN))?;
        Ok(socket)
    }

    /// Has a datagram come back, sent again where it does not; who has answered.
    fn ask(
        &self,
        socket: &UdpSocket,
        send: impl Fn(&UdpSocket, &[u8]) -> io::Result<usize>,
    ) -> io::Result<String> {
        let sent = self.turn().to_be_bytes();
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 256];
        while Instant::now() < end {
            send(socket, &sent)?;
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => match split(&buffer[..length]) {
                        Some((name, echo)) if echo == sent => {
                            self.note(socket, &name);
                            return Ok(name);
                        }
                        // An answer that came too late.
                        _ => {}
                    },
                    Err(error) if is_silence(&error) => break,
                    Err(error) => return Err(error),
                }
            }
            if self.stop.exists() {
                break;
            }
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// A question as of a resolver, whose first datagram must be answered.
    fn query(&self) -> io::Result<()> {
        let socket = loop {
            match self.bound(next_port()) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                bound => break bound?,
            }
        };
        socket.connect(self.to)?;
        let send = |socket: &UdpSocket, bytes: &[u8]| socket.send(bytes);
        let Some(name) = self.answered_at(&socket) else {
            socket.set_read_timeout(Some(PATIENCE))?;
            return self.ask(&socket, send).map(drop);
        };
        // All ports have been round: on the way this is a flow that was there before.
        match self.ask(&socket, send) {
            Err(error) if is_refusal(&error) => {
                self.say("again", &name);
                Ok(())
            }
            asked => asked.map(drop),
        }
    }

    fn port(&self, socket: &UdpSocket) -> (SocketAddr, u16) {
        (self.to, socket.local_addr().map_or(0, |own| own.port()))
    }

    fn note(&self, socket: &UdpSocket, name: &str) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.insert(self.port(socket), name.to_owned());
    }

    /// Who answered a socket before this one at the same port.
    fn answered_at(&self, socket: &UdpSocket) -> Option<String> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.get(&self.port(socket)).cloned()
    }

    /// A connected socket, until it is told that it is over.
    fn stay(&self) {
        let socket = match self.socket().and_then(|socket| {
            socket.connect(self.to)?;
            Ok(socket)
        }) {
            Ok(socket) => socket,
            Err(error) => return self.fail(&error),
        };
        let mut before = String::new();
        while !self.stop.exists() {
            match self.ask(&socket, UdpSocket::send) {
                Ok(name) if name == before => {}
                Ok(name) => {
                    self.say("now", &name);
                    before = name;
                }
                Err(_) if self.stop.exists() => return,
                Err(error) if is_silence(&error) => {
                    return self.fail(&format!("{before}: silent for {PATIENCE:?}"));
                }
                Err(_) => return self.say("ended", &before),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A socket that names the service each time, and lives on.
    fn name(&self, before: &mut String) {
        let socket = match self.socket() {
            Ok(socket) => socket,
            Err(error) => return self.fail(&error),
        };
        while !self.stop.exists() {
            match self.ask(&socket, |socket, bytes| socket.send_to(bytes, self.to)) {
                Ok(name) if name == *before => {}
                Ok(name) => {
                    self.say("now", &name);
                    *before = name;
                }
                Err(_) if self.stop.exists() => return,
                // A server that has just gone refuses (ICMP); the next datagram is another's.
                Err(error) if is_refusal(&error) => {}
                Err(error) => return self.fail(&format!("{before}: {error}")),
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// The arguments that start a client: it stops when the file is there.
pub(crate) fn command(workers: usize, stop: &Path, to: &[SocketAddr]) -> Vec<String> {
    let to: Vec<String> = to.iter().map(ToString::to_string).collect();
    let own = std::env::current_exe().expect("path of this test");
    vec![
        "env".to_owned(),
        format!("{WORKERS}={workers}"),
        format!("{STOP}={}", stop.display()),
        format!("{TO}={}", to.join(",")),
        own.display().to_string(),
        "--exact".to_owned(),
        "roll::client".to_owned(),
        "--nocapture".to_owned(),
    ]
}
