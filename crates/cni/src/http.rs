//! HTTP/1.1 over a Unix socket: one request, one connection, bounded in size
//! and time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axon_api::agent::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of an answer's head, at most.
const HEAD_MAX: usize = 16 * 1024;
/// Header fields of an answer, at most.
const FIELDS_MAX: usize = 32;
/// Bytes of a body that is read as a whole, at most: a node's maps fit.
pub const BODY_MAX: u64 = 256 * 1024 * 1024;

/// Why a request has no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the socket: the agent does not run, or not here.
    #[error("no agent answers at {}: {source}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or took too long.
    #[error("connection to the agent at {} broke: {source}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came back is no HTTP, or has another body than expected.
    #[error("{method} {path}: the answer makes no sense: {what}")]
    Nonsense {
        /// The request's method.
        method: &'static str,
        /// The request's path.
        path: String,
        /// What does not.
        what: String,
    },
    /// The agent refused.
    #[error("{}", .problem.error)]
    Refused {
        /// HTTP's status.
        status: u16,
        /// What the agent says.
        problem: Problem,
    },
}

impl Error {
    /// Whether the agent is away, as opposed to being there and refusing.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Refused { status, .. } => *status == 503,
            Self::Nonsense { .. } => false,
        }
    }
}

/// A client of the agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// A request on its way, for error texts.
struct Call<'a> {
    client: &'a Client,
    method: &'static str,
    path: &'a str,
}

