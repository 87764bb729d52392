//! Loads: a client and a server that count what passes in a while.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

/// In which the kernel tells CPU time.
const TICK_S: f64 = 0.01;

/// Kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// One byte to and fro on one TCP connection.
    Rr,
    /// A TCP connection for each byte to and fro.
    Crr,
    /// One byte to and fro in UDP datagrams.
    Udprr,
    /// As much as goes through one TCP connection.
    Stream,
    /// As many frames of 64 bytes as arrive.
    Udp,
}

impl Mode {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Crr => "crr",
            Self::Udprr => "udprr",
            Self::Stream => "stream",
            Self::Udp => "udp",
        }
    }

    /// Cores of server and client: request and response on one core measure
    /// the path's length, a stream wants both.
    pub(crate) fn cores(self) -> (usize, usize) {
        match self {
            Self::Rr | Self::Crr | Self::Udprr => (1, 1),
            Self::Stream | Self::Udp => (0, 1),
        }
    }

    /// What the rate counts.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Rr | Self::Udprr => "round trips/s",
            Self::Crr => "connections/s",
            Self::Stream => "Gbit/s",
            Self::Udp => "frames/s",
        }
    }
}

/// What a load measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// In the mode's unit.
    pub rate: f64,
    /// Microseconds; 0 for a stream.
    pub p50_us: f64,
    /// Microseconds; 0 for a stream.
    pub p99_us: f64,
    /// Microseconds of one trip in a thousand; 0 for a stream.
    pub p999_us: f64,
    /// Microseconds of the longest trip; 0 for a stream.
    pub max_us: f64,
    /// CPU seconds of the whole machine for a GB of a stream; 0 for all else.
    pub cpu_s_per_gb: f64,
}

impl Sample {
    pub(crate) fn to_line(self) -> String {
        format!(
            "{} {} {} {} {} {}",
            self.rate, self.p50_us, self.p99_us, self.p999_us, self.max_us, self.cpu_s_per_gb
        )
    }

    pub(crate) fn from_line(line: &str) -> Result<Self> {
        let mut numbers = line.split_whitespace().map(str::parse::<f64>);
        let mut next = || {
            numbers
                .next()
                .context("a sample has six numbers")?
                .context("no number")
        };
        Ok(Self {
            rate: next()?,
            p50_us: next()?,
            p99_us: next()?,
            p999_us: next()?,
            max_us: next()?,
            cpu_s_per_gb: next()?,
        })
    }
}

/// Answers until it is killed; prints a line once it listens.
pub(crate) fn serve(mode: Mode, port: u16) -> Result<()> {
    let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
    if mode == Mode::Udp {
        return count_frames(&UdpSocket::bind(any)?);
    }
    if mode == Mode::Udprr {
        let socket = UdpSocket::bind(any)?;
        println!("listening");
        let mut buffer = [0; 2048];
        loop {
            let (n, peer) = socket.recv_from(&mut buffer)?;
            socket.send_to(buffer.get(..n).unwrap_or_default(), peer)?;
        }
    }
    let listener = TcpListener::bind(any)?;
    println!("listening");
    let mut buffer = vec![0; 1 << 20];
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        match mode {
            Mode::Stream => while stream.read(&mut buffer)? > 0 {},
            Mode::Rr | Mode::Crr | Mode::Udprr | Mode::Udp => {
                let mut byte = [0; 1];
                while matches!(stream.read(&mut byte), Ok(1)) {
                    if stream.write_all(&byte).is_err() {
                        break;
                    }
                }
            }
        }
    }
}

/// Loads the server for a while.
pub(crate) fn run(mode: Mode, address: IpAddr, port: u16, span: Duration) -> Result<Sample> {
    let to = SocketAddr::new(address, port);
    let mut byte = [7; 1];
    match mode {
        Mode::Rr => {
            let mut stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            trips(span, || {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)
            })
        }
        Mode::Crr => trips(span, || {
            let mut stream = TcpStream::connect(to)?;
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)
        }),
        Mode::Udprr => {
            let socket = UdpSocket::bind(SocketAddr::new(unspecified(address), 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            trips(span, || {
                socket.send(&byte)?;
                socket.recv(&mut byte).map(|_| ())
            })
        }
        Mode::Stream => stream(to, span),
        Mode::Udp => frames(to, address, span),
    }
}

/// What asks for the count of frames.
const ASK: &[u8] = b"?";

