//! `axon sysdump`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use axon_api::agent::{DEFAULT_BPF_ROOT, Status};
use axon_api::maps::MapName;
use axon_hubble::Time;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use crate::client::Common;
use crate::failure::Failure;
use crate::output::print;

/// Bytes of one file in the archive, at most; of a log the last ones.
const FILE_MAX: u64 = 64 * 1024 * 1024;
/// Flows in the archive, at most.
const FLOWS: usize = 10_000;

/// What the agent is asked: file in the archive, path of the API.
const API: [(&str, &str); 9] = [
    ("api/status.json", "/v1/healthz"),
    ("api/config.json", "/v1/config"),
    ("api/endpoints.json", "/v1/endpoint"),
    ("api/identities.json", "/v1/identity"),
    ("api/ips.json", "/v1/ip"),
    ("api/policy.json", "/v1/policy"),
    ("api/selectors.json", "/v1/policy/selectors"),
    ("api/metrics.txt", "/v1/metrics"),
    // What `axon explain --dump` reads.
    ("api/state.json", "/v1/debug/state"),
];

/// What the node is asked: file in the archive, command. None changes
/// anything; those that are not installed are noted.
const COMMANDS: [(&str, &[&str]); 16] = [
    ("node/uname.txt", &["uname", "-a"]),
    ("node/link.txt", &["ip", "-details", "-statistics", "link"]),
    ("node/address.txt", &["ip", "address"]),
    (
        "node/route4.txt",
        &["ip", "-4", "route", "show", "table", "all"],
    ),
    (
        "node/route6.txt",
        &["ip", "-6", "route", "show", "table", "all"],
    ),
    ("node/rule4.txt", &["ip", "-4", "rule"]),
    ("node/rule6.txt", &["ip", "-6", "rule"]),
    ("node/neighbour.txt", &["ip", "neighbour"]),
    ("node/netns.txt", &["ip", "netns", "list-id"]),
    ("node/sockets.txt", &["ss", "-tuna"]),
    ("node/tc.txt", &["tc", "-statistics", "qdisc"]),
    ("node/nftables.txt", &["nft", "list", "ruleset"]),
    ("node/bpf-programs.txt", &["bpftool", "prog", "list"]),
    ("node/bpf-net.txt", &["bpftool", "net"]),
    (
        "node/sysctl.txt",
        &["sysctl", "net.ipv4", "net.ipv6", "net.core"],
    ),
    (
        "log/journal.txt",
        &[
            "journalctl",
            "--no-pager",
            "-u",
            "axon-agent",
            "-n",
            "20000",
        ],
    ),
];

/// Files of the node that are copied.
const FILES: [(&str, &str); 5] = [
    ("node/os-release.txt", "/etc/os-release"),
    ("node/meminfo.txt", "/proc/meminfo"),
    ("node/mounts.txt", "/proc/mounts"),
    ("node/softnet.txt", "/proc/net/softnet_stat"),
    ("node/snmp.txt", "/proc/net/snmp"),
];

/// Arguments of `axon sysdump`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// The archive [default: axon-sysdump-NODE-TIME.tar.gz].
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Where the agent's maps are pinned, for when it is away.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    bpf_root: PathBuf,
    /// Logs to add; may be given several times.
    #[arg(long, value_name = "FILE")]
    log_file: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let node = node_name(&args.common);
    let stamp = Time(u64::try_from(now.as_nanos()).unwrap_or(0)).to_string();
    let stamp = stamp.split('.').next().unwrap_or("").replace(':', "");
    let name = format!("axon-sysdump-{node}-{stamp}");
    let file = match &args.output_file {
        Some(file) => file.clone(),
        None => PathBuf::from(format!("{name}.tar.gz")),
    };
    let created =
        File::create(&file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let mut dump = Dump {
        archive: tar::Builder::new(GzEncoder::new(created, Compression::default())),
        name,
        now: now.as_secs(),
        files: 0,
        errors: Vec::new(),
        not_installed: Vec::new(),
    };
    dump.collect(args)?;
    let report = Report {
        file,
        node,
        errors: dump.errors.clone(),
        not_installed: dump.not_installed.clone(),
        files: dump.finish()?,
    };
    print(args.common.output, &report, render)
}

/// What was written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    file: PathBuf,
    node: String,
    files: usize,
    /// What could not be had, and why.
    errors: Vec<String>,
    /// Tools that this machine does not have.
    not_installed: Vec<&'static str>,
}

