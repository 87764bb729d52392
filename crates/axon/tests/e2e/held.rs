//! A TCP connection that is kept busy, and what becomes of it.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use crate::support::{Lab, PATIENCE};

/// A client that keeps one TCP connection to the server busy.
pub(crate) struct Held {
    what: String,
    child: Child,
    /// When each answer came; closed when the client has ended.
    answers: Receiver<Instant>,
}

impl Held {
    /// Opens the connection and waits for the first answer on it. Without an
    /// answer for `wait` milliseconds the client gives up.
    pub(crate) fn open(lab: &Lab, pod: &str, to: &str, wait: &str) -> Self {
        let args = [
            "axon", "lab", "connect", "tcp", to, "--hold", "--count", "0",
        ];
        let more = ["--interval-ms", "10", "--timeout-ms", wait];
        let mut child = lab.start(pod, &[&args[..], &more[..]].concat());
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (seen, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if line.ends_with(": answered") && seen.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        let held = Self {
            what: format!("{pod} to {to}"),
            child,
            answers,
        };
        held.next_answer();
        held
    }

    /// Who talks to whom, for messages.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Waits for one more answer.
    fn next_answer(&self) {
        if let Err(error) = self.answers.recv_timeout(PATIENCE) {
            panic!("{}: no answer on the connection: {error}", self.what);
        }
    }

    /// Forgets the answers so far, and waits for a new one: it came after
    /// whatever happened before the call.
    pub(crate) fn goes_on(&self) {
        while self.answers.try_recv().is_ok() {}
        // This one may have been under way already, the one after it was not.
        self.next_answer();
        self.next_answer();
    }

    /// Waits until the client has given up, and tells when the last answer
    /// came.
    pub(crate) fn last_answer(mut self) -> Option<Instant> {
        let end = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(at) => last = Some(at),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{}: neither goes on nor ends", self.what),
            }
            assert!(Instant::now() < end, "{}: goes on", self.what);
        }
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.code(), Some(2), "{}: cut is silence", self.what);
        last
    }

    /// Ends the client.
    pub(crate) fn close(mut self) {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it ends");
    }
}
