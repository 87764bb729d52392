//! Services from manifests into the kernel's maps, and over the deaths of agents.
//!
//! Needs root.

#[expect(dead_code, reason = "a part of it is used here")]
mod bench;

use std::collections::BTreeSet;
use std::fs;

use bench::{Bench, agent_process, is_root};
use serde_json::{Value, json};

/// Not a test of its own: the agent of the others, if they say so.
#[test]
fn agent() {
    agent_process();
}

fn service(name: &str, address: &str, selector: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: {address}
  clusterIPs: [{address}]
  selector: {selector}
  ports: [{{name: http, port: 80, targetPort: 8080, protocol: TCP}}]
"
    )
}

fn slice(service: &str, addresses: &[&str]) -> String {
    let endpoints: String = addresses
        .iter()
        .map(|address| format!("- {{addresses: [{address}], nodeName: n2}}\n"))
        .collect();
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-1
  namespace: default
  labels: {{kubernetes.io/service-name: {service}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

fn pod(name: &str, address: &str, is_ready: bool) -> String {
    let ready = if is_ready { "True" } else { "False" };
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: computed}}}}
spec: {{nodeName: n2, containers: [{{name: c, image: none}}]}}
status:
  phase: Running
  podIP: {address}
  podIPs: [{{ip: {address}}}]
  conditions: [{{type: Ready, status: '{ready}'}}]
"
    )
}

fn map(bench: &Bench, name: &str) -> Vec<Value> {
    serde_json::from_str(&bench.get(&format!("/v1/map/{name}"))).expect("json")
}

/// The row of a service in the kernel.
fn row(bench: &Bench, service: &str) -> Option<Value> {
    let rows = map(bench, "lb").into_iter();
    let mut rows = rows.filter(|row| row["service"] == format!("default/{service}:http"));
    rows.next()
}

/// Who is behind a service in the kernel.
fn behind(bench: &Bench, service: &str) -> BTreeSet<String> {
    let row = row(bench, service).unwrap_or_default();
    let addresses = row["internal"]["addresses"].as_array().cloned();
    let addresses = addresses.unwrap_or_default().into_iter();
    addresses
        .map(|a| a.as_str().unwrap_or_default().to_owned())
        .collect()
}

fn are(addresses: &[&str]) -> BTreeSet<String> {
    addresses
        .iter()
        .map(|address| format!("{address}:8080"))
        .collect()
}

/// Where the numbers of services are kept.
const FILES: [&str; 2] = ["services.json", "services.changes"];

fn begin(name: &str) -> Option<Bench> {
    if !is_root() {
        println!("skipped: needs root");
        return None;
    }
    let bench = Bench::new(name);
    bench.manifest("base.yaml", &bench.base(&[]));
    bench.manifest("web.yaml", &service("web", "10.96.0.10", "{}"));
    bench.manifest("slice.yaml", &slice("web", &["10.78.0.1", "10.78.0.2"]));
    Some(bench)
}

