//! The commands of the specification.

use std::io::Read;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use axon_api::agent::{
    DEFAULT_SOCKET, EndpointCheck, EndpointCreate, EndpointCreated, EndpointDelete, EndpointGc,
    State, Status,
};
use axon_api::cni::{
    Command, Error, ErrorCode, Interface, Invocation, Ip, NetConf, Route, Success, version_info,
};
use serde_json::Value;

use crate::http::{self, Client};
use crate::{log, postpone};

/// Bytes of a network configuration, at most.
const STDIN_MAX: u64 = 1024 * 1024;
/// Our own code: the agent refused for a reason that no code has.
const REFUSED: ErrorCode = ErrorCode::Plugin(100);
/// Our own code: CHECK found a difference.
const DIFFERS: ErrorCode = ErrorCode::Plugin(101);

/// How long the plugin waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// For an agent that is away, on ADD.
    pub agent: Duration,
    /// Between two attempts.
    pub pause: Duration,
    /// For an answer.
    pub answer: Duration,
    /// For the answer to DEL, which an agent that hangs gets in writing.
    pub del: Duration,
}

impl Default for Waiting {
    /// An agent that is being restarted is waited for; runtimes give a plugin
    /// a minute or more.
    fn default() -> Self {
        Self {
            agent: Duration::from_secs(5),
            pause: Duration::from_millis(100),
            answer: Duration::from_secs(30),
            del: Duration::from_secs(5),
        }
    }
}

/// What goes to the runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What is printed, if anything.
    pub body: Option<Value>,
    /// Whether the exit status is 0.
    pub success: bool,
}

/// One call of the plugin.
#[derive(Debug)]
pub struct Plugin<E> {
    variable: E,
    waiting: Waiting,
}

impl<E: Fn(&str) -> Option<String>> Plugin<E> {
    /// A call with this environment.
    pub fn new(variable: E, waiting: Waiting) -> Self {
        Self { variable, waiting }
    }

    /// Carries the call out.
    pub fn run(&self, stdin: impl Read) -> Answer {
        let mut input = Vec::new();
        let read = stdin.take(STDIN_MAX + 1).read_to_end(&mut input);
        let asked = NetConf::asked_version(&input);
        let result = match read {
            Err(error) => Err(Error::new(
                ErrorCode::IoFailure,
                format!("network configuration (stdin): {error}"),
            )),
            Ok(_) if input.len() as u64 > STDIN_MAX => Err(Error::new(
                ErrorCode::DecodingFailure,
                format!("network configuration is longer than {STDIN_MAX} bytes"),
            )),
            Ok(_) => self.carry_out(&input, &asked),
        };
        match result {
            Ok(body) => Answer {
                body,
                success: true,
            },
            Err(error) => Answer {
                // In the version asked for, if it is one; else in the newest.
                body: Some(error.to_json(asked.parse().unwrap_or_default())),
                success: false,
            },
        }
    }

    fn carry_out(&self, input: &[u8], asked: &str) -> Result<Option<Value>, Error> {
        let invocation = Invocation::from_env(&self.variable)?;
        if invocation.command == Command::Version {
            return Ok(Some(version_info(asked)));
        }
        let conf = NetConf::parse(input)?;
        invocation.check_version(conf.cni_version)?;
        let socket = match conf.api_socket.as_str() {
            "" => DEFAULT_SOCKET,
            socket => socket,
        };
        let answer = match invocation.command {
            Command::Del => self.waiting.del,
            _ => self.waiting.answer,
        };
        let call = Call {
            client: Client::new(socket, answer),
            waiting: self.waiting,
            invocation,
            conf,
        };
        let result = call.carry_out();
        call.log(result.as_ref().err());
        result
    }
}

/// A call whose arguments are read.
struct Call {
    client: Client,
    waiting: Waiting,
    invocation: Invocation,
    conf: NetConf,
}

