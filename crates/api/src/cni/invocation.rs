//! What the runtime says through the environment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Error, ErrorCode, SpecVersion};
use crate::agent::CONTAINER_ID_MAX;

/// Letters of a device's name (IFNAMSIZ without the closing zero).
const IFNAME_CHARS_MAX: usize = 15;

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it still as it was connected?
    Check,
    /// Could ADD be served?
    Status,
    /// Remove what no container needs any more.
    Gc,
    /// Which versions are spoken?
    Version,
}

impl Command {
    const NAMES: [(&'static str, Self); 6] = [
        ("ADD", Self::Add),
        ("DEL", Self::Del),
        ("CHECK", Self::Check),
        ("STATUS", Self::Status),
        ("GC", Self::Gc),
        ("VERSION", Self::Version),
    ];

    /// The first version of the specification that has it.
    pub fn since(self) -> SpecVersion {
        match self {
            Self::Add | Self::Del | Self::Version => SpecVersion::V0_3_0,
            Self::Check => SpecVersion::V0_4_0,
            Self::Status | Self::Gc => SpecVersion::V1_1_0,
        }
    }

    /// Whether it is about one container.
    fn has_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Self::NAMES.iter().find(|(_, command)| command == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// `CNI_ARGS`: what the runtime says beyond the specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`; of a pod without one (podman names none), the one
    /// that Kubernetes puts pods without one into.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`.
    pub pod_uid: String,
    /// `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container_id: String,
    /// `IP`: addresses asked for, separated by commas.
    pub ips: Vec<IpAddr>,
    /// `IP_ONLY`: those alone, and none of a family that is not among them.
    pub ips_only: bool,
    /// The rest.
    pub others: BTreeMap<String, String>,
}

impl Args {
    /// Reads `KEY=value;KEY=value`.
    ///
    /// # Errors
    /// Code 4: a pair without `=`, an address that is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid("CNI_ARGS", pair, "KEY=value;KEY=value"));
            };
            let value = value.to_owned();
            match key {
                "K8S_POD_NAMESPACE" => args.pod_namespace = value,
                "K8S_POD_NAME" => args.pod_name = value,
                "K8S_POD_UID" => args.pod_uid = value,
                "K8S_POD_INFRA_CONTAINER_ID" => args.infra_container_id = value,
                "IP" => args.ips = addresses(&value)?,
                "IP_ONLY" => {
                    let expected = || invalid("CNI_ARGS IP_ONLY", &value, "true or false");
                    args.ips_only = value.parse().map_err(|_| expected())?;
                }
                other => {
                    args.others.insert(other.to_owned(), value);
                }
            }
        }
        if args.pod_namespace.is_empty() && !args.pod_name.is_empty() {
            "default".clone_into(&mut args.pod_namespace);
        }
        Ok(args)
    }
}

fn addresses(list: &str) -> Result<Vec<IpAddr>, Error> {
    list.split(',')
        .filter(|text| !text.is_empty())
        .map(|text| {
            // Some runtimes give a prefix length along.
            let bare = text.split('/').next().unwrap_or_default();
            bare.parse()
                .map_err(|_| invalid("CNI_ARGS IP", text, "addresses separated by commas"))
        })
        .collect()
}

/// One call of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for STATUS, GC, VERSION.
    pub container_id: String,
    /// `CNI_NETNS`; empty where it may be (DEL, STATUS, GC, VERSION).
    pub netns: String,
    /// `CNI_IFNAME`; empty for STATUS, GC, VERSION.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Args,
    /// `CNI_PATH`, by directory.
    pub path: Vec<String>,
}

impl Invocation {
    /// Reads the variables.
    ///
    /// # Errors
    /// Code 4, naming the variable, its value and what was expected.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let value = |name: &str| var(name).unwrap_or_default();
        let text = value("CNI_COMMAND");
        let known = Command::NAMES.iter().find(|(name, _)| *name == text);
        let Some((_, command)) = known else {
            return Err(invalid(
                "CNI_COMMAND",
                &text,
                "ADD, DEL, CHECK, STATUS, GC or VERSION",
            ));
        };
        let mut invocation = Self {
            command: *command,
            container_id: String::new(),
            netns: String::new(),
            ifname: String::new(),
            args: Args::default(),
            path: Vec::new(),
        };
        if *command == Command::Version {
            return Ok(invocation);
        }
        let path = value("CNI_PATH");
        let directories = path.split(':').filter(|directory| !directory.is_empty());
        invocation.path = directories.map(str::to_owned).collect();
        if command.has_container() {
            invocation.container_id = container_id(value("CNI_CONTAINERID"))?;
            invocation.ifname = ifname(value("CNI_IFNAME"))?;
            invocation.netns = value("CNI_NETNS");
            if invocation.netns.is_empty() && *command != Command::Del {
                return Err(invalid("CNI_NETNS", "", "the path of a network namespace"));
            }
            invocation.args = Args::parse(&value("CNI_ARGS"))?;
        }
        Ok(invocation)
    }

    /// Whether the version of the network configuration has this command.
    ///
    /// # Errors
    /// Code 1.
    pub fn check_version(&self, version: SpecVersion) -> Result<(), Error> {
        if version >= self.command.since() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::IncompatibleVersion,
            format!(
                "{} needs CNI version {} or later; the network configuration has {version}",
                self.command,
                self.command.since()
            ),
        ))
    }
}

fn container_id(text: String) -> Result<String, Error> {
    let first = text
        .bytes()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
    if first && text.len() <= CONTAINER_ID_MAX && text.bytes().all(rest) {
        return Ok(text);
    }
    Err(invalid(
        "CNI_CONTAINERID",
        &text,
        &format!(
            "at most {CONTAINER_ID_MAX} letters, digits, '_', '.' and '-', a letter or digit first"
        ),
    ))
}

fn ifname(text: String) -> Result<String, Error> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    let good = (1..=IFNAME_CHARS_MAX).contains(&text.len()) && !text.contains(bad);
    if good && text != "." && text != ".." {
        return Ok(text);
    }
    Err(invalid(
        "CNI_IFNAME",
        &text,
        "1 to 15 letters without '/', ':' and white space",
    ))
}

fn invalid(name: &str, value: &str, expected: &str) -> Error {
    let msg = match value {
        "" => format!("{name} is missing; expected {expected}"),
        value => format!("{name} is {value:?}; expected {expected}"),
    };
    Error::new(ErrorCode::InvalidEnvironment, msg)
}
