//! CNI: what is read, what is answered, in every version.

use axon_api::cni::{
    Args, Command, Error, ErrorCode, Interface, Invocation, Ip, NetConf, Route, SpecVersion,
    Success, version_info,
};
use serde_json::{Value, json};

fn call(vars: &[(&str, &str)]) -> Result<Invocation, Error> {
    let vars: Vec<(String, String)> = vars
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Invocation::from_env(|name| {
        let found = vars.iter().find(|(k, _)| k == name);
        found.map(|(_, v)| v.clone())
    })
}

#[test]
fn variables_are_read_and_refused() {
    let add = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c-1_2.3"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u;IP=10.0.0.1/24,fd00::1",
        ),
    ];
    let read = call(&add).expect("add");
    assert_eq!((read.command, read.path.len()), (Command::Add, 2));
    let args = Args {
        pod_namespace: "shop".to_owned(),
        pod_name: "web".to_owned(),
        pod_uid: "u".to_owned(),
        ips: ["10.0.0.1", "fd00::1"]
            .map(|ip| ip.parse().expect("ip"))
            .to_vec(),
        others: [("IgnoreUnknown".to_owned(), "1".to_owned())].into(),
        ..Args::default()
    };
    assert_eq!(read.args, args);
    for (text, expected) in [("IP=10.0.0.1", false), ("IP=10.0.0.1;IP_ONLY=true", true)] {
        let changed = add.map(|(k, v)| if k == "CNI_ARGS" { (k, text) } else { (k, v) });
        let read = call(&changed).expect(text);
        assert_eq!(read.args.ips_only, expected, "{text}");
    }
    for (name, value, part) in [
        ("CNI_COMMAND", "add", "\"add\""),
        ("CNI_CONTAINERID", "", "missing"),
        ("CNI_CONTAINERID", "-a", "\"-a\""),
        ("CNI_CONTAINERID", "a/b", "a/b"),
        ("CNI_CONTAINERID", &"c".repeat(201), "at most 200"),
        ("CNI_NETNS", "", "missing"),
        ("CNI_IFNAME", "0123456789abcdef", "1 to 15"),
        ("CNI_IFNAME", "a b", "white space"),
        ("CNI_IFNAME", "..", "\"..\""),
        ("CNI_ARGS", "K8S_POD_NAME", "KEY=value"),
        ("CNI_ARGS", "IP=ten", "ten"),
        ("CNI_ARGS", "IP_ONLY=yes", "true or false"),
    ] {
        let changed = add.map(|(k, v)| if k == name { (k, value) } else { (k, v) });
        let error = call(&changed).expect_err(value);
        assert_eq!(error.code, ErrorCode::InvalidEnvironment, "{error}");
        assert!(
            error.msg.contains(name) && error.msg.contains(part),
            "{error}"
        );
    }
    let del = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", "c"),
        ("CNI_IFNAME", "eth0"),
    ];
    assert_eq!(call(&del).expect("del").netns, "");
    for command in ["VERSION", "STATUS", "GC"] {
        assert!(call(&[("CNI_COMMAND", command)]).is_ok(), "{command}");
    }
}

#[test]
fn commands_come_with_versions() {
    use SpecVersion::{V0_3_0, V0_3_1, V0_4_0, V1_0_0, V1_1_0};
    for (command, since) in [
        ("DEL", V0_3_0),
        ("CHECK", V0_4_0),
        ("STATUS", V1_1_0),
        ("GC", V1_1_0),
    ] {
        let call = call(&[
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "e"),
            ("CNI_NETNS", "n"),
        ])
        .expect(command);
        for version in [V0_3_0, V0_3_1, V0_4_0, V1_0_0, V1_1_0] {
            let result = call.check_version(version);
            assert_eq!(result.is_ok(), version >= since, "{command} {version}");
            if let Err(error) = result {
                assert_eq!(error.code, ErrorCode::IncompatibleVersion);
            }
        }
    }
    let info = version_info("0.4.0");
    assert_eq!(info["cniVersion"], "0.4.0");
    let all = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(info["supportedVersions"], all);
}

