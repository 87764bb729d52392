//! HTTP/1.1, as much as it takes to ask an agent, probe a pod and be a demo's
//! client.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// The longest head of a message that is read.
const HEAD_MAX: usize = 16 * 1024;
/// The longest body that is read.
const BODY_MAX: u64 = 64 * 1024 * 1024;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// Sends a request on a fresh connection and reads the answer.
///
/// # Errors
/// The connection broke, or what came is no HTTP.
pub(crate) fn request<S: Read + Write>(
    mut stream: S,
    method: &str,
    host: &str,
    path: &str,
) -> Result<Answer> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         User-Agent: axon-lab\r\nContent-Length: 0\r\n\r\n"
    )
    .context("sending the request")?;
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader)?;
    let mut body = Vec::new();
    if head.chunked {
        read_chunks(&mut reader, &mut body)?;
    } else if let Some(length) = head.length {
        let read = (&mut reader)
            .take(length.min(BODY_MAX))
            .read_to_end(&mut body)
            .context("reading the body")?;
        if read as u64 != length {
            bail!("the body ended after {read} of {length} bytes");
        }
    } else {
        reader
            .take(BODY_MAX)
            .read_to_end(&mut body)
            .context("reading the body")?;
    }
    Ok(Answer {
        status: head.status,
        body,
    })
}

/// Asks an agent for something.
///
/// # Errors
/// It is not there, or answers with a problem.
pub(crate) fn get_json<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    let answer = get(socket, path)?;
    serde_json::from_slice(&answer).with_context(|| format!("GET {path}"))
}

/// Asks an agent for lines (`/v1/monitor`).
///
/// # Errors
/// It is not there, or does not answer with 200.
pub(crate) fn get_lines(socket: &Path, path: &str) -> Result<Vec<String>> {
    let answer = get(socket, path)?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().map(str::to_owned).collect())
}

fn get(socket: &Path, path: &str) -> Result<Vec<u8>> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let answer = request(stream, "GET", "localhost", path)?;
    if answer.status != 200 {
        let said = String::from_utf8_lossy(&answer.body);
        bail!("GET {path}: status {}: {said}", answer.status);
    }
    Ok(answer.body)
}

struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let before = head.len();
            reader
                .by_ref()
                .take(HEAD_MAX as u64)
                .read_until(b'\n', &mut head)
                .context("reading the answer")?;
            if head.len() == before {
                bail!("the connection was closed before an answer");
            }
            if head.len() > HEAD_MAX {
                bail!("the head of the answer is longer than {HEAD_MAX} bytes");
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&head).context("the answer is no HTTP")?;
        let value = |name: &str| {
            response
                .headers
                .iter()
                .find(|h| h.name.eq_ignore_ascii_case(name))
                .and_then(|h| std::str::from_utf8(h.value).ok())
        };
        Ok(Self {
            status: response.code.context("the answer has no status")?,
            length: value("content-length").and_then(|v| v.trim().parse().ok()),
            chunked: value("transfer-encoding").is_some_and(|v| v.contains("chunked")),
        })
    }
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> Result<()> {
    while read_chunk(reader, body)? {
        if body.len() as u64 > BODY_MAX {
            bail!("the body is longer than {BODY_MAX} bytes");
        }
    }
    Ok(())
}

/// Reads one chunk; false after the last one.
fn read_chunk(reader: &mut impl BufRead, body: &mut Vec<u8>) -> Result<bool> {
    let mut line = String::new();
    reader.read_line(&mut line).context("reading a chunk")?;
    let size = line.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(size, 16).with_context(|| format!("chunk size {size:?}"))?;
    if size > BODY_MAX {
        bail!("a chunk is longer than {BODY_MAX} bytes");
    }
    let read = reader.by_ref().take(size).read_to_end(body)?;
    if read as u64 != size {
        bail!("a chunk ended after {read} of {size} bytes");
    }
    let mut end = String::new();
    reader.read_line(&mut end)?;
    Ok(size > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read, Write};

    use super::request;

    struct Canned(Cursor<&'static [u8]>);

    impl Read for Canned {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Write for Canned {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            Ok(buf.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn answered(bytes: &'static str) -> anyhow::Result<(u16, String)> {
        let answer = request(Canned(Cursor::new(bytes.as_bytes())), "GET", "h", "/")?;
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into()))
    }

    #[test]
    fn bodies_come_by_length_by_chunks_and_by_the_end() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nhi",
        ] {
            let answer = answered(text).expect("an answer");
            assert_eq!(answer, (200, "hi".to_owned()), "{text}");
        }
    }

    #[test]
    fn half_an_answer_is_none() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nh\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(answered(text).is_err(), "{text:?}");
        }
    }
}