fn render(report: &Report) -> String {
    eprintln!("{} files", report.files);
    match report.errors.len() {
        0 => {}
        n => eprintln!("{n} could not be had (see errors.txt in the archive)"),
    }
    if !report.not_installed.is_empty() {
        let tools = report.not_installed.join(", ");
        eprintln!("without what these would tell, which are not installed: {tools}");
    }
    report.file.display().to_string()
}

/// The node's name as its agent has it, else the machine's; in the letters
/// that a file name may have.
fn node_name(common: &Common) -> String {
    let status = common.client().get::<Status>("/v1/healthz");
    let name = match status {
        Ok(status) => status.node,
        Err(_) => fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
    };
    let letter = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "-_.".contains(c) => c,
        _ => '_',
    };
    name.trim().chars().map(letter).collect()
}

/// An archive in the making.
struct Dump {
    archive: tar::Builder<GzEncoder<File>>,
    name: String,
    now: u64,
    files: usize,
    errors: Vec<String>,
    not_installed: Vec<&'static str>,
}

impl Dump {
    fn collect(&mut self, args: &Args) -> Result<(), Failure> {
        let version = format!("axon {}\n", env!("CARGO_PKG_VERSION"));
        self.add("version.txt", version.as_bytes())?;
        let client = args.common.client();
        for (file, path) in API {
            let answer = client.get_text(path).map_err(Failure::from);
            self.add_or_note(file, answer.map(String::into_bytes))?;
        }
        let flows = client
            .get_text(&format!("/v1/monitor?last={FLOWS}&follow=false"))
            .map_err(Failure::from);
        self.add_or_note("flows.jsonl", flows.map(String::into_bytes))?;
        for map in MapName::ALL {
            let rows = match client.get_text(&format!("/v1/map/{map}")) {
                Ok(rows) => Ok(rows.into_bytes()),
                Err(_) => super::bpf::dump(&args.bpf_root, map).map(|v| v.to_string().into_bytes()),
            };
            self.add_or_note(&format!("bpf/{map}.json"), rows)?;
        }
        for (file, command) in COMMANDS {
            match output_of(command) {
                Ok(None) => self.not_installed.extend(command.first()),
                Ok(Some(text)) => self.add(file, &text)?,
                Err(failure) => self.add_or_note(file, Err(failure))?,
            }
        }
        self.not_installed.dedup();
        for (file, path) in FILES {
            self.add_or_note(file, tail_of(Path::new(path)))?;
        }
        for (n, path) in args.log_file.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.add_or_note(&format!("log/{n}-{name}"), tail_of(path))?;
        }
        Ok(())
    }

    fn add_or_note(
        &mut self,
        file: &str,
        content: Result<Vec<u8>, Failure>,
    ) -> Result<(), Failure> {
        match content {
            Ok(content) => self.add(file, &content),
            Err(failure) => {
                self.errors.push(format!("{file}: {}", failure.text()));
                Ok(())
            }
        }
    }

    fn add(&mut self, file: &str, content: &[u8]) -> Result<(), Failure> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(self.now);
        let path = format!("{}/{file}", self.name);
        self.archive.append_data(&mut header, path, content)?;
        self.files += 1;
        Ok(())
    }

    /// Writes the list of what is missing, and the end; how many files.
    fn finish(mut self) -> Result<usize, Failure> {
        let errors = self.errors.join("\n");
        self.add("errors.txt", errors.as_bytes())?;
        self.archive.into_inner()?.finish()?.sync_all()?;
        Ok(self.files)
    }
}

/// What a command prints, both streams; `None` if it is not installed.
fn output_of(command: &[&str]) -> Result<Option<Vec<u8>>, Failure> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure::new("no command"))?;
    let started = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = match started {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(format!("{}: {error}", command.join(" ")))),
    };
    let mut text = output.stdout;
    text.truncate(usize::try_from(FILE_MAX).unwrap_or(usize::MAX));
    if !output.stderr.is_empty() {
        text.extend_from_slice(b"\n--- stderr\n");
        text.extend_from_slice(&output.stderr);
    }
    Ok(Some(text))
}

/// The end of a file.
fn tail_of(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::{Seek as _, SeekFrom};
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > FILE_MAX {
        file.seek(SeekFrom::Start(length - FILE_MAX))
            .map_err(failed)?;
    }
    let mut content = Vec::new();
    file.take(FILE_MAX)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Ok(content)
}
