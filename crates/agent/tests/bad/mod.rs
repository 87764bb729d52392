//! What may happen to an agent's files, pins and devices. In no case may a pod
//! reach what policy keeps from it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Bench, is_root};

const CLOSED: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: b}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: a}}]
";

/// A node with pods a, b and c; only a may reach b.
fn node(name: &str) -> Option<(Bench, [Value; 3])> {
    if !is_root() {
        println!("skipped: needs root");
        return None;
    }
    let mut bench = Bench::new(name);
    bench.manifest("base.yaml", &bench.base(&["a", "b", "c", "d"]));
    bench.manifest("closed.yaml", CLOSED);
    bench.start();
    let endpoints = ["a", "b", "c"].map(|pod| bench.add(pod));
    Some((bench, endpoints))
}

fn v4(endpoint: &Value) -> String {
    endpoint["ipv4"].as_str().expect("an address").to_owned()
}

/// Identities of the endpoints by pod.
fn identities(bench: &Bench) -> Vec<(String, u64)> {
    let list: Value = serde_json::from_str(&bench.get("/v1/endpoint")).expect("json");
    let of = |e: &Value| {
        let pod = e["status"]["external-identifiers"]["k8s-pod-name"].as_str();
        let identity = e["status"]["identity"]["id"].as_u64();
        (pod.unwrap_or("").to_owned(), identity.expect("an identity"))
    };
    list.as_array().expect("a list").iter().map(of).collect()
}

#[test]
fn torn_files_open_no_door_and_take_no_address_twice() {
    let Some((mut bench, [a, b, _])) = node("torn") else {
        return;
    };
    let b = v4(&b);
    assert!(bench.ping("a", &b) && !bench.ping("c", &b));
    let before = identities(&bench);
    bench.kill();
    // The files that everything can be made anew from: endpoints know their own.
    for name in [
        "control.json",
        "control.changes",
        "ipam.json",
        "events.json",
    ] {
        let path = bench.path("state").join(name);
        let text = fs::read(&path).unwrap_or_default();
        fs::write(&path, &text[..text.len() / 2]).expect("torn");
    }
    fs::write(bench.path("state").join("endpoints/.1.json.new"), "{").expect("written");
    bench.start();
    assert_eq!(identities(&bench), before, "identities keep their numbers");
    assert!(bench.ping("a", &b) && !bench.ping("c", &b));
    let d = bench.add("d");
    let others = [v4(&a), b.clone()];
    assert!(!others.contains(&v4(&d)), "{d} beside {others:?}");
    assert!(!bench.ping("d", &b));
    for name in ["control", "ipam"] {
        let aside = bench.path("state").join(format!("{name}.json.corrupt"));
        assert!(aside.exists(), "{}", aside.display());
        assert!(bench.log().contains(aside.to_str().expect("UTF-8")));
    }

    // An endpoint's own file: nobody knows whose device that is.
    bench.kill();
    let file = bench.record_file("c");
    fs::write(&file, "{\"endpoint\": {\"id\"").expect("torn");
    bench.start();
    assert!(!bench.ping("c", &v4(&a)), "without a row nothing passes");
    assert!(!bench.ping("c", "192.0.2.1"), "nor to the node itself");
    assert!(bench.ping("a", &b), "others are not touched");
    let device = bench.device_of("c").expect("its device is still there");
    bench.until("status names the device", |bench| {
        let (state, text) = bench.status("datapath");
        state == "Warning" && text.contains(&device)
    });
    let anew = bench.path("state").join("endpoints");
    assert!(fs::read_dir(anew).expect("list").any(|file| {
        let name = file.expect("file").file_name();
        name.to_string_lossy().ends_with(".corrupt")
    }));
    // The runtime starts the pod anew: DEL, ADD.
    assert_eq!(bench.delete_attachment("c"), 200);
    assert!(bench.device_of("c").is_none(), "its device has gone");
    bench.add("c");
    bench.until("c reaches a", |bench| bench.ping("c", &v4(&a)));
    bench.until("status is well", |bench| bench.status("datapath").0 == "Ok");
}

