//! A double of the agent: answers as its script says, and remembers what it
//! was asked. What the real agent does with these requests is tested in the
//! lab; here it is the plugin's side of the contract.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use serde_json::Value;

/// A request as it came.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    /// `PUT /v1/endpoint`.
    pub(crate) line: String,
    pub(crate) body: Value,
}

/// Serves one answer a connection, in order; then hangs up on everyone.
pub(crate) fn serve(socket: &Path, answers: Vec<(u16, Value)>) -> Receiver<Request> {
    let listener = UnixListener::bind(socket).expect("socket");
    let (sender, requests) = channel();
    thread::spawn(move || {
        for (status, body) in answers {
            let Ok((stream, _)) = listener.accept() else {
                return;
            };
            answer(stream, status, &body, &sender);
        }
    });
    requests
}

fn answer(stream: UnixStream, status: u16, body: &Value, requests: &Sender<Request>) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("line");
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let length = head
        .iter()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |n| n.parse().expect("length"));
    let mut content = vec![0; length];
    reader.read_exact(&mut content).expect("body");
    let line = head.first().cloned().unwrap_or_default();
    let _ = requests.send(Request {
        line: line.trim_end_matches(" HTTP/1.1").to_owned(),
        body: serde_json::from_slice(&content).unwrap_or(Value::Null),
    });
    let text = body.to_string();
    let _ = write!(
        reader.get_mut(),
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
}

/// What the plugin answered.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    /// Null if nothing was printed.
    pub(crate) body: Value,
}

/// Runs the built plugin with nothing but this environment.
pub(crate) fn plugin(environment: &[(&str, &str)], stdin: &[u8]) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_axon-cni"))
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the built plugin");
    // A plugin that refuses early may not read everything.
    let _ = child.stdin.take().expect("stdin").write_all(stdin);
    let output = child.wait_with_output().expect("output");
    let body = match output.stdout.as_slice() {
        [] => Value::Null,
        text => serde_json::from_slice(text).expect("one JSON text on stdout"),
    };
    Outcome {
        status: output.status.code().expect("exit status"),
        body,
    }
}

/// A directory with a place for the agent's socket.
pub(crate) fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("axon.sock");
    (dir, socket)
}