#[test]
fn services_come_and_change_and_are_told_of() {
    let Some(mut bench) = begin("svc") else {
        return;
    };
    let computed = "{app: computed}";
    bench.manifest(
        "computed.yaml",
        &service("computed", "10.96.0.11", computed),
    );
    let pods = |ready| pod("p1", "10.78.0.7", true) + "---" + &pod("p2", "10.78.0.8", ready);
    bench.manifest("pods.yaml", &pods(false));
    bench.start();
    assert_eq!(behind(&bench, "web"), are(&["10.78.0.1", "10.78.0.2"]));
    let ready = "of selectors and pods, as nobody else makes slices";
    assert_eq!(behind(&bench, "computed"), are(&["10.78.0.7"]), "{ready}");
    bench.manifest("pods.yaml", &pods(true));
    bench.until("the other pod is ready", |bench| {
        behind(bench, "computed") == are(&["10.78.0.7", "10.78.0.8"])
    });
    bench.manifest("slice.yaml", &slice("web", &["10.78.0.2", "10.78.0.3"]));
    bench.until("another endpoint", |bench| {
        behind(bench, "web") == are(&["10.78.0.2", "10.78.0.3"])
    });

    let all: Vec<Value> = serde_json::from_str(&bench.get("/v1/service")).expect("json");
    let is_web = |view: &&Value| view["spec"]["flags"]["name"] == "web";
    let web: Vec<&Value> = all.iter().filter(is_web).collect();
    assert_eq!(web.len(), 1, "{all:?}");
    let spec = &web[0]["spec"];
    assert_eq!(spec["frontend-address"]["ip"], "10.96.0.10");
    assert_eq!(spec["flags"]["type"], "ClusterIP");
    assert_eq!(spec["backend-addresses"].as_array().map(Vec::len), Some(2));
    assert_eq!(&web[0]["status"]["realized"], spec, "as it shall be");

    assert_eq!(
        bench.status("services").0,
        "Ok",
        "{:?}",
        bench.status("services")
    );
    let active = r#"axon_service_backends{state="active"}"#;
    assert_eq!(bench.metric(active), Some(4.0));
    let cluster = r#"axon_service_frontends{type="ClusterIP"}"#;
    assert_eq!(bench.metric(cluster), Some(2.0));

    // Somebody else has the address.
    bench.manifest("zzz.yaml", &service("zzz", "10.96.0.10", "{}"));
    bench.until("a claim in vain is told", |bench| {
        let (state, text) = bench.status("services");
        state == "Warning" && text.contains("Service default/zzz: spec.clusterIP")
    });
    assert_eq!(behind(&bench, "web"), are(&["10.78.0.2", "10.78.0.3"]));
    bench.remove_manifest("zzz.yaml");
    bench.remove_manifest("web.yaml");
    bench.until("it is gone", |bench| row(bench, "web").is_none());
    bench.until("its backends are too", |bench| {
        map(bench, "lb-backend").len() == 2
    });
    bench.stop();
}

#[test]
fn numbers_keep_their_meanings_over_deaths_and_losses() {
    let Some(mut bench) = begin("svc-numbers") else {
        return;
    };
    bench.start();
    let frontend = row(&bench, "web").expect("a row");
    let backends = map(&bench, "lb-backend");
    bench.kill();
    bench.start();
    assert_eq!(row(&bench, "web"), Some(frontend.clone()), "nothing is new");
    assert_eq!(map(&bench, "lb-backend"), backends);

    // While no agent is there, one backend goes and another comes.
    bench.kill();
    bench.manifest("slice.yaml", &slice("web", &["10.78.0.2", "10.78.0.3"]));
    bench.start();
    bench.until("another endpoint", |bench| {
        behind(bench, "web") == are(&["10.78.0.2", "10.78.0.3"])
    });
    let now = map(&bench, "lb-backend");
    let id = |rows: &[Value], address: &str| {
        let mut rows = rows.iter().filter(|row| row["address"] == address);
        rows.next().map(|row| row["id"].as_u64().expect("a number"))
    };
    assert_eq!(id(&now, "10.78.0.2"), id(&backends, "10.78.0.2"));
    assert!(id(&now, "10.78.0.3") > id(&backends, "10.78.0.2").max(id(&backends, "10.78.0.1")));

    // The disk has forgotten everything: nothing that the kernel knows gets another
    // meaning.
    let before = row(&bench, "web").expect("a row");
    bench.kill();
    for file in FILES.into_iter().chain(["control.json", "control.changes"]) {
        let path = bench.path("state").join(file);
        if path.exists() {
            fs::remove_file(path).expect("removed");
        }
    }
    bench.start();
    let after = row(&bench, "web").expect("a row");
    for number in ["service-id", "generation"] {
        let of = |row: &Value| row[number].as_u64().expect("a number");
        assert!(of(&after) > of(&before), "{number}: {before} {after}");
    }
    let known: BTreeSet<u64> = now.iter().filter_map(|row| row["id"].as_u64()).collect();
    let given = after["internal"]["backends"].as_array().expect("ids");
    for id in given {
        assert!(!known.contains(&id.as_u64().expect("a number")), "{after}");
    }
    assert_eq!(behind(&bench, "web"), are(&["10.78.0.2", "10.78.0.3"]));
    bench.until("what the kernel knew goes", |bench| {
        map(bench, "lb-backend").len() == 2
    });
    bench.stop();
}

