use std::io::{BufRead, Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use super::{Client, Error, escape};

/// A client of a server that answers one request with these bytes (a double:
/// the real agent's server is tested with the agent).
fn served(answer: &'static [u8]) -> (tempfile::TempDir, Client, thread::JoinHandle<String>) {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).expect("socket");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connection");
        let mut request = [0; 4096];
        let read = stream.read(&mut request).expect("request");
        stream.write_all(answer).expect("answer");
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    (dir, Client::new(socket, Duration::from_secs(20)), server)
}

#[test]
fn bodies_of_every_kind_are_read() {
    for (name, answer) in [
        ("length", &b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1,2,3]"[..]),
        ("until close", b"HTTP/1.1 200 OK\r\n\r\n[1,2,3]"),
        (
            "chunks",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n[1,\r\n4\r\n2,3]\r\n0\r\n\r\n",
        ),
    ] {
        let (_dir, client, server) = served(answer);
        let numbers: Vec<u8> = client.get("/v1/x?a=b").expect(name);
        assert_eq!(numbers, [1, 2, 3], "{name}");
        let request = server.join().expect("server");
        assert!(request.starts_with("GET /v1/x?a=b HTTP/1.1\r\n"), "{request}");
    }
}

#[test]
fn streams_are_read_as_they_come() {
    let (_dir, client, server) =
        served(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n4\r\nb\nc\n\r\n0\r\n\r\n");
    let lines: Vec<String> = client
        .stream("/v1/monitor")
        .expect("stream")
        .lines()
        .map(|line| line.expect("line"))
        .collect();
    assert_eq!(lines, ["a", "b", "c"]);
    server.join().expect("server");
}

#[test]
fn what_makes_no_sense_is_an_error() {
    for (answer, expected) in [
        (&b""[..], "broke"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1]", "broke"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n[1]", "length"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n[1]",
            "gzip",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "broke",
        ),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no sense"),
        (b"HTTP/1.1 200 OK\r\n\r\nnothing", "no sense"),
        (b"HTTP/1.1 500 No\r\n\r\nbroken pipe", "broken pipe"),
    ] {
        let (_dir, client, server) = served(answer);
        let error = client.get::<Vec<u8>>("/").expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        server.join().expect("server");
    }
}

#[test]
fn problems_are_passed_on() {
    let (_dir, client, server) = served(
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 35\r\n\r\n{\"error\":\"none\",\"remedy\":\"look up\"}",
    );
    let error = client.done("DELETE", "/", Some(&1)).expect_err("problem");
    assert!(
        matches!(&error, Error::Refused { status: 404, problem } if problem.remedy == "look up"),
        "{error:?}"
    );
    assert!(!error.is_away());
    server.join().expect("server");
}

#[test]
fn an_agent_that_is_not_there_is_away() {
    let client = Client::new("/nonexistent/axon.sock", Duration::from_secs(1));
    let error = client.get_text("/").expect_err("nobody");
    assert!(error.is_away());
    assert!(
        error.to_string().contains("/nonexistent/axon.sock"),
        "{error}"
    );
}

#[test]
fn an_agent_that_hangs_is_given_up() {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("s");
    let _listener = UnixListener::bind(&socket).expect("socket");
    let client = Client::new(socket, Duration::from_millis(50));
    assert!(client.get_text("/").expect_err("silence").is_away());
}

#[test]
fn paths_are_escaped() {
    assert_eq!(escape("cep-name:a/b c"), "cep-name:a%2Fb%20c");
}