impl Call {
    fn carry_out(&self) -> Result<Option<Value>, Error> {
        let version = self.conf.cni_version;
        match self.invocation.command {
            Command::Add => Ok(Some(self.add()?.to_json(version))),
            Command::Del => self.del().map(|()| None),
            Command::Check => self.check().map(|()| None),
            Command::Status => self.status().map(|()| None),
            Command::Gc => self.gc().map(|()| None),
            Command::Version => Ok(Some(version_info(&version.to_string()))),
        }
    }

    fn add(&self) -> Result<Success, Error> {
        let call = &self.invocation;
        let before = self.conf.prev_result.clone().unwrap_or_default();
        let taken = |i: &Interface| i.name == call.ifname && i.sandbox == call.netns;
        if before.interfaces.iter().any(taken) {
            return Err(Error::new(
                ErrorCode::InvalidNetworkConfig,
                format!(
                    "prevResult: a plugin before this one has made {} in {}; \
                     expected axon-cni to make it",
                    call.ifname, call.netns
                ),
            ));
        }
        let order = EndpointCreate {
            container_id: call.container_id.clone(),
            interface: call.ifname.clone(),
            netns: call.netns.clone(),
            namespace: call.args.pod_namespace.clone(),
            pod_name: call.args.pod_name.clone(),
            pod_uid: call.args.pod_uid.clone(),
            ips: call.args.ips.clone(),
            ips_only: call.args.ips_only,
            mtu: self.conf.mtu,
            ..EndpointCreate::default()
        };
        let created = self
            .patiently(|| {
                self.client
                    .json::<EndpointCreated>("PUT", "/v1/endpoint", Some(&order))
            })
            .map_err(refusal)?;
        Ok(before.merge(success(&created, &call.netns)))
    }

    fn del(&self) -> Result<(), Error> {
        let order = EndpointDelete {
            container_id: self.invocation.container_id.clone(),
            interface: self.invocation.ifname.clone(),
        };
        match self.client.done("DELETE", "/v1/endpoint", Some(&order)) {
            Ok(()) => Ok(()),
            Err(error) if error.is_away() => self.postpone(&order),
            Err(http::Error::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(refusal(error)),
        }
    }

    fn postpone(&self, order: &EndpointDelete) -> Result<(), Error> {
        postpone(self.client.socket(), order)
            .map(drop)
            .map_err(|error| {
                Error::new(ErrorCode::IoFailure, error.to_string())
                    .with_details("the agent is away, and DEL could not be written down for it")
            })
    }

    fn check(&self) -> Result<(), Error> {
        let Some(result) = &self.conf.prev_result else {
            return Err(Error::new(
                ErrorCode::InvalidNetworkConfig,
                "prevResult is missing; expected what ADD answered",
            ));
        };
        let call = &self.invocation;
        let order = EndpointCheck {
            container_id: call.container_id.clone(),
            interface: call.ifname.clone(),
            netns: call.netns.clone(),
            ips: addresses_of(result, &call.ifname),
        };
        match self.client.done("POST", "/v1/endpoint/check", Some(&order)) {
            Ok(()) => Ok(()),
            Err(http::Error::Refused {
                status: 409,
                problem,
            }) => Err(Error::new(DIFFERS, problem.error).with_details(problem.remedy)),
            Err(error) => Err(refusal(error)),
        }
    }

    fn status(&self) -> Result<(), Error> {
        match self.client.get::<Status>("/v1/healthz") {
            Ok(status) if status.cilium.state < State::Failure => Ok(()),
            Ok(status) => Err(
                Error::new(ErrorCode::NotAvailable, status.cilium.msg).with_details(
                    match status.cilium.remedy.as_str() {
                        "" => "see `axon status`",
                        remedy => remedy,
                    },
                ),
            ),
            Err(error) => Err(Error::new(ErrorCode::NotAvailable, error.to_string())),
        }
    }

    fn gc(&self) -> Result<(), Error> {
        // No list is not an empty list: on its word everything would go.
        let Some(valid) = &self.conf.valid_attachments else {
            return Err(Error::new(
                ErrorCode::InvalidNetworkConfig,
                "cni.dev/valid-attachments is missing; expected the attachments that stay",
            ));
        };
        let order = EndpointGc {
            valid: valid
                .iter()
                .map(|attachment| EndpointDelete {
                    container_id: attachment.container_id.clone(),
                    interface: attachment.ifname.clone(),
                })
                .collect(),
        };
        self.client
            .done("POST", "/v1/endpoint/gc", Some(&order))
            .map_err(refusal)
    }

    /// Asks again while the agent is away, for a while.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, http::Error>) -> Result<T, http::Error> {
        let deadline = Instant::now() + self.waiting.agent;
        loop {
            match ask() {
                Err(error) if error.is_away() && Instant::now() < deadline => {
                    thread::sleep(self.waiting.pause);
                }
                answer => return answer,
            }
        }
    }

