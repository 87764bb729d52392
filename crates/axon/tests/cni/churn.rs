//! Many calls at once, and agents that die meanwhile: one result, nothing left.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::node::{Call, Node, at_once, manifests};

/// What an agent's memory may grow by after the first third of the rounds: what
/// the allocator keeps, and no more.
const GROWTH_MAX: usize = 8 << 20;

/// Creates pods in parallel and deletes them, over and over.
fn churn(name: &str, pods: usize, rounds: usize) {
    let Some(mut node) = Node::start(name, &manifests(pods)) else {
        return;
    };
    let before = node.traces();
    let mut weights = Vec::new();
    for round in 0..rounds {
        let calls: Vec<Call> = (0..pods)
            .map(|n| node.call("1.0.0", &format!("c{n}"), &format!("p{n}")))
            .collect();
        let all = |command| -> Vec<(Call, &'static str)> {
            calls.iter().map(|call| (call.clone(), command)).collect()
        };
        let mut addresses: Vec<String> = at_once(&all("ADD"))
            .into_iter()
            .map(|added| added.good()["ips"][0]["address"].to_string())
            .collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), pods, "an address for each");
        let endpoints = node.get("/v1/endpoint");
        let ready = |e: &&Value| e["status"]["state"] == "ready";
        let list = endpoints.as_array().expect("list");
        assert_eq!(list.iter().filter(ready).count(), pods, "round {round}");
        if round % 2 == 1 {
            // Time for what is done when nobody waits.
            thread::sleep(Duration::from_millis(1500));
        }
        for deleted in at_once(&all("DEL")) {
            deleted.good();
        }
        node.until_clean(&before);
        weights.push(node.weight());
    }
    println!("memory and open files after each round: {weights:?}");
    let early = weights.len() / 3;
    assert!(early + 1 < weights.len(), "rounds to compare");
    let (early, late) = (weights[early], weights[weights.len() - 1]);
    assert!(late.0 < early.0 + GROWTH_MAX, "memory grows: {weights:?}");
    assert!(late.1 <= early.1 + 4, "files stay open: {weights:?}");
}

#[test]
fn twenty_pods_come_and_go_four_times() {
    churn("churn", 20, 4);
}

#[test]
#[ignore = "takes minutes; the short form is `twenty_pods_come_and_go_four_times`"]
fn a_hundred_pods_come_and_go_ten_times() {
    churn("churn-long", 100, 10);
}

#[test]
fn the_same_container_fifty_times_at_once_is_one() {
    let Some(mut node) = Node::start("bomb", &manifests(1)) else {
        return;
    };
    let before = node.traces();
    let call = node.call("1.0.0", "c0", "p0");
    let adds = vec![(call.clone(), "ADD"); 50];
    let mut results: Vec<String> = at_once(&adds)
        .into_iter()
        .map(|added| added.good().to_string())
        .collect();
    results.dedup();
    assert_eq!(results.len(), 1, "{results:#?}");
    assert_eq!(node.get("/v1/endpoint").as_array().map(Vec::len), Some(1));
    let mixed: Vec<(Call, &str)> = (0..50)
        .map(|n| (call.clone(), if n % 3 == 2 { "DEL" } else { "ADD" }))
        .collect();
    for outcome in at_once(&mixed) {
        outcome.good();
    }
    let last = call.run("ADD").good();
    call.with(|conf| conf["prevResult"] = last)
        .run("CHECK")
        .good();
    assert_eq!(node.get("/v1/endpoint").as_array().map(Vec::len), Some(1));
    for outcome in at_once(&vec![(call, "DEL"); 50]) {
        outcome.good();
    }
    node.until_clean(&before);
}

#[test]
fn adds_outlive_an_agent_that_is_killed() {
    let Some(mut node) = Node::start("killed", &manifests(12)) else {
        return;
    };
    let before = node.traces();
    let calls: Vec<(Call, &str)> = (0..12)
        .map(|n| {
            (
                node.call("1.0.0", &format!("c{n}"), &format!("p{n}")),
                "ADD",
            )
        })
        .collect();
    for wait_ms in [0, 15, 40] {
        let adding = calls.clone();
        let adding = thread::spawn(move || at_once(&adding));
        thread::sleep(Duration::from_millis(wait_ms));
        node.kill_agent();
        node.start_agent(None);
        let outcomes = adding.join().expect("calls");
        for ((call, _), outcome) in calls.iter().zip(outcomes) {
            // A machine may be so busy that a plugin has given up: that is told, and
            // a runtime asks again.
            assert!(outcome.ok || outcome.body["code"] == 11, "{outcome:?}");
            let added = call.run("ADD").good();
            assert!(
                !outcome.ok || outcome.body == added,
                "{outcome:?}, then {added}"
            );
            call.with(|conf| conf["prevResult"] = added)
                .run("CHECK")
                .good();
        }
        for (call, _) in &calls {
            call.run("DEL").good();
        }
        node.until_clean(&before);
    }
}
