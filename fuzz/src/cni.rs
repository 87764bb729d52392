//! The CNI plugin's input: variables, one a line, then an empty line and what
//! comes on stdin.

use std::collections::HashMap;

use axon_api::cni::{Command, Invocation, NetConf, Success};
use axon_cni::{Plugin, Waiting};

/// Reads a call; where it gets no further than its arguments, the plugin
/// itself answers it.
///
/// # Panics
/// If what was read is not within bounds, or an answer is none by the
/// specification.
pub fn run(data: &[u8]) {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, stdin) = match end {
        Some(end) => (data.get(..end), data.get(end + 2..)),
        None => (Some(data), None),
    };
    let head = String::from_utf8_lossy(head.unwrap_or_default());
    let stdin = stdin.unwrap_or_default();
    let variables: HashMap<&str, &str> = head
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    let invocation = Invocation::from_env(variable);
    let conf = NetConf::parse(stdin);
    if let Ok(invocation) = &invocation {
        invoked(invocation);
    }
    if let Ok(conf) = &conf {
        configured(conf);
    }
    let reaches_out = match (&invocation, &conf) {
        (Ok(call), Ok(conf)) => {
            call.command != Command::Version && call.check_version(conf.cni_version).is_ok()
        }
        _ => false,
    };
    if reaches_out {
        return;
    }
    let answer = Plugin::new(variable, Waiting::default()).run(stdin);
    let body = answer.body.expect("an answer has a body");
    let version = body["cniVersion"].as_str().expect("and a version");
    let code = body["code"].as_u64();
    assert_eq!(answer.success, code.is_none(), "{body}");
    if answer.success {
        assert!(body["supportedVersions"].is_array(), "{body}");
    } else {
        assert!(
            body["msg"].as_str().is_some_and(|msg| !msg.is_empty()),
            "{body}"
        );
        version
            .parse::<axon_api::cni::SpecVersion>()
            .expect("errors are in a version that exists");
    }
}

/// What goes into names of files and devices is harmless there.
fn invoked(call: &Invocation) {
    if !matches!(call.command, Command::Add | Command::Del | Command::Check) {
        return;
    }
    for name in [&call.container_id, &call.ifname] {
        assert!(
            !name.is_empty() && !name.contains(['/', '\0', '\n', ' ']),
            "{name:?}"
        );
        assert!(name != "." && name != "..", "{name:?}");
    }
    assert!(call.ifname.len() <= 15, "{}", call.ifname);
    let file = format!("{}-{}.json", call.container_id, call.ifname);
    // Beside it stands a draft with a process's number.
    assert!(file.len() <= 255 - 12, "no name of a file: {file}");
}

/// A result of a plugin before us is passed on in the version asked for.
fn configured(conf: &NetConf) {
    assert!(conf.mtu == 0 || (68..=65535).contains(&conf.mtu));
    let before = conf.prev_result.clone().unwrap_or_default();
    let body = before.merge(Success::default()).to_json(conf.cni_version);
    let again = Success::from_json(&body);
    assert!(again.is_ok(), "{again:?}: {body}");
}
