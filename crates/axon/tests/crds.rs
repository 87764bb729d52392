//! Our definitions of Cilium's objects, before a real API server.
//!
//! It needs a directory with `etcd`, `kube-apiserver` and `kubectl`, named by
//! `AXON_KUBERNETES_BIN`.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long the API server may take until it answers.
const START: Duration = Duration::from_secs(120);

/// A control plane of its own, ended with the test.
struct Cluster {
    bin: PathBuf,
    dir: tempfile::TempDir,
    server: String,
    /// Ended in this order: the API server before its store.
    processes: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("address").port()
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let file = std::fs::File::create(log).expect("a log");
    let errors = file.try_clone().expect("a log");
    let command = command.stdin(Stdio::null()).stdout(file).stderr(errors);
    command.spawn().expect("start")
}

impl Cluster {
    fn start(bin: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let [store, peers, secure] = [free_port(), free_port(), free_port()];
        let url = |port| format!("http://127.0.0.1:{port}");
        let etcd = Command::new(bin.join("etcd"))
            .arg("--data-dir")
            .arg(at("etcd"))
            .args(["--listen-client-urls", &url(store)])
            .args(["--advertise-client-urls", &url(store)])
            .args(["--listen-peer-urls", &url(peers)])
            .args(["--initial-advertise-peer-urls", &url(peers)])
            .args(["--initial-cluster", &format!("default={}", url(peers))])
            .arg("--unsafe-no-fsync")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd");
        let key = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(at("sa.key"))
            .arg("2048")
            .output()
            .expect("openssl");
        assert!(key.status.success(), "{key:?}");
        std::fs::write(at("tokens.csv"), "secret,admin,admin,\"system:masters\"\n")
            .expect("tokens");
        let key = at("sa.key").display().to_string();
        let apiserver = spawn(
            Command::new(bin.join("kube-apiserver"))
                .arg(format!("--etcd-servers={}", url(store)))
                .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
                .arg(format!("--secure-port={secure}"))
                .arg(format!("--cert-dir={}", at("certs").display()))
                .arg("--service-cluster-ip-range=10.96.0.0/16")
                .arg("--service-account-issuer=https://kubernetes.default.svc")
                .arg(format!("--service-account-key-file={key}"))
                .arg(format!("--service-account-signing-key-file={key}"))
                .args([
                    "--authorization-mode=Node,RBAC",
                    "--endpoint-reconciler-type=none",
                ])
                .arg(format!("--token-auth-file={}", at("tokens.csv").display()))
                .arg("--disable-admission-plugins=ServiceAccount"),
            &at("apiserver.log"),
        );
        let cluster = Self {
            bin,
            server: format!("https://127.0.0.1:{secure}"),
            processes: vec![apiserver, etcd],
            dir,
        };
        let until = Instant::now() + START;
        while !cluster
            .kubectl(&["get", "--raw", "/readyz"], "")
            .status
            .success()
        {
            let log = || std::fs::read_to_string(cluster.dir.path().join("apiserver.log"));
            assert!(Instant::now() < until, "no API server: {:?}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
        cluster
    }

    fn kubectl(&self, args: &[&str], input: &str) -> Output {
        let mut kubectl = Command::new(self.bin.join("kubectl"))
            .args(["--server", &self.server, "--token", "secret"])
            .arg("--insecure-skip-tls-verify")
            .arg("--cache-dir")
            .arg(self.dir.path().join("cache"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        let mut stdin = kubectl.stdin.take().expect("stdin");
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        kubectl.wait_with_output().expect("kubectl")
    }

    /// Applies a text; what is said about it, if it is not taken.
    fn apply(&self, text: &str) -> Result<(), String> {
        let output = self.kubectl(&["apply", "-f", "-"], text);
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n\
         metadata: {{name: p, namespace: default}}\nspec: {spec}\n"
    )
}

#[test]
fn an_api_server_takes_the_definitions_and_obeys_them() {
    let Some(bin) = std::env::var_os("AXON_KUBERNETES_BIN").map(PathBuf::from) else {
        println!(
            "skipped: AXON_KUBERNETES_BIN names no directory with etcd, kube-apiserver and kubectl"
        );
        return;
    };
    let axon = |args: &[&str]| {
        let axon = Command::new(env!("CARGO_BIN_EXE_axon")).args(args).output();
        String::from_utf8(axon.expect("axon").stdout).expect("text")
    };
    let cluster = Cluster::start(bin);
    cluster.apply(&axon(&["policy", "crds"])).expect("YAML");
    cluster
        .apply(&axon(&["policy", "crds", "-o", "json"]))
        .expect("JSON");
    let waited = cluster.kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ],
        "",
    );
    assert!(waited.status.success(), "{waited:?}");
    // What makes a schema not structural is told here, and nothing is refused.
    let wrong = cluster.kubectl(
        &[
            "get",
            "crd",
            "-o",
            "jsonpath={.items[*].status.conditions[?(@.type=='NonStructuralSchema')].message}",
        ],
        "",
    );
    assert_eq!(String::from_utf8_lossy(&wrong.stdout), "", "{wrong:?}");
    for (what, spec) in [
        ("the least", "{endpointSelector: {}, ingress: [{}]}"),
        ("peers and ports", PEERS),
        ("what is said", SAID),
        (
            "what is denied",
            "{endpointSelector: {}, egressDeny: [{toCIDRSet: [{cidr: 10.0.0.0/8, \
            except: [10.1.0.0/16]}, {cidrGroupRef: g}, {cidrGroupSelector: {}}]}]}",
        ),
        (
            "null",
            "{endpointSelector: {}, ingress: [{fromEndpoints: null}]}",
        ),
    ] {
        let text = policy(spec);
        assert_eq!(cluster.apply(&text), Ok(()), "{what}: {text}");
        let kept = cluster.kubectl(&["get", "ciliumnetworkpolicies", "p", "-o", "yaml"], "");
        let kept = String::from_utf8_lossy(&kept.stdout);
        assert!(
            axon_api::manifest::parse(kept.as_bytes()).is_ok(),
            "{what}: {kept}"
        );
    }
    for (spec, expected) in [
        ("{ingress: [{}]}", "endpointSelector"),
        ("{endpointSelector: {}}", "ingress"),
        (
            "{endpointSelector: {}, ingress: [{fromEntities: [mars]}]}",
            "mars",
        ),
        (
            "{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: 80}]}]}]}",
            "port",
        ),
        (
            "{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: '80', protocol: X}]}]}]}",
            "protocol",
        ),
        (
            "{endpointSelector: {matchExpressions: [{key: a, operator: Is}]}, ingress: [{}]}",
            "operator",
        ),
        (
            "{endpointSelector: {}, egress: [{toCIDRSet: [{cidr: 10.0.0.0}]}]}",
            "cidr",
        ),
        ("{endpointSelector: {}, ingres: [{}]}", "ingres"),
    ] {
        let refused = cluster.apply(&policy(spec)).expect_err(spec);
        assert!(refused.contains(expected), "{spec}: {refused}");
    }
    let group = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\n\
         spec: {externalCIDRs: [10.0.0.0/8]}\n";
    assert_eq!(cluster.apply(group), Ok(()));
    assert_eq!(cluster.apply(&group.replace("v2", "v2alpha1")), Ok(()));
    let refused = cluster
        .apply(&group.replace("10.0.0.0/8", "ten"))
        .expect_err("no prefix");
    assert!(refused.contains("externalCIDRs"), "{refused}");
}

const PEERS: &str = "{endpointSelector: {matchLabels: {'k8s:app': web}, matchExpressions: [{key: a, \
    operator: In, values: [b]}]}, enableDefaultDeny: {ingress: false}, description: text, \
    labels: [{key: a, source: k8s, value: b}], log: {value: seen}, ingress: [{fromEndpoints: [{}], \
    toPorts: [{ports: [{port: '80', endPort: 90, protocol: TCP}, {port: http}]}]}, {fromEntities: \
    [world, cluster]}, {fromCIDR: [10.0.0.1, 'fd00::/8']}, {icmps: [{fields: [{type: 8}, {type: \
    EchoRequest, family: IPv6}]}], authentication: {mode: disabled}}], egress: [{toServices: \
    [{k8sService: {serviceName: a, namespace: b}}]}]}";
const SAID: &str = "{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: '80', protocol: \
    TCP}], rules: {http: [{method: GET, path: /a, headers: ['A: b'], headerMatches: [{name: A, \
    value: b, mismatch: LOG}]}]}}]}], egress: [{toPorts: [{ports: [{port: '53', protocol: ANY}], \
    rules: {dns: [{matchName: a.b}, {matchPattern: '*.b'}]}}, {ports: [{port: '9092', protocol: \
    TCP}], rules: {kafka: [{role: produce, topic: t}]}}, {ports: [{port: '443', protocol: TCP}], \
    serverNames: [a.b]}]}]}";
