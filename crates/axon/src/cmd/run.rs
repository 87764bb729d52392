//! `axon run`.

use std::ffi::OsString;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{SystemTime, UNIX_EPOCH};

use axon_api::agent::{EndpointCreate, EndpointCreated, EndpointDelete};
use axon_cni::http::Client;
use axon_linux::process::{self, Place, Signal};
use axon_model::Label;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Connection;
use crate::failure::Failure;

/// The device inside, as pods have it.
const INTERFACE: &str = "eth0";
/// The shells' exit statuses of a command that cannot be started.
const NOT_STARTED: u8 = 126;
/// The shells' exit statuses of a command that is not there.
const NOT_FOUND: u8 = 127;

/// Arguments of `axon run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// A label, `[source:]key=value`; may be given several times.
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// The namespace whose policies select the command, as they select its
    /// pods; an empty one is none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// A name for lists of endpoints and for flows [default: that of the
    /// command].
    #[arg(long)]
    name: Option<String>,
    /// An address to ask for; one of each family.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<std::net::IpAddr>,
    /// Tell on stderr what the command was given.
    #[arg(short, long)]
    verbose: bool,
    /// The command and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let client = args.connection.client();
    let namespace = axon_linux::netns::create_anonymous().map_err(|error| {
        Failure::new(format!("network namespace: {error}")).remedy("run as root")
    })?;
    // By our own descriptor: when we are gone, so is the path.
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let process_name = process_name(args);
    let attachment = EndpointDelete {
        container_id: container_id(&process_name),
        interface: INTERFACE.to_owned(),
    };
    let order = EndpointCreate {
        container_id: attachment.container_id.clone(),
        interface: attachment.interface.clone(),
        netns: path.clone(),
        namespace: args.namespace.clone(),
        process_name,
        labels: args.labels.iter().cloned().collect(),
        ips: args.ip.clone(),
        ..EndpointCreate::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // From here on a signal is for the command; what is made is taken away.
    let result = runtime.block_on(async {
        let signals = Signals::new()?;
        let created: EndpointCreated = client.json("PUT", "/v1/endpoint", Some(&order))?;
        if args.verbose {
            tell(&created);
        }
        let place = Place {
            netns: Some(path.into()),
            dies_with_parent: true,
            ..Place::default()
        };
        Ok(watch(start(args, &place), signals).await)
    });
    take_away(&client, &attachment);
    result
}

/// What lists and flows call the command, in the characters that container ids
/// may have.
fn process_name(args: &Args) -> String {
    let command = args.command.first().map(std::path::Path::new);
    let name = match &args.name {
        Some(name) => name.clone(),
        None => command
            .and_then(|c| c.file_name())
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect()
}

/// Unique on the node.
fn container_id(name: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // Process ids come again; together with the time they do not.
    format!("run-{name}-{}-{:x}", std::process::id(), now.as_millis())
}

fn tell(created: &EndpointCreated) {
    let v4 = created.ipv4.map(|a| a.to_string());
    let v6 = created.ipv6.map(|a| a.to_string());
    let addresses: Vec<String> = v4.into_iter().chain(v6).collect();
    eprintln!(
        "endpoint {}, identity {}, {}",
        created.id,
        created.identity,
        addresses.join(", ")
    );
}

fn start(args: &Args, place: &Place) -> std::io::Result<Child> {
    let (program, arguments) = args
        .command
        .split_first()
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments);
    process::spawn(command, place)
}

/// The signals that are handed on.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one to hand on. An interrupt from the terminal reaches the
    /// command by itself: it is of the same group.
    async fn next(&mut self) -> Signal {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Signal::Term,
                _ = self.hangup.recv() => return Signal::Hangup,
                _ = self.interrupt.recv() => {}
            }
        }
    }
}

/// Waits for the command's end; its exit status.
async fn watch(started: std::io::Result<Child>, mut signals: Signals) -> ExitCode {
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            eprintln!("error: {error}");
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            return ExitCode::from(if missing { NOT_FOUND } else { NOT_STARTED });
        }
    };
    let pid = child.id();
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            status = &mut ended => return match status {
                Ok(Ok(status)) => exit_code(status),
                Ok(Err(_)) | Err(_) => ExitCode::FAILURE,
            },
            signal = signals.next() => {
                let _ = process::signal(pid, signal);
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    ExitCode::from(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}

/// Takes the endpoint away; written down for the agent if it is away.
fn take_away(client: &Client, attachment: &EndpointDelete) {
    match client.done("DELETE", "/v1/endpoint", Some(attachment)) {
        Ok(()) => {}
        Err(error) if error.is_away() => {
            if let Err(error) = axon_cni::postpone(client.socket(), attachment) {
                eprintln!(
                    "warning: endpoint {} stays: {error}",
                    attachment.container_id
                );
            }
        }
        Err(error) => eprintln!(
            "warning: endpoint {} stays: {error}",
            attachment.container_id
        ),
    }
}
