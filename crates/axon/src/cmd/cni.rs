//! `axon cni`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use axon_api::agent::{DEFAULT_SOCKET, SOCKET_ENV};
use axon_cni::PLUGIN_TYPE;
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::output::{Format, or_dash, print, table};

/// The file of our network configuration: low, so that runtimes, which take
/// the first one by name, take it.
const CONF: &str = "05-axon.conflist";
/// What is put behind the names of others' configurations that are set aside.
const ASIDE: &str = "axon_bak";

/// Arguments of `axon cni`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where runtimes look for network configurations.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/etc/cni/net.d"
    )]
    conf_dir: PathBuf,
    /// Where runtimes look for plugins.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/opt/cni/bin"
    )]
    bin_dir: PathBuf,
    /// How the answer is written: table or json.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "FORMAT"
    )]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Copy the plugin (axon-cni, found beside this program) and write
    /// 05-axon.conflist; again is no error.
    ///
    /// Each file appears whole or not at all. Other plugins' files are left as
    /// they are, unless --exclusive sets their configurations aside
    /// (NAME.axon_bak), which uninstall undoes.
    Install(Install),
    /// Remove both, and put back configurations that were set aside.
    Uninstall,
}

#[derive(Debug, clap::Args)]
struct Install {
    /// Set other network configurations aside.
    #[arg(long)]
    exclusive: bool,
    /// The plugin to copy [default: axon-cni beside this program].
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// The agent's socket, written into the configuration.
    #[arg(long, value_name = "PATH", env = SOCKET_ENV, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// MTU of the pods; 0 is that of the node.
    #[arg(long, default_value_t = 0)]
    mtu: u32,
    /// The plugin's log.
    #[arg(long, value_name = "FILE", default_value = "/var/log/axon-cni.log")]
    log_file: String,
    /// Log every call, not only those that fail.
    #[arg(long)]
    enable_debug: bool,
}

/// What was done to files.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    written: Vec<PathBuf>,
    removed: Vec<PathBuf>,
    set_aside: Vec<PathBuf>,
    put_back: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let report = match &args.verb {
        Verb::Install(install) => self::install(install, &args.conf_dir, &args.bin_dir)?,
        Verb::Uninstall => uninstall(&args.conf_dir, &args.bin_dir)?,
    };
    print(args.output, &report, render)
}

fn render(report: &Report) -> String {
    let all = [
        ("written", &report.written),
        ("removed", &report.removed),
        ("set aside", &report.set_aside),
        ("put back", &report.put_back),
    ];
    let rows = all.into_iter().flat_map(|(what, files)| {
        let files = files.iter().map(|f| f.display().to_string());
        files.map(move |file| [what.to_owned(), or_dash(&file)])
    });
    table(["WHAT", "FILE"], rows)
}

fn named(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| {
        let failure = Failure::new(format!("{path}: {error}"));
        match error.kind() {
            io::ErrorKind::PermissionDenied => failure.remedy("run as root"),
            _ => failure,
        }
    }
}

fn install(install: &Install, conf_dir: &Path, bin_dir: &Path) -> Result<Report, Failure> {
    let plugin = match &install.plugin {
        Some(plugin) => plugin.clone(),
        None => std::env::current_exe()?.with_file_name(PLUGIN_TYPE),
    };
    let program = fs::read(&plugin)
        .map_err(|error| named(&plugin)(error).remedy("name the plugin's file with --plugin"))?;
    let mut report = Report::default();
    // The plugin first: a configuration without its plugin fails pods.
    for (dir, name, content, mode) in [
        (bin_dir, PLUGIN_TYPE, &program[..], 0o755),
        (conf_dir, CONF, configuration(install)?.as_bytes(), 0o644),
    ] {
        let file = dir.join(name);
        fs::create_dir_all(dir).map_err(named(dir))?;
        replace(&file, content, mode).map_err(named(&file))?;
        report.written.push(file);
    }
    if install.exclusive {
        for file in others(conf_dir)? {
            let aside = beside(&file, ASIDE);
            fs::rename(&file, &aside).map_err(named(&file))?;
            report.set_aside.push(aside);
        }
    }
    Ok(report)
}

fn configuration(install: &Install) -> Result<String, Failure> {
    let mut plugin = json!({
        "type": PLUGIN_TYPE,
        "api-socket": install.socket,
        "log-file": install.log_file,
        "enable-debug": install.enable_debug,
    });
    if install.mtu != 0 {
        plugin["mtu"] = install.mtu.into();
    }
    let conf = json!({"cniVersion": "1.1.0", "name": "axon", "plugins": [plugin]});
    Ok(serde_json::to_string_pretty(&conf)? + "\n")
}

fn uninstall(conf_dir: &Path, bin_dir: &Path) -> Result<Report, Failure> {
    let mut report = Report::default();
    // The configuration first: runtimes stop calling before the plugin goes.
    for file in [conf_dir.join(CONF), bin_dir.join(PLUGIN_TYPE)] {
        match fs::remove_file(&file) {
            Ok(()) => report.removed.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(named(&file)(error)),
        }
    }
    for aside in files(conf_dir)? {
        if !has_extension(&aside, &[ASIDE]) {
            continue;
        }
        let file = aside.with_extension("");
        // What was written under the name meanwhile is somebody's wish.
        if !file.exists() {
            fs::rename(&aside, &file).map_err(named(&aside))?;
            report.put_back.push(file);
        }
    }
    Ok(report)
}

/// Others' network configurations.
fn others(conf_dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = files(conf_dir)?;
    found.retain(|file| {
        has_extension(file, &["conf", "conflist", "json"])
            && file.file_name().is_some_and(|name| name != CONF)
    });
    Ok(found)
}

fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    let extension = file.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| extensions.contains(&e))
}

/// The files of a directory, by name; none if it does not exist.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(named(dir)(error)),
    };
    let mut files = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(named(dir))?;
    files.retain(|file| file.is_file());
    files.sort();
    Ok(files)
}

fn beside(file: &Path, extension: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(extension);
    file.with_file_name(name)
}

/// Puts a file in place at once: whoever reads sees the old or the new one.
fn replace(file: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Not ending in .conf or .conflist: runtimes do not read it.
    let draft = beside(file, &format!("tmp{}", std::process::id()));
    let _ = fs::remove_file(&draft);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut new| {
            new.write_all(content)?;
            new.sync_all()
        })
        .and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
#[path = "cni_tests.rs"]
mod tests;