#[test]
fn a_torn_copy_of_a_broken_manifest_opens_no_door() {
    let Some((mut bench, [_, b, _])) = node("torncopy") else {
        return;
    };
    let b = v4(&b);
    assert!(bench.ping("a", &b) && !bench.ping("c", &b));
    let is_closed =
        |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| text.contains("name: closed"));
    let kept = bench.path("state/lib").join("sources");
    let copies = || {
        let entries = fs::read_dir(&kept).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).find(is_closed)
    };
    bench.until("the policy is kept", |_| copies().is_some());
    let copy = copies().expect("kept");
    bench.kill();
    bench.manifest("closed.yaml", "kind: [");
    fs::write(&copy, "").expect("torn");
    let file = bench.path("manifests").join("closed.yaml");
    for life in ["first", "second"] {
        if life == "second" {
            bench.kill();
        }
        bench.start_only();
        bench.until("it answers", |bench| {
            bench.request("GET", "/v1/healthz", None).0 == 200
        });
        bench.until("status names file and copy", |bench| {
            let (state, text) = bench.status("sources");
            let named = [file.to_str(), copy.to_str()].map(|name| name.expect("UTF-8"));
            state == "Failure" && named.iter().all(|name| text.contains(name))
        });
        assert!(bench.ping("a", &b) && !bench.ping("c", &b), "{life}");
    }
    bench.manifest("closed.yaml", CLOSED);
    bench.until_ready();
    bench.until("status is well", |bench| {
        bench.status("sources").0 == "Ok" && bench.status("endpoints").0 == "Ok"
    });
    assert!(bench.ping("a", &b) && !bench.ping("c", &b));
}

#[test]
fn a_state_directory_that_is_lost_cuts_off_and_opens_nothing() {
    let Some((mut bench, [a, b, _])) = node("lost") else {
        return;
    };
    bench.kill();
    fs::remove_dir_all(bench.path("state")).expect("removed");
    bench.start();
    let (a, b) = (v4(&a), v4(&b));
    for (from, to) in [("c", &b), ("a", &b), ("b", &a)] {
        assert!(!bench.ping(from, to), "{from} reaches {to}");
    }
    bench.until("status says so", |bench| {
        bench.status("datapath").0 == "Warning"
    });
    for pod in ["a", "b", "c"] {
        assert_eq!(bench.delete_attachment(pod), 200);
        assert!(bench.device_of(pod).is_none(), "{pod}");
    }
    let b = v4(&["a", "b", "c"].map(|pod| bench.add(pod))[1]);
    bench.until("a reaches b", |bench| bench.ping("a", &b));
    assert!(!bench.ping("c", &b));
}

#[test]
fn a_bpffs_that_vanishes_comes_back_and_nothing_is_lost() {
    let Some((mut bench, [_, b, _])) = node("vanish") else {
        return;
    };
    let b = v4(&b);
    let pings = bench.pings("a", &b, 200, Duration::from_millis(50));
    axon_linux::mount::unmount_tree(&bench.path("bpf")).expect("unmounted");
    bench.until("the agent mounts and pins anew", |bench| {
        let (state, text) = bench.status("datapath");
        state == "Ok" && text.contains("1 times")
    });
    assert!(bench.path("bpf/axon_programs_v1").exists());
    bench.kill();
    assert!(!bench.ping("c", &b), "nobody is let in meanwhile");
    bench.start();
    let whole = format!("adopted={} created=0", axon_abi::MAPS.len());
    assert!(bench.log().contains(&whole), "{}", bench.log());
    assert!(bench.ping("a", &b) && !bench.ping("c", &b));
    let report = pings.finish();
    assert!(report.contains("200 received"), "{report}");
    // Somebody else's files where it was: told, not hidden by a mount.
    axon_linux::mount::unmount_tree(&bench.path("bpf")).expect("unmounted");
    let file = bench.path("bpf/precious");
    fs::write(&file, "").expect("written");
    bench.until("status names the file", |bench| {
        let (state, text) = bench.status("datapath");
        state == "Failure" && text.contains("precious")
    });
    assert!(
        bench.ping("a", &b) && !bench.ping("c", &b),
        "all stays in force"
    );
    fs::remove_file(&file).expect("removed");
    bench.until("it is well again", |bench| {
        bench.status("datapath").0 == "Ok"
    });
    assert!(bench.ping("a", &b) && !bench.ping("c", &b));
}