    fn log(&self, error: Option<&Error>) {
        let call = &self.invocation;
        let outcome = match error {
            Some(error) => format!("error {}: {error} {}", error.code.number(), error.details),
            None if !self.conf.enable_debug => return,
            None => "done".to_owned(),
        };
        log::line(
            &self.conf.log_file,
            &format!(
                "{:?} container={} interface={} netns={} pod={}/{}: {outcome}",
                call.command,
                call.container_id,
                call.ifname,
                call.netns,
                call.args.pod_namespace,
                call.args.pod_name
            ),
        );
    }
}

/// What the agent's refusal is in the specification's codes.
fn refusal(error: http::Error) -> Error {
    let text = error.to_string();
    let (code, details) = match error {
        http::Error::Unreachable { .. } | http::Error::Broken { .. } => (
            ErrorCode::TryAgainLater,
            "start the agent (`axon agent`); `axon status` tells how it does".to_owned(),
        ),
        http::Error::Nonsense { .. } => (
            REFUSED,
            "plugin and agent are of different versions".to_owned(),
        ),
        http::Error::Refused { status, problem } => {
            let code = match status {
                400 => ErrorCode::InvalidNetworkConfig,
                404 => ErrorCode::UnknownContainer,
                429 | 503 => ErrorCode::TryAgainLater,
                _ => REFUSED,
            };
            (code, problem.remedy)
        }
    };
    Error::new(code, text).with_details(details)
}

/// What ADD answers of an endpoint.
fn success(created: &EndpointCreated, netns: &str) -> Success {
    let host = Interface::new(&created.host_interface, created.host_mac, "", created.mtu);
    let inside = Interface::new(&created.interface, created.mac, netns, created.mtu);
    let ipv4 = created
        .ipv4
        .map(|address| (address.into(), created.ipv4_gateway.map(IpAddr::V4)));
    let ipv6 = created
        .ipv6
        .map(|address| (address.into(), created.ipv6_gateway.map(IpAddr::V6)));
    let mut success = Success {
        interfaces: vec![host, inside],
        ..Success::default()
    };
    for (address, gateway) in [ipv4, ipv6].into_iter().flatten() {
        let address: IpAddr = address;
        success.ips.push(Ip {
            address: address.into(),
            gateway,
            interface: Some(1),
        });
        success.routes.push(Route {
            gw: gateway,
            ..Route::new(default_route(address))
        });
    }
    success
}

/// Everything of an address's family.
fn default_route(of: IpAddr) -> ipnet::IpNet {
    match of {
        IpAddr::V4(_) => ipnet::Ipv4Net::default().into(),
        IpAddr::V6(_) => ipnet::Ipv6Net::default().into(),
    }
}

/// The addresses of our device in the result of a chain.
fn addresses_of(result: &Success, ifname: &str) -> Vec<IpAddr> {
    let ours = |index: usize| {
        let interface = result.interfaces.get(index);
        interface.is_some_and(|i| i.name == ifname && !i.sandbox.is_empty())
    };
    let ips = result.ips.iter();
    ips.filter(|ip| ip.interface.is_some_and(ours))
        .map(|ip| ip.address.addr())
        .collect()
}
