//! Why a verb failed: what, the remedy, and the exit status.

use std::io;
use std::process::ExitCode;

use axon_cni::http;

/// Exit status: the verb failed, or found something unwell.
pub(crate) const FAILED: u8 = 1;
/// Exit status: the arguments are wrong (clap's own).
pub(crate) const USAGE: u8 = 2;
/// Exit status: no agent answers.
pub(crate) const UNREACHABLE: u8 = 3;
/// Exit status: there is no such thing.
pub(crate) const ABSENT: u8 = 4;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    remedy: String,
    code: u8,
    /// Nothing is told: whoever read the output has gone.
    silent: bool,
}

impl Failure {
    /// A failure without a known remedy.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: String::new(),
            code: FAILED,
            silent: false,
        }
    }

    /// The failure with a remedy.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The failure with another exit status.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Wrong arguments that the parser cannot see.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(what).code(USAGE)
    }

    /// Whether no agent answered.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.code == UNREACHABLE
    }

    /// What and remedy in one line, for lists of failures.
    pub(crate) fn text(&self) -> String {
        match self.remedy.as_str() {
            "" => self.what.clone(),
            remedy => format!("{}; {remedy}", self.what),
        }
    }

    /// Tells it on stderr; the exit status.
    pub(crate) fn tell(&self) -> ExitCode {
        if !self.silent {
            eprintln!("error: {}", self.what);
            if !self.remedy.is_empty() {
                eprintln!("help: {}", self.remedy);
            }
        }
        ExitCode::from(self.code)
    }
}

impl From<http::Error> for Failure {
    fn from(error: http::Error) -> Self {
        let text = error.to_string();
        match error {
            http::Error::Unreachable { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Self::new(text)
                    .remedy("run as root, or as a member of the group of the socket (axon)")
                    .code(UNREACHABLE)
            }
            http::Error::Unreachable { .. } => Self::new(text)
                .remedy(
                    "start one (`axon agent`, or `systemctl start axon-agent`), or name its socket \
                     with --socket or AXON_SOCKET",
                )
                .code(UNREACHABLE),
            http::Error::Broken { .. } => Self::new(text)
                .remedy("look at the agent's log; `axon status` tells whether it is back")
                .code(UNREACHABLE),
            http::Error::Nonsense { .. } => {
                Self::new(text).remedy("use the same version of axon as the agent's")
            }
            http::Error::Refused { status, problem } => Self::new(problem.error)
                .remedy(problem.remedy)
                .code(if status == 404 { ABSENT } else { FAILED }),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            silent: error.kind() == io::ErrorKind::BrokenPipe,
            ..Self::new(error.to_string())
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let absent = error.downcast_ref::<axon_lab::Absent>().is_some();
        Self::new(format!("{error:#}")).code(if absent { ABSENT } else { FAILED })
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(kind) => io::Error::from(kind).into(),
            None => Self::new(error.to_string()),
        }
    }
}
