//! Recorded flows: a file of them, standard input, or what the agent still has.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use axon_cni::http::Client;

use crate::failure::Failure;

/// Bytes of one recorded flow.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Where flows come from.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// A file; `-` is standard input.
    File(&'a Path),
    /// The last ones of the agent.
    Agent(Client, usize),
}

/// Hands each line to `take`, with its number: its bytes without a line's end, or
/// why it cannot be a flow. Empty lines are left out.
pub(crate) fn each(
    source: &Source<'_>,
    take: impl FnMut(u64, Result<&[u8], String>),
) -> Result<(), Failure> {
    match source {
        Source::File(file) if *file == Path::new("-") => {
            lines(io::stdin().lock(), take).map_err(|e| Failure::usage(format!("-: {e}")))
        }
        Source::File(file) => {
            let wrong = |e: io::Error| Failure::usage(format!("{}: {e}", file.display()));
            let opened = File::open(file).map_err(wrong)?;
            lines(BufReader::new(opened), take).map_err(wrong)
        }
        Source::Agent(client, last) => {
            let path = format!("/v1/monitor?last={last}&follow=false&background=false");
            let stream = client.stream(&path)?;
            let ended = |e: io::Error| Failure::new(format!("the stream of flows ended: {e}"));
            lines(stream, take).map_err(ended)
        }
    }
}

fn lines(
    mut lines: impl BufRead,
    mut take: impl FnMut(u64, Result<&[u8], String>),
) -> io::Result<()> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        let mut bounded = lines.by_ref().take(LINE_BYTES_MAX);
        if bounded.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        let whole = line.ends_with(b"\n") || (line.len() as u64) < LINE_BYTES_MAX;
        if !whole {
            lines.skip_until(b'\n')?;
            take(number, Err(format!("has more than {LINE_BYTES_MAX} bytes")));
        } else if !line.trim_ascii().is_empty() {
            take(number, Ok(line.trim_ascii()));
        }
    }
}

/// The file or the agent's last flows, as arguments say.
pub(crate) fn source<'a>(
    file: Option<&'a PathBuf>,
    last: Option<usize>,
    client: impl FnOnce() -> Client,
) -> Option<Source<'a>> {
    match (file, last) {
        (Some(file), _) => Some(Source::File(file)),
        (None, Some(last)) => Some(Source::Agent(client(), last)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::LINE_BYTES_MAX;

    #[test]
    fn lines_are_bounded_and_numbered() {
        let long = vec![b'x'; usize::try_from(LINE_BYTES_MAX).expect("small") + 5];
        let exact = vec![b'y'; usize::try_from(LINE_BYTES_MAX).expect("small") - 1];
        let text = [
            b"a\n\n",
            &long[..],
            b"\n",
            &exact[..],
            b"\n\xff\xfe\r\nlast",
        ]
        .concat();
        let mut told = Vec::new();
        super::lines(&text[..], |number, line| {
            told.push((number, line.map(<[u8]>::len).map_err(|why| why.len() > 5)));
        })
        .expect("read");
        let expected = [
            (1, Ok(1)),
            (3, Err(true)),
            (4, Ok(exact.len())),
            (5, Ok(2)),
            (6, Ok(4)),
        ];
        assert_eq!(told, expected);
    }
}
