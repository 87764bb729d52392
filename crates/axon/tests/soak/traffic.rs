//! What goes on meanwhile: streams, datagrams, new connections, and probes that
//! must not get through.
//!
//! The sockets are made in the pods' namespaces by threads of this process.

use std::fmt::{Display, Formatter};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axon_linux::netns;

use crate::support::{Lab, at, eventually};

/// An answer that takes this long is lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a probe waits that nobody may answer.
const SILENCE: Duration = Duration::from_millis(150);

/// How much there was of each.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    streams: AtomicU64,
    bytes: AtomicU64,
    datagrams: AtomicU64,
    connections: AtomicU64,
    denied: AtomicU64,
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} streams with {} bytes each way, {} datagrams and {} new connections, all \
             answered; {} probes, all denied",
            of(&self.streams),
            of(&self.bytes),
            of(&self.datagrams),
            of(&self.connections),
            of(&self.denied)
        )
    }
}

/// Traffic that runs until it is finished.
pub(crate) struct Traffic {
    counts: Arc<Counts>,
    /// What must be answered.
    answered: Workers,
    /// What must not be.
    denied: Workers,
}

/// Threads that work until they are told to stop.
#[derive(Default)]
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

/// What a thread needs.
#[derive(Clone)]
struct Worker {
    netns: PathBuf,
    to: SocketAddr,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
}

impl Traffic {
    /// Starts so many streams, and everything else beside them. Returns when
    /// every stream is established.
    pub(crate) fn start(lab: &Lab, streams: usize) -> Self {
        let mut traffic = Self {
            counts: Arc::default(),
            answered: Workers::default(),
            denied: Workers::default(),
        };
        let address = |ip: &str, port| at(ip, port).parse().expect("an address");
        let server = [false, true].map(|v6| lab.pod_ip("server", v6));
        let outside = ["198.51.100.1", "2001:db8::1"];
        let targets: Vec<SocketAddr> = server
            .iter()
            .map(String::as_str)
            .chain(outside)
            .map(|ip| address(ip, 7000))
            .collect();
        for to in &targets {
            let worker = traffic.worker(lab, "client", *to);
            eventually(&format!("{to} is reached"), || worker.connect().is_ok());
            traffic.answered.spawn(worker.clone(), Worker::echoes);
            traffic.answered.spawn(worker, Worker::connections);
        }
        for (number, to) in (0..streams).zip(targets.iter().cycle()) {
            let worker = traffic.worker(lab, "client", *to);
            let work = move |worker: &Worker| worker.stream(number as u64 + 1);
            traffic.answered.spawn(worker, work);
        }
        for ip in &server {
            for (from, port) in [("outsider", 7000), ("client", 7001)] {
                let worker = traffic.worker(lab, from, address(ip, port));
                let denied = &mut traffic.denied;
                denied.spawn(worker.clone(), Worker::denied_connections);
                denied.spawn(worker, Worker::denied_datagrams);
            }
        }
        eventually("all streams are established", || {
            traffic.counts.streams.load(Ordering::Relaxed) >= streams as u64
        });
        traffic
    }

    fn worker(&self, lab: &Lab, pod: &str, to: SocketAddr) -> Worker {
        let netns = lab.pod(pod)["netns"].as_str().expect("a path").into();
        Worker {
            netns,
            to,
            counts: Arc::clone(&self.counts),
            stop: Arc::default(),
        }
    }

    /// Ends what is answered; what is denied goes on. What went wrong is told.
    pub(crate) fn finish_answered(&mut self) {
        self.answered.finish();
        let counts = &self.counts;
        for count in [&counts.bytes, &counts.datagrams, &counts.denied] {
            assert!(count.load(Ordering::Relaxed) > 0, "{counts}");
        }
    }

    /// What there was until now.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Ends all of it; everything that went wrong is told.
    pub(crate) fn finish(mut self) -> Arc<Counts> {
        self.finish_answered();
        self.denied.finish();
        self.counts
    }
}

impl Counts {
    /// Probes that were denied.
    pub(crate) fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }
}

impl Workers {
    fn spawn(
        &mut self,
        worker: Worker,
        work: impl FnOnce(&Worker) -> Result<(), String> + Send + 'static,
    ) {
        let worker = Worker {
            stop: Arc::clone(&self.stop),
            ..worker
        };
        let thread = std::thread::Builder::new().stack_size(256 * 1024);
        let run = move || {
            let done = work(&worker);
            if let Err(error) = &done {
                println!("{}: {error}", worker.to);
            }
            done
        };
        self.threads.push(thread.spawn(run).expect("a thread"));
    }

