//! Recorded flows: a file of them, standard input, or what the agent still has.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axon_agent::parse_duration;
use axon_api::agent::{ObserverStatus, Status};
use axon_cni::http::Client;
use axon_hubble::Time;
use serde::Deserialize;

use crate::failure::Failure;

/// Bytes of one recorded flow.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Flows that are asked for at most: more than agents keep.
const COUNT_MAX: usize = 10_000_000;

/// Which of the agent's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// As many.
    Count(usize),
    /// Those of this long.
    Within(Duration),
}

impl FromStr for Last {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(count) = text.parse() {
            return Ok(Self::Count(count));
        }
        match parse_duration(text) {
            Some(within) if !within.is_zero() => Ok(Self::Within(within)),
            _ => Err("expected a number of flows, or a time as in 30m or 1h30m".to_owned()),
        }
    }
}

/// Where flows come from.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// A file; `-` is standard input.
    File(&'a Path),
    /// The last ones of the agent, of those of some time none before it.
    Agent(Client, Last, Time),
}

/// Hands each line to `take`, with its number: its bytes without a line's end, or
/// why it cannot be a flow. Empty lines are left out. What comes back is what
/// the record lacks of what was asked for.
pub(crate) fn each(
    source: &Source<'_>,
    mut take: impl FnMut(u64, Result<&[u8], String>),
) -> Result<Option<String>, Failure> {
    match source {
        Source::File(file) if *file == Path::new("-") => {
            lines(io::stdin().lock(), take).map_err(|e| Failure::usage(format!("-: {e}")))?;
        }
        Source::File(file) => {
            let wrong = |e: io::Error| Failure::usage(format!("{}: {e}", file.display()));
            let opened = File::open(file).map_err(wrong)?;
            lines(BufReader::new(opened), take).map_err(wrong)?;
        }
        Source::Agent(client, last, since) => {
            let count = match last {
                Last::Count(count) => *count.min(&COUNT_MAX),
                Last::Within(_) => COUNT_MAX,
            };
            let path = format!("/v1/monitor?last={count}&follow=false&background=false");
            let stream = client.stream(&path)?;
            let ended = |e: io::Error| Failure::new(format!("the stream of flows ended: {e}"));
            lines(stream, |number, line| match line {
                Ok(text) if is_before(text, *since) => {}
                line => take(number, line),
            })
            .map_err(ended)?;
            // Asked afterwards: what leaves meanwhile is told rather than not.
            let status: Status = client.get("/v1/healthz")?;
            return Ok(lacking(&status.hubble.observer, *last, *since));
        }
    }
    Ok(None)
}

/// Whether a line tells of something before a time. One that tells no time is no
/// line of the agent's.
fn is_before(line: &[u8], since: Time) -> bool {
    #[derive(Deserialize)]
    struct Line {
        time: Time,
    }
    serde_json::from_slice(line).is_ok_and(|line: Line| line.time < since)
}

/// What an agent does not hold of what it is asked for.
fn lacking(observer: &ObserverStatus, last: Last, since: Time) -> Option<String> {
    let ObserverStatus {
        current_flows: held,
        seen_flows: seen,
        complete_since,
        ..
    } = observer;
    match last {
        Last::Count(count) if (count as u64) > *held && seen > held => Some(format!(
            "flows: the agent holds the last {held}, fewer than the {count} asked for"
        )),
        Last::Within(_) if Time::parse(complete_since).is_some_and(|from| from > since) => {
            Some(format!(
                "flows: the agent's reach back to {complete_since} ({held} of them), less far than \
                 asked: to {since}"
            ))
        }
        Last::Count(_) | Last::Within(_) => None,
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
    last: Option<Last>,
    client: impl FnOnce() -> Client,
) -> Option<Source<'a>> {
    let since = match last {
        Some(Last::Within(within)) => before_now(within),
        Some(Last::Count(_)) | None => Time(0),
    };
    match (file, last) {
        (Some(file), _) => Some(Source::File(file)),
        (None, Some(last)) => Some(Source::Agent(client(), last, since)),
        (None, None) => None,
    }
}

fn before_now(within: Duration) -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = now.unwrap_or_default().saturating_sub(within);
    Time(u64::try_from(since.as_nanos()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axon_api::agent::ObserverStatus;
    use axon_hubble::Time;

    use super::{LINE_BYTES_MAX, Last, is_before, lacking};

    #[test]
    fn the_last_are_so_many_or_of_so_long() {
        let within = |s| Ok(Last::Within(Duration::from_secs(s)));
        for (text, expected) in [
            ("10", Ok(Last::Count(10))),
            ("0", Ok(Last::Count(0))),
            ("10s", within(10)),
            ("30m", within(1800)),
            ("1h30m", within(5400)),
            ("0s", Err(())),
            ("-1", Err(())),
            ("1d", Err(())),
            ("h", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(text.parse::<Last>().map_err(|_| ()), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_older_does_not_count() {
        let line =
            |second: u8| format!("{{\"time\":\"1970-01-01T00:00:0{second}Z\",\"flow\":{{}}}}");
        let since = Time(5_000_000_000);
        for (second, before) in [(4, true), (5, false), (6, false)] {
            assert_eq!(
                is_before(line(second).as_bytes(), since),
                before,
                "{second}"
            );
        }
        assert!(!is_before(b"nonsense", since));
    }

    #[test]
    fn what_the_agent_does_not_hold_is_told() {
        let observer = |held, seen| ObserverStatus {
            current_flows: held,
            max_flows: 10,
            seen_flows: seen,
            complete_since: Time(50).to_string(),
        };
        let within = Last::Within(Duration::from_nanos(1));
        for (held, seen, last, since, told) in [
            (10, 30, Last::Count(10), 0, None),
            (
                10,
                30,
                Last::Count(11),
                0,
                Some("holds the last 10, fewer than the 11"),
            ),
            (7, 7, Last::Count(11), 0, None),
            (
                10,
                30,
                within,
                49,
                Some("reach back to 1970-01-01T00:00:00.000000050Z (10"),
            ),
            (
                7,
                7,
                within,
                49,
                Some("less far than asked: to 1970-01-01T00:00:00.000000049Z"),
            ),
            (10, 30, within, 50, None),
        ] {
            let found = lacking(&observer(held, seen), last, Time(since));
            match told {
                Some(part) => assert!(
                    found.as_ref().is_some_and(|f| f.contains(part)),
                    "{found:?}"
                ),
                None => assert_eq!(found, None),
            }
        }
    }

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
