//! The built program as a person meets it, without an agent.

use std::process::{Command, Output};

/// Runs `axon` with a socket where nobody listens.
fn axon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_axon"))
        .args(arguments)
        .env("AXON_SOCKET", "/nonexistent/axon.sock")
        .env("NO_COLOR", "1")
        .output()
        .expect("the built program")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_verb_has_help() {
    let help = stdout(&axon(&["--help"]));
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() >= 18, "{verbs:?}");
    for verb in verbs {
        let output = axon(&[verb, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{verb}");
        let text = stdout(&output);
        assert!(text.contains("Usage: axon"), "{verb}: {text}");
        assert!(
            text.lines().next().is_some_and(|l| l.len() > 15),
            "{verb}: {text}"
        );
    }
    assert!(help.contains("Exit status:"), "{help}");
}

#[test]
fn verbs_of_the_agent_say_that_it_is_away() {
    for verb in [
        &["status"][..],
        &["status", "--brief", "-o", "json"],
        &["endpoint", "list"],
        &["endpoint", "get", "default/xwing"],
        &["identity", "list"],
        &["policy", "get"],
        &["policy", "selectors"],
        &["ip", "list"],
        &["service", "list"],
        &["service", "get", "default/web"],
        &[
            "service",
            "upsert",
            "default/web",
            "--frontend",
            "192.0.2.1:80",
        ],
        &["service", "delete", "default/web"],
        &["config"],
        &["metrics", "list"],
        &["monitor"],
        &["observe", "--last", "3"],
        &["policy", "suggest", "--last", "3"],
        &["policy", "diff", "--proposed", "/dev/null"],
        &[
            "policy",
            "diff",
            "--current",
            "/dev/null",
            "--proposed",
            "/dev/null",
            "--last",
            "3",
        ],
    ] {
        let output = axon(verb);
        assert_eq!(
            output.status.code(),
            Some(3),
            "{verb:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{verb:?}");
        let text = stderr(&output);
        assert!(
            text.contains("error: no agent answers at /nonexistent/axon.sock"),
            "{text}"
        );
        assert!(text.contains("help: start one"), "{text}");
    }
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    for (arguments, words) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["endpoint"], "Usage"),
        (&["identity", "get", "x"], "x"),
        (&["monitor", "--type", "l7"], "trace:POINT"),
        (&["monitor", "--port", "http"], "http"),
        (&["metrics", "list", "-p", "("], "("),
        (&["run", "--label", "=v", "--", "true"], "is no label"),
        (&["run"], "COMMAND"),
        (&["status", "-o", "xml"], "xml"),
        (&["completion", "tcsh"], "tcsh"),
        (&["policy", "validate"], "FILES"),
        (&["policy", "suggest"], "FILE"),
        (&["policy", "suggest", "f", "--last", "3"], "--last"),
        (&["policy", "suggest", "/nonexistent"], "/nonexistent"),
        (&["policy", "suggest", "--last", "soon"], "as in 30m"),
        (&["policy", "diff"], "--proposed"),
    ] {
        let output = axon(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
}

#[test]
fn labs_that_are_not_up_are_no_such_thing() {
    for verb in [
        &["status"][..],
        &["exec", "xwing", "--", "true"],
        &["node", "endor", "--", "true"],
        &["logs"],
        &["logs", "endor"],
        &["logs", "default/xwing"],
    ] {
        let output = axon(&[&["lab", "-L", "axt-nowhere"], verb].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{verb:?}: {text}");
        assert!(text.starts_with("error: "), "{verb:?}: {text}");
    }
}

#[test]
fn policies_are_validated_without_an_agent() {
    let dir = tempfile::tempdir().expect("directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("file");
        path.to_string_lossy().into_owned()
    };
    let good = file(
        "good.yaml",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: rule1}\n\
         spec:\n  endpointSelector: {matchLabels: {org: empire}}\n  ingress:\n  - fromEndpoints:\n\
         \x20   - matchLabels: {org: empire}\n    toPorts:\n    - ports: [{port: '80', protocol: TCP}]\n",
    );
    let bad = file(
        "bad.yaml",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: rule2}\n\
         spec:\n  endpointSelector: {}\n  ingress:\n  - fromCIDR: [10.0.0.0/33]\n",
    );
    let output = axon(&["policy", "validate", &good]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("rule1"), "{}", stdout(&output));
    let output = axon(&["policy", "validate", &good, &bad, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(findings[0]["error"], "");
    let error = findings[1]["error"].as_str().expect("error");
    assert!(
        error.contains("10.0.0.0/33") && error.contains("fromCIDR"),
        "{error}"
    );
    let output = axon(&["policy", "validate", "/nonexistent.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent.yaml"));
}

#[test]
fn versions_and_completions_need_no_agent() {
    let output = axon(&["version", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let versions: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(versions["client"], env!("CARGO_PKG_VERSION"));
    assert!(versions["agent"].is_null());
    for shell in ["bash", "zsh", "fish"] {
        let output = axon(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("endpoint"), "{shell}");
    }
}

#[test]
fn a_sysdump_notes_what_is_missing() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("dump.tar.gz");
    let output = axon(&[
        "sysdump",
        "-o",
        "json",
        "--bpf-root",
        "/nonexistent",
        "--output-file",
        &file.to_string_lossy(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["file"], *file.to_string_lossy());
    let archive = std::fs::File::open(&file).expect("archive");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut names = Vec::new();
    let mut errors = String::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("entry");
        let name = entry.path().expect("path").to_string_lossy().into_owned();
        if name.ends_with("/errors.txt") {
            std::io::Read::read_to_string(&mut entry, &mut errors).expect("text");
        }
        names.push(name);
    }
    for part in [
        "version.txt",
        "node/mounts.txt",
        "node/uname.txt",
        "errors.txt",
    ] {
        assert!(
            names.iter().any(|n| n.ends_with(part)),
            "{part} in {names:?}"
        );
    }
    assert!(
        errors.contains("api/status.json: no agent answers"),
        "{errors}"
    );
    assert!(!errors.contains("node/"), "{errors}");
    assert!(errors.contains("bpf/ct.json: "), "{errors}");
}

#[test]
fn an_explanation_needs_a_packet_and_a_state() {
    let packet = ["--from", "a", "--to", "b"];
    for (args, expected) in [
        (vec!["--port", "80"], "--from"),
        (vec!["--from", "a"], "--to"),
        (vec!["--flow", "/nonexistent"], "/nonexistent"),
        (
            [&packet[..], &["--dump", "/nonexistent"]].concat(),
            "/nonexistent",
        ),
        (
            [&packet[..], &["--dump", "/dev/null"]].concat(),
            "axon sysdump",
        ),
        (
            [&packet[..], &["--http", "GET"]].concat(),
            "a method and a path",
        ),
    ] {
        let output = axon(&[&["explain"][..], &args].concat());
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
        let told = stderr(&output);
        assert!(told.contains(expected), "{args:?}: {told}");
    }
}

#[test]
fn policies_are_compared_before_they_are_applied() {
    let dir = tempfile::tempdir().expect("directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("file");
        path.to_string_lossy().into_owned()
    };
    let pod = |name: &str, app: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n\
             spec: {{containers: [{{name: a}}]}}\n---\n"
        )
    };
    let policy = |app: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: db}}\n\
             spec: {{endpointSelector: {{matchLabels: {{app: db}}}}, \
             ingress: [{{fromEndpoints: [{{matchLabels: {{app: {app}}}}}]}}]}}\n"
        )
    };
    let pods = [pod("db-0", "db"), pod("web-0", "web"), pod("api-0", "api")].concat();
    let maker = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: more}\n";
    let current = file("current.yaml", &(pods + &policy("web") + maker));
    let same = file("same.yaml", &policy("web"));
    let other = file("other.yaml", &policy("api"));
    let wrong = file("wrong.yaml", "kind: CiliumNetworkPolicy\n");
    let flow = "{\"IP\":{\"source\":\"10.0.0.1\",\"destination\":\"10.0.0.2\"},\
        \"l4\":{\"TCP\":{\"destination_port\":80}},\
        \"source\":{\"namespace\":\"default\",\"pod_name\":\"web-0\"},\
        \"destination\":{\"namespace\":\"default\",\"pod_name\":\"db-0\"}}\n";
    let flows = file("flows.json", &format!("{flow}nonsense\n{flow}"));
    let diff = |proposed: &str, more: &[&str]| {
        let all = [
            "policy",
            "diff",
            "--current",
            &current,
            "--proposed",
            proposed,
        ];
        axon(&[&all, more].concat())
    };

    let output = diff(&same, &["--flows", &flows]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("Nothing changes"), "{text}");
    assert!(text.contains("2 stay, 0 would be denied"), "{text}");
    assert!(text.contains("flows, line 2: "), "{text}");
    assert!(
        text.contains("1 Deployments and the like are left out"),
        "{text}"
    );

    let output = diff(&other, &["--flows", &flows, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = |n: usize| {
        let change = &found["changes"][n];
        [
            &change["from"],
            &change["before"]["verdict"],
            &change["after"]["verdict"],
        ]
        .map(|value| value.as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(row(0), ["default/api", "deny", "allow"], "{found}");
    assert_eq!(row(1), ["default/web", "allow", "deny"], "{found}");
    assert_eq!(found["flows"]["denied"], 2, "{found}");

    let output = diff(&wrong, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("wrong.yaml"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn policies_are_suggested_by_what_was_recorded() {
    let dir = tempfile::tempdir().expect("directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("file");
        path.to_string_lossy().into_owned()
    };
    let end = |app: &str| {
        format!(
            "{{\"namespace\":\"default\",\"pod_name\":\"{app}-0\",\"labels\":[\"k8s:app={app}\",\
             \"k8s:io.kubernetes.pod.namespace=default\"]}}"
        )
    };
    let flow = |from: &str, to: &str, port: u16, verdict: &str| {
        format!(
            "{{\"flow\":{{\"verdict\":\"{verdict}\",\"is_reply\":false,\
             \"drop_reason_desc\":\"POLICY_DENIED\",\"traffic_direction\":\"INGRESS\",\
             \"IP\":{{\"source\":\"10.0.0.1\",\"destination\":\"10.0.0.2\"}},\
             \"l4\":{{\"TCP\":{{\"destination_port\":{port}}}}},\
             \"source\":{},\"destination\":{}}}}}\n",
            end(from),
            end(to)
        )
    };
    let lines = [
        flow("web", "db", 5432, "FORWARDED"),
        "nonsense\n".to_owned(),
        flow("web", "db", 5432, "FORWARDED"),
        flow("spy", "db", 5432, "DROPPED"),
    ];
    let flows = file("flows.json", &lines.concat());
    let output = axon(&["policy", "suggest", &flows]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    for part in [
        "# 2 policies, from 2 flows.",
        "# Note: line 2: left out: ",
        "# Note: line 4: left out: policy denies it",
        "  name: suggested-db\n",
        "  # 2 flows\n  - fromEndpoints:\n    - matchLabels:\n        app: web\n    toPorts:\n",
        "  # it was seen to speak to nobody\n  egress: [{}]\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("spy"), "{text}");
    let suggested = file("suggested.yaml", &text);
    let output = axon(&["policy", "validate", &suggested]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));

    let pod = |app: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {app}-0, labels: {{app: {app}}}}}\n\
             spec: {{containers: [{{name: a}}]}}\n---\n"
        )
    };
    let pods = file("pods.yaml", &["web", "db", "spy"].map(pod).concat());
    let spoken = file("spoken.json", &lines[0]);
    let arguments = [
        "policy",
        "diff",
        "--current",
        &pods,
        "--proposed",
        &suggested,
    ];
    let output = axon(&[&arguments[..], &["--flows", &spoken]].concat());
    let text = stdout(&output);
    assert!(text.contains("1 stay, 0 would be denied"), "{text}");
    assert!(text.contains("default/spy"), "{text}");

    let arguments = [
        "policy", "suggest", &flows, "--only", "ingress", "-n", "default",
    ];
    let output = axon(&[&arguments[..], &["--current", &pods, "-o", "json"]].concat());
    assert!(
        stderr(&output).contains("note: line 2: "),
        "{}",
        stderr(&output)
    );
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        list["items"][0]["metadata"]["name"], "suggested-db",
        "{list}"
    );
    assert!(list["items"][0]["spec"]["egress"].is_null(), "{list}");

    let output = axon(&["policy", "suggest", &flows, "-n", "elsewhere"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
}