/// The programs go with the agent, as nothing can be pinned: pods are cut off
/// then, not let free.
#[test]
fn an_agent_that_ends_without_a_place_for_its_pins_opens_nothing() {
    let Some((mut bench, [a, b, _])) = node("placeless") else {
        return;
    };
    let (a, b) = (v4(&a), v4(&b));
    axon_linux::mount::unmount_tree(&bench.path("bpf")).expect("unmounted");
    let file = bench.path("bpf/precious");
    fs::write(&file, "").expect("written");
    bench.until("status names the file", |bench| {
        let (state, text) = bench.status("datapath");
        state == "Failure" && text.contains("precious")
    });
    assert!(bench.ping("a", &b) && !bench.ping("c", &b));
    bench.kill();
    for (from, to) in [("a", &b), ("b", &a), ("c", &b)] {
        assert!(!bench.ping(from, to), "{from} reaches {to}");
    }
    let (status, said) = bench.second("next");
    assert!(!status.success() && said.contains("precious"), "{said}");
    assert!(!bench.ping("c", &b), "a refused start opens nothing");
    fs::remove_file(&file).expect("removed");
    bench.start();
    bench.until("a reaches b", |bench| bench.ping("a", &b));
    assert!(!bench.ping("c", &b));
    bench.until("status is well", |bench| bench.status("datapath").0 == "Ok");
}

#[test]
fn devices_that_are_renamed_or_deleted_are_followed() {
    let Some((mut bench, [a, b, _])) = node("rename") else {
        return;
    };
    let (a, b) = (v4(&a), v4(&b));
    let device = bench.device_of("c").expect("a device");
    bench.ip(&["link", "set", &device, "down"]);
    bench.ip(&["link", "set", &device, "name", "other0"]);
    bench.ip(&["link", "set", "other0", "up"]);
    bench.until("the new name is on disk", |bench| {
        let record = fs::read_to_string(bench.record_file("c")).unwrap_or_default();
        record.contains("other0")
    });
    assert!(!bench.ping("c", &b), "policy is in force under any name");
    bench.kill();
    bench.start();
    assert!(!bench.ping("c", &b));
    bench.until("c reaches a", |bench| bench.ping("c", &a));
    assert_eq!(bench.delete("c"), 200);
    assert!(!bench.has_device("other0"));

    let device = bench.device_of("b").expect("a device");
    bench.ip(&["link", "del", &device]);
    bench.until("the endpoint goes with its device", |bench| {
        !bench.is_recorded("b")
    });

    bench.ip(&["link", "set", "up0", "down"]);
    bench.ip(&["link", "set", "up0", "name", "up9"]);
    bench.until("status names the uplink", |bench| {
        let (state, text) = bench.status("devices");
        state == "Warning" && text.contains("up0")
    });
    bench.ip(&["link", "set", "up9", "name", "up0"]);
    bench.ip(&["link", "set", "up0", "up"]);
    bench.until("the uplink is back", |bench| {
        bench.status("devices").0 == "Ok"
    });
    bench.ip(&["link", "del", "up0"]);
    bench.until("status names it again", |bench| {
        bench.status("devices").0 == "Warning"
    });
    bench.kill();
    bench.start();
    assert_eq!(
        bench.status("devices").0,
        "Warning",
        "an agent starts without"
    );
}