impl Client {
    /// A client that gives each request `timeout` until its answer is there
    /// (of a stream: until it begins).
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self {
            socket: socket.into(),
            timeout,
        }
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET`, with JSON as the answer.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json("GET", path, None::<&()>)
    }

    /// `GET`, with text as the answer.
    pub fn get_text(&self, path: &str) -> Result<String, Error> {
        let call = self.call("GET", path);
        let bytes = self.send("GET", path, None::<&()>)?.into_bytes(&call)?;
        String::from_utf8(bytes).map_err(|_| call.nonsense("a text that is no UTF-8"))
    }

    /// Any method, with JSON as body and answer.
    pub fn json<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let call = self.call(method, path);
        let bytes = self.send(method, path, body)?.into_bytes(&call)?;
        serde_json::from_slice(&bytes).map_err(|e| call.nonsense(&e.to_string()))
    }

    /// Any method, where the answer's body does not matter.
    pub fn done(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(), Error> {
        let call = self.call(method, path);
        self.send(method, path, body)?.into_bytes(&call).map(drop)
    }

    /// `GET` of a body that goes on: what comes is read without a time limit.
    pub fn stream(&self, path: &str) -> Result<impl BufRead + use<>, Error> {
        let mut body = self.send("GET", path, None::<&()>)?;
        body.deadline = None;
        body.stream
            .get_ref()
            .set_read_timeout(None)
            .map_err(|e| self.call("GET", path).broken(e))?;
        Ok(BufReader::new(body))
    }

    fn call<'a>(&'a self, method: &'static str, path: &'a str) -> Call<'a> {
        Call {
            client: self,
            method,
            path,
        }
    }

    /// Sends a request and reads the head of its answer.
    fn send(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Body, Error> {
        let call = self.call(method, path);
        let body = match body {
            Some(body) => {
                serde_json::to_vec(body).map_err(|e| call.nonsense(&format!("request: {e}")))?
            }
            None => Vec::new(),
        };
        let deadline = Instant::now() + self.timeout;
        let mut stream =
            UnixStream::connect(&self.socket).map_err(|source| Error::Unreachable {
                socket: self.socket.clone(),
                source,
            })?;
        stream
            .set_write_timeout(Some(self.timeout))
            .map_err(|e| call.broken(e))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: axon\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(&[head.as_bytes(), &body].concat())
            .map_err(|e| call.broken(e))?;
        let mut body = Body {
            stream: BufReader::new(stream),
            deadline: Some(deadline),
            left: Left::UntilClose,
        };
        let status = body.read_head(&call)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let bytes = body.into_bytes(&call)?;
        let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| Problem {
            error: format!(
                "{method} {path}: HTTP status {status}: {}",
                String::from_utf8_lossy(&bytes).trim()
            ),
            remedy: String::new(),
        });
        Err(Error::Refused { status, problem })
    }
}

impl Call<'_> {
    fn broken(&self, source: io::Error) -> Error {
        Error::Broken {
            socket: self.client.socket.clone(),
            source,
        }
    }

    fn nonsense(&self, what: &str) -> Error {
        Error::Nonsense {
            method: self.method,
            path: self.path.to_owned(),
            what: what.to_owned(),
        }
    }
}

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// So many bytes.
    Length(u64),
    /// So many bytes of this chunk, then a line end and the next chunk.
    Chunk(u64),
    /// A chunk's head comes next.
    ChunkHead,
    /// Until the agent closes the connection.
    UntilClose,
    /// Nothing.
    Nothing,
}

/// The body of an answer.
struct Body {
    stream: BufReader<UnixStream>,
    deadline: Option<Instant>,
    left: Left,
}

impl Body {
    /// Reads the status line and the header; returns the status.
    fn read_head(&mut self, call: &Call<'_>) -> Result<u16, Error> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > HEAD_MAX {
                return Err(call.nonsense("its head has no end"));
            }
            self.line(&mut head).map_err(|e| call.broken(e))?;
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        response
            .parse(&head)
            .map_err(|e| call.nonsense(&e.to_string()))?;
        let status = response
            .code
            .ok_or_else(|| call.nonsense("it has no status"))?;
        let field = |name: &str| {
            let field = response.headers.iter();
            field
                .clone()
                .find(|h| h.name.eq_ignore_ascii_case(name))
                .map(|h| String::from_utf8_lossy(h.value).trim().to_ascii_lowercase())
        };
        self.left = match (field("transfer-encoding"), field("content-length")) {
            (Some(coding), _) if coding == "chunked" => Left::ChunkHead,
            (Some(coding), _) => {
                return Err(call.nonsense(&format!("transfer coding {coding:?}")));
            }
            (None, Some(length)) => Left::Length(
                length
                    .parse()
                    .map_err(|_| call.nonsense(&format!("length {length:?}")))?,
            ),
            (None, None) => Left::UntilClose,
        };
        Ok(status)
    }

    /// Gives the next read what is left of the time.
    fn arm(&mut self) -> io::Result<()> {
        let Some(deadline) = self.deadline else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.get_ref().set_read_timeout(Some(left))
    }

    /// Appends a line with its end.
    fn line(&mut self, to: &mut Vec<u8>) -> io::Result<()> {
        self.arm()?;
        let limit = HEAD_MAX as u64 + 1;
        let read = (&mut self.stream).take(limit).read_until(b'\n', to)?;
        if read == 0 || to.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Reads a chunk's head (its length in hexadecimal).
    fn chunk(&mut self) -> io::Result<Left> {
        let mut line = Vec::new();
        self.line(&mut line)?;
        let length = std::str::from_utf8(&line)
            .ok()
            .and_then(|text| text.split(';').next())
            .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
            .ok_or_else(|| io::Error::other("a chunk without a length"))?;
        if length == 0 {
            return Ok(Left::Nothing);
        }
        Ok(Left::Chunk(length))
    }

    fn into_bytes(mut self, call: &Call<'_>) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = (&mut self).take(BODY_MAX + 1).read_to_end(&mut bytes);
        match read {
            Ok(_) if bytes.len() as u64 > BODY_MAX => Err(call.nonsense("it has no end")),
            Ok(_) => Ok(bytes),
            Err(error) => Err(call.broken(error)),
        }
    }
}

impl Read for Body {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        if self.left == Left::ChunkHead {
            self.left = self.chunk()?;
        }
        let max = match self.left {
            Left::Length(0) | Left::Nothing => return Ok(0),
            Left::Length(n) | Left::Chunk(n) => n,
            Left::UntilClose | Left::ChunkHead => u64::MAX,
        };
        self.arm()?;
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(to.len());
        let read = self.stream.read(to.get_mut(..max).unwrap_or_default())?;
        if read == 0 && self.left != Left::UntilClose {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read_64 = read as u64;
        self.left = match self.left {
            Left::Length(n) => Left::Length(n - read_64),
            Left::Chunk(n) if n == read_64 => {
                let mut end = Vec::new();
                self.line(&mut end)?;
                Left::ChunkHead
            }
            Left::Chunk(n) => Left::Chunk(n - read_64),
            left @ (Left::UntilClose | Left::ChunkHead | Left::Nothing) => left,
        };
        Ok(read)
    }
}

/// A path segment or query value with what is special in them escaped.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
