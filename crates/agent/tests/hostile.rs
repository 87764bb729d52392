//! Requests that nobody should send, to an agent that lives on.
//!
//! What the bodies say is the fuzzer's affair (`fuzz/src/request.rs`); here the
//! whole way is taken, from the socket on. Needs root.

#[expect(dead_code, reason = "a part of it is used here")]
mod bench;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bench::{Bench, agent_process, is_root};

/// Not a test of its own: the agent of the others, if they say so.
#[test]
fn agent() {
    agent_process();
}

/// Time for an answer; an agent that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends bytes, and says what came back until the agent closed the connection
/// or the answer's head was whole. With `end` nothing follows: whoever leaves
/// so gets no answer to what the agent is still at, but waits for nothing.
fn answer(socket: &Path, bytes: &[u8], end: bool) -> String {
    let mut stream = UnixStream::connect(socket).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // An agent that has refused already need not read on.
    let sent = stream.write_all(bytes);
    if end {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => text.extend(part.iter().take(n)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no answer: {}", String::from_utf8_lossy(bytes));
            }
            // Closed with our bytes unread.
            Err(_) => break,
        }
        if text.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    drop(sent);
    String::from_utf8_lossy(&text).into_owned()
}

/// The status of an answer; 0 if the agent has only closed the connection.
fn status(socket: &Path, bytes: &[u8], end: bool) -> u16 {
    let text = answer(socket, bytes, end);
    let mut words = text.split(' ');
    words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn request(line: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{line} HTTP/1.1\r\nHost: axon\r\nConnection: close\r\n{fields}\r\n");
    [head.as_bytes(), body].concat()
}

fn with_body(line: &str, body: &[u8]) -> Vec<u8> {
    request(line, &format!("Content-Length: {}\r\n", body.len()), body)
}

#[test]
fn no_request_harms_the_agent() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut bench = Bench::new("hostile");
    bench.manifest("base.yaml", &bench.base(&["a"]));
    bench.start();
    bench.add("a");
    let socket = bench.path("axon.sock");
    told_apart(&socket);
    unread(&socket);
    corpus(&socket);
    noise(&socket);
    silent(&socket, &bench);
    let endpoints = bench.get("/v1/endpoint");
    assert_eq!(endpoints.matches("container-interface-name").count(), 1);
    assert!(endpoints.contains("container-a"), "{endpoints}");
    assert_eq!(bench.delete("a"), 200);
    assert_eq!(bench.get("/v1/endpoint"), "[]");
}

/// Wrong requests, each refused for what it is.
fn told_apart(socket: &Path) {
    let body = |text: &str| with_body("PUT /v1/endpoint", text.as_bytes());
    let order = |container: &str, interface: &str, netns: &str| {
        body(&format!(
            r#"{{"container-id":"{container}","interface":"{interface}","netns":"{netns}"}}"#
        ))
    };
    let path = |path: &str| request(&format!("GET {path}"), "", b"");
    for (name, bytes, expected) in [
        ("no JSON", body("{"), 400),
        ("deep JSON", body(&"[".repeat(100_000)), 400),
        ("no text", with_body("PUT /v1/endpoint", &[0xff; 64]), 400),
        (
            "a path for a container",
            order("../../x", "eth0", "/n"),
            400,
        ),
        ("a path for a device", order("x", "../eth0", "/n"), 400),
        ("a device too long", order("x", &"e".repeat(16), "/n"), 400),
        ("a relative namespace", order("x", "eth0", "n"), 400),
        ("an unknown path", path("/v1/../../etc/passwd"), 404),
        ("an unknown map", path("/v1/map/%2e%2e%2fetc"), 404),
        ("an id that is none", path("/v1/endpoint/%00%ff"), 400),
        ("an id of no endpoint", path("/v1/endpoint/65535"), 404),
        ("an id too great", path("/v1/endpoint/65536"), 400),
        (
            "too many flows",
            path("/v1/monitor?last=99999999999999999999"),
            400,
        ),
        ("a filter that is none", path("/v1/monitor?x=y"), 400),
        (
            "an identity too great",
            path("/v1/identity/4294967296"),
            400,
        ),
        ("another method", request("BREW /v1/endpoint", "", b""), 405),
        (
            "a body of 5 MiB",
            with_body("PUT /v1/endpoint", &vec![b' '; 5 << 20]),
            413,
        ),
        (
            "all flows that are there",
            path("/v1/monitor?last=18446744073709551615&follow=false"),
            200,
        ),
    ] {
        assert_eq!(status(socket, &bytes, false), expected, "{name}");
    }
    // What is no namespace is found out before anything is made.
    for netns in [
        "/etc/passwd",
        "/dev/null",
        "/",
        "/proc/self/ns/mnt",
        "/no/such",
    ] {
        let refused = status(socket, &order("x", "eth0", netns), false);
        assert!((400..600).contains(&refused), "{netns}: {refused}");
    }
}