#[test]
fn one_record_that_is_spoilt_costs_no_other_its_number() {
    let Some(mut bench) = begin("svc-spoilt") else {
        return;
    };
    bench.manifest("other.yaml", &service("other", "10.96.0.13", "{}"));
    bench.manifest("slice2.yaml", &slice("other", &["10.78.0.4"]));
    bench.start();
    bench.until("both are there", |bench| {
        behind(bench, "web").len() == 2 && behind(bench, "other").len() == 1
    });
    let before = ["web", "other"].map(|name| row(&bench, name).expect("a row"));
    bench.kill();
    // What the first agent has written last is in the whole after the next one's first change.
    bench.manifest("more.yaml", &service("more", "10.96.0.14", "{}"));
    bench.start();
    bench.until("a change", |bench| row(bench, "more").is_some());
    bench.kill();
    let path = bench.path("state").join("services.json");
    let text = fs::read_to_string(&path).expect("the numbers");
    let mut numbers: Value = serde_json::from_str(&text).expect("json");
    let ports = numbers["ports"]["records"].as_object_mut().expect("ports");
    let of_web = |record: &Value| record["name"] == "Service default/web/http/6";
    let record = ports.values_mut().find(|record| of_web(record));
    *record.expect("a record of web") = "?".into();
    fs::write(&path, numbers.to_string()).expect("spoilt");
    bench.start();
    let after = ["web", "other"].map(|name| row(&bench, name).expect("a row"));
    assert_eq!(after[1], before[1], "nothing is wrong with it");
    assert_ne!(after[0]["service-id"], before[0]["service-id"]);
    assert!(bench.log().contains("numbers of services make no sense"));
    bench.stop();
}

#[test]
fn rows_wait_until_their_numbers_are_on_disk_and_policy_does_not() {
    let Some(mut bench) = begin("svc-disk") else {
        return;
    };
    bench.manifest("base.yaml", &bench.base(&["client"]));
    bench.start();
    // A directory takes no line, and is not replaced by the whole either.
    let paths = FILES.map(|file| bench.path("state").join(file));
    for path in &paths {
        if path.exists() {
            fs::remove_file(path).expect("removed");
        }
        fs::create_dir_all(path.join("in-the-way")).expect("a directory");
    }
    bench.manifest("late.yaml", &service("late", "10.96.0.12", "{}"));
    bench.until("that the disk takes nothing is told", |bench| {
        bench.status("services").0 == "Failure"
    });
    assert_eq!(row(&bench, "late"), None, "its number may get lost");
    assert_eq!(behind(&bench, "web"), are(&["10.78.0.1", "10.78.0.2"]));
    // A pod comes, with an identity and a policy set of its own.
    bench.add("client");
    assert_eq!(bench.status("agent").0, "Ok", "{:?}", bench.status("agent"));
    for path in &paths {
        fs::remove_dir_all(path).expect("out of the way");
    }
    bench.until("it is there", |bench| row(bench, "late").is_some());

    // And who comes behind a service writes no line of policy's.
    let state = bench.path("state");
    let numbers = || {
        let files = ["control.json", "control.changes"];
        files.map(|file| fs::read(state.join(file)).unwrap_or_default())
    };
    let before = numbers();
    bench.manifest("slice.yaml", &slice("web", &["10.78.0.2", "10.78.0.9"]));
    bench.until("another endpoint", |bench| {
        behind(bench, "web") == are(&["10.78.0.2", "10.78.0.9"])
    });
    assert_eq!(numbers(), before);
    bench.stop();
}

fn upsert(address: &str, backends: &[&str]) -> Value {
    let backends = backends.iter();
    let backends: Vec<Value> = backends
        .map(|address| json!({"address": address, "port": 8080}))
        .collect();
    let port = json!({"name": "http", "port": 80, "backends": backends});
    json!({"addresses": [address], "ports": [port]})
}