#[test]
fn configurations_are_read_and_refused() {
    let good = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "axon-cni", "mtu": 1400,
        "api-socket": "/run/a.sock", "log-file": "/tmp/l", "enable-debug": true,
        "ipam": {}, "capabilities": {"x": true},
        "cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}],
    });
    let conf = NetConf::parse(good.to_string().as_bytes()).expect("conf");
    assert_eq!(
        (conf.mtu, conf.enable_debug, conf.prev_result),
        (1400, true, None)
    );
    assert_eq!(conf.valid_attachments.expect("list").len(), 1);
    let with = |field: &str, value: Value| {
        let mut conf = good.clone();
        conf[field] = value;
        conf.to_string()
    };
    for (text, code, part) in [
        ("{".to_owned(), 6, "cannot be read"),
        ("[]".to_owned(), 6, "cannot be read"),
        (with("mtu", json!("big")), 6, "mtu"),
        (with("cniVersion", json!("")), 1, "no cniVersion"),
        (with("cniVersion", json!("0.2.0")), 1, "0.2.0"),
        (with("cniVersion", json!("2.0.0")), 1, "2.0.0"),
        (with("name", json!("")), 7, "name"),
        (with("name", json!("a/b")), 7, "a/b"),
        (with("mtu", json!(60)), 7, "60"),
        (with("ipam", json!({"type": "host-local"})), 2, "host-local"),
        (
            with("prevResult", json!({"ips": [{"address": "ten"}]})),
            6,
            "ips[0].address",
        ),
    ] {
        let error = NetConf::parse(text.as_bytes()).expect_err(&text);
        assert_eq!(error.code.number(), code, "{error}");
        assert!(error.msg.contains(part), "{error}");
    }
    assert_eq!(
        NetConf::asked_version(b"{\"cniVersion\":\"1.0.0\"}"),
        "1.0.0"
    );
    assert_eq!(NetConf::asked_version(b"nonsense"), "");
}

fn ours() -> Success {
    Success {
        interfaces: vec![Interface {
            mtu: 1500,
            mac: "02:00:00:00:00:01".to_owned(),
            sandbox: "/ns".to_owned(),
            name: "eth0".to_owned(),
            ..Interface::default()
        }],
        ips: vec![
            Ip {
                address: "10.0.0.2/32".parse().expect("net"),
                gateway: Some("10.0.0.1".parse().expect("ip")),
                interface: Some(0),
            },
            Ip {
                address: "fd00::2/128".parse().expect("net"),
                gateway: None,
                interface: Some(0),
            },
        ],
        routes: vec![Route {
            mtu: 1400,
            ..Route::new("0.0.0.0/0".parse().expect("net"))
        }],
        ..Success::default()
    }
}

#[test]
fn answers_fit_their_version() {
    for version in SpecVersion::ALL {
        let body = ours().to_json(version);
        let (new, old) = (
            version >= SpecVersion::V1_1_0,
            version < SpecVersion::V1_0_0,
        );
        assert_eq!(body["cniVersion"], version.to_string());
        assert_eq!(body["interfaces"][0].get("mtu").is_some(), new, "{version}");
        assert_eq!(body["routes"][0].get("mtu").is_some(), new, "{version}");
        let families: Vec<_> = [0, 1]
            .map(|n| body["ips"][n].get("version").cloned())
            .into();
        let expected = if old {
            vec![Some(json!("4")), Some(json!("6"))]
        } else {
            vec![None, None]
        };
        assert_eq!(families, expected, "{version}");
        let again = Success::from_json(&body).expect("read");
        assert_eq!(again.ips, ours().ips, "{version}");
        assert_eq!(again.to_json(version), body, "{version}");
    }
    let error = Error::new(ErrorCode::TryAgainLater, "away").with_details("why");
    assert_eq!(
        error.to_json(SpecVersion::V0_4_0),
        json!({"cniVersion": "0.4.0", "code": 11, "msg": "away", "details": "why"})
    );
}

#[test]
fn a_chain_keeps_what_came_before() {
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "br0", "mac": "00:00:00:00:00:00:00:01", "pciID": "0000:1"}],
        "ips": [{"address": "192.0.2.9/24", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "priority": 5}],
        "dns": {"nameservers": ["192.0.2.1"]},
    });
    let merged = Success::from_json(&before).expect("before").merge(ours());
    let body = merged.to_json(SpecVersion::V1_1_0);
    assert_eq!(
        body["interfaces"][0], before["interfaces"][0],
        "passed through whole"
    );
    assert_eq!(body["interfaces"][1]["name"], "eth0");
    assert_eq!(body["ips"][0]["interface"], 0);
    assert_eq!(body["ips"][1]["interface"], 1, "our device has moved");
    assert_eq!(body["routes"][0]["priority"], 5);
    assert_eq!(body["dns"], before["dns"]);
    let old = merged.to_json(SpecVersion::V1_0_0);
    assert!(old["interfaces"][0].get("pciID").is_none());
    assert!(old["routes"][0].get("priority").is_none());
}

#[test]
fn a_pod_without_a_namespace_is_in_the_default_one() {
    for args in ["K8S_POD_NAMESPACE=;K8S_POD_NAME=web", "K8S_POD_NAME=web"] {
        let args = Args::parse(args).expect("arguments");
        assert_eq!(args.pod_namespace, "default");
    }
    let none = Args::parse("IgnoreUnknown=1").expect("arguments");
    assert_eq!(none.pod_namespace, "", "it is no pod");
}