/// Counts frames; answers who asks with the count.
fn count_frames(socket: &UdpSocket) -> Result<()> {
    println!("listening");
    let mut buffer = [0; 64];
    let mut seen = 0u64;
    loop {
        let (n, peer) = socket.recv_from(&mut buffer)?;
        if buffer.get(..n) == Some(ASK) {
            socket.send_to(&seen.to_le_bytes(), peer)?;
        } else {
            seen += 1;
        }
    }
}

/// Sends frames, and asks how many arrived.
fn frames(to: SocketAddr, address: IpAddr, span: Duration) -> Result<Sample> {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified(address), 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    // With headers and checksum 64 bytes.
    let payload = [7; 18];
    let start = Instant::now();
    while start.elapsed() < span {
        for _ in 0..64 {
            socket.send(&payload)?;
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    let mut count = [0; 8];
    for _ in 0..10 {
        socket.send(ASK)?;
        if socket.recv(&mut count).is_ok() {
            return Ok(Sample {
                rate: u64::from_le_bytes(count) as f64 / elapsed,
                ..Sample::default()
            });
        }
    }
    anyhow::bail!("the server does not tell how many frames arrived")
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Counts and times round trips.
fn trips(span: Duration, mut trip: impl FnMut() -> std::io::Result<()>) -> Result<Sample> {
    for _ in 0..20 {
        trip()?;
    }
    let start = Instant::now();
    let mut times_ns: Vec<u64> = Vec::with_capacity(1 << 16);
    let mut last = start;
    while last.duration_since(start) < span {
        trip()?;
        let now = Instant::now();
        times_ns.push(u64::try_from(now.duration_since(last).as_nanos())?);
        last = now;
    }
    let elapsed = last.duration_since(start).as_secs_f64();
    times_ns.sort_unstable();
    let at = |thousandths: usize| {
        times_ns
            .get(times_ns.len() * thousandths / 1000)
            .or(times_ns.last())
            .map_or(0.0, |ns| *ns as f64 / 1000.0)
    };
    Ok(Sample {
        rate: times_ns.len() as f64 / elapsed,
        p50_us: at(500),
        p99_us: at(990),
        p999_us: at(999),
        max_us: at(1000),
        cpu_s_per_gb: 0.0,
    })
}

/// Sends as much as goes.
fn stream(to: SocketAddr, span: Duration) -> Result<Sample> {
    let mut stream = TcpStream::connect(to)?;
    let buffer = vec![0; 256 << 10];
    let mut bytes = 0u64;
    let busy_before = busy_s()?;
    let start = Instant::now();
    while start.elapsed() < span {
        bytes += stream.write(&buffer)? as u64;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let busy = busy_s()? - busy_before;
    let gb = bytes as f64 / 1e9;
    Ok(Sample {
        rate: gb * 8.0 / elapsed,
        cpu_s_per_gb: busy / gb,
        ..Sample::default()
    })
}

/// CPU seconds that the machine has been busy, whoever with: what a stream costs
/// is in interrupts too, which belong to no process.
fn busy_s() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    busy_ticks(&stat)
        .map(|ticks| ticks as f64 * TICK_S)
        .context("/proc/stat tells nothing of the CPUs")
}

/// user, nice, system, irq and softirq of the first line of `/proc/stat`.
fn busy_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.split_whitespace();
    if fields.next() != Some("cpu") {
        return None;
    }
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6]
        .into_iter()
        .map(|at| ticks.get(at).copied())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::{Sample, busy_ticks};

    #[test]
    fn what_keeps_the_machine_busy_is_counted_and_rest_is_not() {
        let stat = "cpu  10 1 20 9000 500 3 4 70 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(38));
        assert_eq!(busy_ticks("cpu  10 1 20"), None);
        assert_eq!(busy_ticks("intr 1 2 3 4 5 6 7 8"), None);
    }

    #[test]
    fn a_sample_is_read_as_it_was_written() {
        let sample = Sample {
            rate: 64.5,
            p50_us: 12.8,
            p99_us: 14.2,
            p999_us: 20.0,
            max_us: 31.5,
            cpu_s_per_gb: 0.185,
        };
        let read = Sample::from_line(&sample.to_line()).expect("a sample");
        assert_eq!(read, sample);
        assert!(Sample::from_line("1 2 3 4 5").is_err());
    }
}