/// Puts a service; the answer with its status.
fn put(bench: &Bench, name: &str, body: &Value) -> (u16, Value) {
    let path = format!("/v1/service/default/{name}");
    let (status, answer) = bench.request("PUT", &path, Some(body));
    (
        status,
        serde_json::from_str(&answer).unwrap_or(answer.into()),
    )
}

#[test]
fn the_api_has_services_of_its_own() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    // Without Kubernetes: no manifest of anything.
    let mut bench = Bench::new("svc-api");
    bench.start();
    let (status, answer) = put(&bench, "own", &upsert("192.0.2.80", &["10.78.0.1"]));
    assert_eq!(status, 201, "{answer}\n{}", bench.log());
    assert_eq!(answer["created"], true);
    let frontend = &answer["frontends"][0];
    assert_eq!(frontend["spec"]["frontend-address"]["ip"], "192.0.2.80");
    assert_eq!(frontend["spec"]["flags"]["type"], "LoadBalancer");
    assert_eq!(frontend["status"]["realized"], frontend["spec"], "in force");
    assert_eq!(behind(&bench, "own"), are(&["10.78.0.1"]));

    let two = upsert("192.0.2.80", &["10.78.0.1", "10.78.0.2"]);
    let (status, answer) = put(&bench, "own", &two);
    assert_eq!(
        (status, &answer["created"]),
        (200, &json!(false)),
        "{answer}"
    );
    assert_eq!(behind(&bench, "own"), are(&["10.78.0.1", "10.78.0.2"]));
    assert_eq!(answer["frontends"], bench.json("/v1/service/default/own"));

    // Another wants its address, and has one of its own.
    let mut other = upsert("192.0.2.80", &["10.78.0.3"]);
    other["addresses"] = json!(["192.0.2.81", "192.0.2.80"]);
    let (status, answer) = put(&bench, "other", &other);
    assert_eq!(
        (status, &answer["left-out"][0]["field"]),
        (201, &json!("addresses[1]"))
    );
    let reason = answer["left-out"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("Service default/own"), "{answer}");
    assert_eq!(
        answer["frontends"].as_array().map(Vec::len),
        Some(1),
        "{answer}"
    );

    // What is wrong changes nothing.
    for (pointer, value, part) in [
        (
            "/ports/0/backends/1/address",
            json!("10.78.0"),
            "ports[0].backends[1].address",
        ),
        ("/ports/0/port", json!("http"), "ports[0].port"),
        ("/algorithm", json!("maglev"), "bpf-lb-algorithm-annotation"),
    ] {
        let mut body = two.clone();
        body["algorithm"] = "".into();
        *body.pointer_mut(pointer).expect(pointer) = value;
        let (status, answer) = put(&bench, "own", &body);
        assert_eq!(status, 400, "{answer}");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{answer}");
    }
    let (status, answer) = bench.request("PUT", "/v1/service/default/Own", Some(&two));
    assert!(
        status == 400 && answer.contains("name: \\\"Own\\\""),
        "{answer}"
    );
    assert_eq!(behind(&bench, "own"), are(&["10.78.0.1", "10.78.0.2"]));

    // It is there for the next agent, under its numbers.
    let before = row(&bench, "own").expect("a row");
    bench.kill();
    bench.start();
    assert_eq!(row(&bench, "own"), Some(before));

    // What a manifest says is the manifest's.
    bench.manifest("web.yaml", &service("web", "10.96.0.10", "{}"));
    bench.until("a manifest's", |bench| row(bench, "web").is_some());
    assert_eq!(put(&bench, "web", &two).0, 409);
    let delete = |bench: &Bench, name: &str| {
        bench.request("DELETE", &format!("/v1/service/default/{name}"), None)
    };
    assert_eq!(delete(&bench, "web").0, 409);
    assert!(row(&bench, "web").is_some());

    assert_eq!(delete(&bench, "own").0, 200);
    assert_eq!(row(&bench, "own"), None);
    assert_eq!(delete(&bench, "own").0, 404);
    // Its address is the other's now.
    assert_eq!(
        bench
            .json("/v1/service/default/other")
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    bench.kill();
    bench.start();
    assert_eq!(
        (row(&bench, "own"), behind(&bench, "other")),
        (None, are(&["10.78.0.3"]))
    );
    bench.stop();
}