/// What is no HTTP, or never ends: refused, or the connection is closed.
fn unread(socket: &Path) {
    let fields: String = (0..2000).map(|n| format!("x{n}: y\r\n")).collect();
    for (name, bytes) in [
        ("nothing", Vec::new()),
        ("another protocol", b"\x16\x03\x01\x02\x00\x01\x00".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("zeros", vec![0; 100_000]),
        ("a line without end", vec![b'A'; 2 << 20]),
        ("many fields", request("GET /v1/healthz", &fields, b"")),
        (
            "a field of 2 MiB",
            request(
                "GET /v1/healthz",
                &format!("x: {}\r\n", "y".repeat(2 << 20)),
                b"",
            ),
        ),
        (
            "two lengths",
            request(
                "PUT /v1/endpoint",
                "Content-Length: 1\r\nContent-Length: 2\r\n",
                b"{}",
            ),
        ),
        (
            "a length that is none",
            request("PUT /v1/endpoint", "Content-Length: -1\r\n", b"{}"),
        ),
        (
            "a chunk that is none",
            request(
                "PUT /v1/endpoint",
                "Transfer-Encoding: chunked\r\n",
                b"zz\r\n",
            ),
        ),
        (
            "a chunk too large",
            request(
                "PUT /v1/endpoint",
                "Transfer-Encoding: chunked\r\n",
                b"ffffffffffffffff\r\n{",
            ),
        ),
    ] {
        let status = status(socket, &bytes, true);
        assert!(
            status == 0 || (400..500).contains(&status),
            "{name}: {status}"
        );
    }
}

/// The fuzzer's requests, as whole ones.
fn corpus(socket: &Path) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/request");
    for entry in fs::read_dir(folder).expect("the corpus").flatten() {
        let data = fs::read(entry.path()).expect("an input");
        let end = data.iter().position(|byte| *byte == b'\n');
        let (line, body) = data.split_at(end.unwrap_or(data.len()));
        let line = String::from_utf8_lossy(line);
        // A monitor has no end, a GC may take away what is there, and what is no line of HTTP has
        // its own test.
        if line.contains("/monitor")
            || line.contains("/gc")
            || !line.bytes().all(|c| (b' '..=b'~').contains(&c))
        {
            continue;
        }
        let bytes = with_body(&line, body.strip_prefix(b"\n").unwrap_or(body));
        let text = answer(socket, &bytes, false);
        assert!(text.starts_with("HTTP/1.1 "), "{line}: {text:?}");
        assert!(!text.contains(" 201 "), "{line} made an endpoint");
    }
}

/// Spoilt requests, always the same ones.
fn noise(socket: &Path) {
    let good = with_body(
        "PUT /v1/endpoint",
        br#"{"container-id":"x","interface":"eth0","netns":"/no/such"}"#,
    );
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..1 + random(4) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = random(256) as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"\r\n:{}\"/%\0 "[random(10)]),
            }
        }
        let text = answer(socket, &bytes, true);
        assert!(!text.contains(" 201 "), "{text}");
    }
}

/// Whoever connects and says nothing, or half of something, keeps nobody else
/// from being served.
fn silent(socket: &Path, bench: &Bench) {
    // Half of them are more than the requests that are worked on at a time.
    let silent: Vec<UnixStream> = (0..600)
        .map(|n| {
            let mut stream = UnixStream::connect(socket).expect("the agent listens");
            if n % 2 == 0 {
                stream
                    .write_all(b"PUT /v1/endpoint HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
                    .expect("sent");
            }
            stream
        })
        .collect();
    bench.get("/v1/healthz");
    drop(silent);
}