/// A device has the index that an endpoint's device had, whose DEL never came.
#[test]
fn a_device_with_the_index_of_an_endpoints_is_left_alone() {
    let Some((mut bench, [_, b, _])) = node("index") else {
        return;
    };
    let b = v4(&b);
    for (pod, other, is_killed) in [("b", "other1", true), ("c", "other2", false)] {
        if is_killed {
            bench.kill();
        }
        let record = fs::read_to_string(bench.record_file(pod)).expect("its record");
        let record: Value = serde_json::from_str(&record).expect("json");
        let index = record["endpoint"]["ifindex"].to_string();
        let device = bench.device_of(pod).expect("a device");
        bench.ip(&["link", "del", &device]);
        bench.ip(&["link", "add", other, "index", &index, "type", "veth"]);
        if is_killed {
            bench.start();
        }
        bench.until("the endpoint goes with its device", |bench| {
            !bench.is_recorded(pod)
        });
        assert!(bench.has_device(other));
        let netns = format!("--net={}", bench.node_netns().display());
        let shown = Command::new("nsenter")
            .args([&netns, "tc", "qdisc", "show", "dev", other])
            .output()
            .expect("tc runs");
        let shown = String::from_utf8_lossy(&shown.stdout);
        assert!(!shown.contains("clsact"), "{shown}");
        let pins = fs::read_dir(bench.path("bpf").join("links")).expect("the pins");
        let names = pins.map(|pin| pin.expect("a pin").file_name());
        let own = format!("{index}-");
        let left = names.filter(|name| name.to_string_lossy().starts_with(&own));
        assert_eq!(left.count(), 0, "{other}");
        assert!(!bench.ping("a", &b), "its address is nobody's");
    }
    let b = v4(&bench.add("b"));
    bench.until("a reaches b, made anew", |bench| bench.ping("a", &b));
}

/// Pins are gone, the state directory is there, and pods come before the agent
/// is ready.
#[test]
fn after_a_reboot_pods_may_come_first() {
    let Some((mut bench, [a, ..])) = node("reboot") else {
        return;
    };
    bench.reboot();
    assert_eq!(bench.records(), 3, "what the last life has left");
    bench.start_only();
    bench.until("somebody listens", |bench| bench.path("axon.sock").exists());
    // The same containers, as a runtime may start them, and a new one.
    let statuses = bench
        .start_adding(&["a", "b", "c", "d"])
        .join()
        .expect("adding");
    assert_eq!(statuses, [201; 4], "{}", bench.log());
    bench.until_ready();
    assert_eq!((bench.records(), bench.addresses_in_use()), (4, 8));
    let b = v4(&bench.add("b"));
    assert_ne!(v4(&bench.add("a")), b);
    assert_ne!(v4(&a), "");
    bench.until("a reaches b", |bench| bench.ping("a", &b));
    assert!(!bench.ping("c", &b) && !bench.ping("d", &b));
}

#[test]
fn an_agent_may_be_ended_at_any_moment_of_its_start_and_of_a_policy_change() {
    let Some((mut bench, [_, b, _])) = node("moments") else {
        return;
    };
    let b = v4(&b);
    let before = bench.get("/v1/endpoint");
    let pings = bench.pings("a", &b, 400, Duration::from_millis(20));
    let denied = bench.pings("c", &b, 400, Duration::from_millis(20));
    for round in 0..12_u64 {
        bench.kill();
        bench.start_only();
        std::thread::sleep(Duration::from_millis(15 * round));
        if round % 3 == 2 {
            // By SIGTERM, which may come before anybody listens to it.
            bench.terminate();
            bench.start_only();
        }
    }
    bench.until_ready();
    for round in 0..6_u64 {
        bench.manifest("more.yaml", &CLOSED.replace("name: closed", "name: more"));
        std::thread::sleep(Duration::from_millis(10 * round));
        bench.kill();
        bench.start();
        bench.remove_manifest("more.yaml");
    }
    let (allowed, denied) = (pings.finish(), denied.finish());
    assert!(allowed.contains("400 received"), "{allowed}");
    assert!(denied.contains(" 0 received"), "{denied}");
    let ids = |text: &str| -> Vec<String> {
        let list: Value = serde_json::from_str(text).expect("json");
        let list = list.as_array().expect("a list").iter();
        list.map(|e| format!("{} {}", e["id"], e["status"]["networking"]))
            .collect()
    };
    assert_eq!(ids(&before), ids(&bench.get("/v1/endpoint")));
}