    /// Ends them; everything that went wrong is told.
    fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self
            .threads
            .drain(..)
            .map(|thread| thread.join().expect("no panic"));
        let wrong: Vec<String> = ended.filter_map(Result::err).collect();
        assert!(wrong.is_empty(), "{} went wrong: {wrong:?}", wrong.len());
    }
}

/// The bytes of a stream: each has its own, and no part is like another.
struct Bytes(u64);

impl Bytes {
    fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0.to_be_bytes()[0];
        }
    }
}

impl Worker {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn within<R: Send>(&self, make: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
        netns::within_path(&self.netns, make)?
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = self.within(|| TcpStream::connect_timeout(&self.to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn socket(&self, timeout: Duration) -> Result<UdpSocket, String> {
        let any = if self.to.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let make = || {
            let socket = UdpSocket::bind(any)?;
            socket.connect(self.to)?;
            socket.set_read_timeout(Some(timeout))?;
            Ok(socket)
        };
        self.within(make).map_err(|e| format!("a socket: {e}"))
    }

    /// One connection from beginning to end; every byte must come back, in
    /// order.
    fn stream(&self, number: u64) -> Result<(), String> {
        let failed = |what: &str, error: io::Error| format!("stream {number}: {what}: {error}");
        let mut stream = self.connect().map_err(|e| failed("connecting", e))?;
        let mut bytes = Bytes(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut sent, mut got) = ([0; 1500], [0; 1500]);
        let mut first = true;
        while first || !self.is_over() {
            let length = 200 + usize::from(u8::try_from(number % 256).unwrap_or(0)) * 5;
            bytes.fill(&mut sent[..length]);
            stream
                .write_all(&sent[..length])
                .map_err(|e| failed("sending", e))?;
            stream
                .read_exact(&mut got[..length])
                .map_err(|e| failed("receiving", e))?;
            if sent[..length] != got[..length] {
                return Err(format!("stream {number}: something else came back"));
            }
            self.counts
                .bytes
                .fetch_add(length as u64, Ordering::Relaxed);
            if std::mem::take(&mut first) {
                self.counts.streams.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Datagrams one after the other, each of which must come back.
    fn echoes(&self) -> Result<(), String> {
        let socket = self.socket(Duration::from_secs(5))?;
        let mut number = 0_u64;
        while !self.is_over() {
            number += 1;
            let began = Instant::now();
            socket
                .send(&number.to_be_bytes())
                .map_err(|e| format!("datagram {number}: {e}"))?;
            let mut got = [0; 16];
            match socket.recv(&mut got) {
                Ok(8) if got[..8] == number.to_be_bytes() => {}
                other => {
                    let took = began.elapsed();
                    return Err(format!("datagram {number}: {other:?} after {took:?}"));
                }
            }
            self.counts.datagrams.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// New connections, each of which must be accepted and answered.
    fn connections(&self) -> Result<(), String> {
        while !self.is_over() {
            let talk = || -> io::Result<()> {
                let mut stream = self.connect()?;
                stream.write_all(b"hello")?;
                stream.read_exact(&mut [0; 5])
            };
            talk().map_err(|e| format!("a new connection: {e}"))?;
            self.counts.connections.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn denied_connections(&self) -> Result<(), String> {
        while !self.is_over() {
            match self.within(|| TcpStream::connect_timeout(&self.to, SILENCE)) {
                Ok(_) => return Err("a connection that policy denies was made".to_owned()),
                Err(e) if e.kind() == ErrorKind::TimedOut => {}
                Err(e) => return Err(format!("a denied connection was not tried: {e}")),
            }
            self.counts.denied.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn denied_datagrams(&self) -> Result<(), String> {
        let socket = self.socket(Duration::from_millis(20))?;
        // A refusal (ICMP) is no answer; it may be told by either call.
        let refused = |e: &io::Error| e.kind() == ErrorKind::ConnectionRefused;
        let silent =
            |e: &io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        while !self.is_over() {
            match socket.send(b"hello") {
                Ok(_) => {}
                Err(e) if refused(&e) => continue,
                Err(e) => return Err(format!("a denied datagram was not sent: {e}")),
            }
            match socket.recv(&mut [0; 16]) {
                Ok(_) => return Err("a datagram that policy denies was answered".to_owned()),
                Err(e) if refused(&e) || silent(&e) => {}
                Err(e) => return Err(format!("a denied datagram was not tried: {e}")),
            }
            self.counts.denied.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
