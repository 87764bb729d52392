//! Filters of another kind in the place where ours would stand.

use std::error::Error;

use axon_linux::{AttachMode, Features};

use crate::common::root;
use crate::stage::{Stage, has, must, reaches, silent, stage, stage_with};

/// Filters that ours cannot share a preference with, and what they are called.
const UNLIKE: [(&str, &str); 2] = [
    (
        "protocol all u32 match u32 0 0 classid 1:1",
        "u32 for every protocol",
    ),
    ("protocol ip bpf da bytecode 1,6@0@0@0,", "bpf for IPv4"),
];
const SIDES: [&str; 2] = ["ingress", "egress"];

fn device(stage: &Stage) -> String {
    stage.pods[0].link.host_name.clone()
}

/// Adds a filter of another to the first pod's device.
fn add(stage: &Stage, side: &str, preference: &str, filter: &str) {
    let device = device(stage);
    // There may be a qdisc already.
    let qdisc = ["qdisc", "add", "dev", &device, "clsact"];
    stage.node.exec("tc", &qdisc);
    let command = format!("tc filter add dev {device} {side} pref {preference} {filter}");
    let words: Vec<String> = command
        .split(' ')
        .map(|word| word.replace('@', " "))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    must(&stage.node, &words);
}

fn delete(stage: &Stage, side: &str, preference: &str) {
    let device = device(stage);
    let filter = ["dev", &device, side, "pref", preference];
    must(
        &stage.node,
        &[&["tc", "filter", "del"], &filter[..]].concat(),
    );
}

/// Filters of ours on the first pod's device.
fn ours(stage: &Stage) -> usize {
    let device = device(stage);
    let count = |side| {
        let shown = stage
            .node
            .exec("tc", &["filter", "show", "dev", &device, side]);
        let text = String::from_utf8(shown.stdout).expect("UTF-8");
        text.matches("axon_").count()
    };
    SIDES.into_iter().map(count).sum()
}

fn detach(stage: &mut Stage) {
    let index = stage.pods[0].ifindex;
    let Stage { node, datapath, .. } = stage;
    node.run(|| datapath.detach_endpoint(index))
        .expect("detached");
}

/// Attaches the first pod, at once or not; what is wrong if it cannot be.
fn attach(stage: &mut Stage, at_once: bool) -> Result<(), String> {
    let index = stage.pods[0].ifindex;
    let Stage { node, datapath, .. } = stage;
    let attached = node.run(|| {
        if at_once {
            datapath.attach_endpoint_at_once(index)
        } else {
            datapath.attach_endpoint(index)
        }
    });
    attached.map_err(|error| {
        let cause = error.source().map(ToString::to_string);
        cause.unwrap_or_default()
    })
}

#[test]
fn a_filter_in_our_place_that_does_not_share_it_is_named() {
    let Some(()) = root() else { return };
    if !has("tc") {
        return;
    }
    let mut stage = stage_with("occupied", |config| config.attach = AttachMode::Clsact);
    let device = device(&stage);
    for (filter, called) in UNLIKE {
        for side in SIDES {
            detach(&mut stage);
            add(&stage, side, "1", filter);
            for at_once in [true, false] {
                let wrong = attach(&mut stage, at_once).expect_err("there is no place");
                for told in [called, &format!("tc filter del dev {device} {side} pref 1")] {
                    assert!(wrong.contains(told), "{told}: {wrong}");
                }
            }
            // As it is told.
            delete(&stage, side, "1");
            add(&stage, side, "2", filter);
            attach(&mut stage, true).expect("attached");
            assert_eq!(ours(&stage), 2);
            reaches(&stage.pods[0], &stage.pods[1], "10.7.0.2");
            delete(&stage, side, "2");
        }
    }
}

#[test]
fn filters_of_other_chains_are_in_nobodys_place() {
    let Some(()) = root() else { return };
    if !has("tc") {
        return;
    }
    let mut stage = stage_with("chains", |config| config.attach = AttachMode::Clsact);
    detach(&mut stage);
    let [(elsewhere, _), (filter, called)] = UNLIKE;
    add(&stage, "ingress", "1", &format!("chain 7 {elsewhere}"));
    attach(&mut stage, true).expect("attached");
    assert_eq!(ours(&stage), 2);
    // Nor is one of them blamed for another.
    detach(&mut stage);
    add(&stage, "ingress", "1", filter);
    let wrong = attach(&mut stage, true).expect_err("there is no place");
    assert!(wrong.contains(called), "{wrong}");
}

#[test]
fn where_there_is_tcx_links_are_made_at_once_instead() {
    let Some(()) = root() else { return };
    if !Features::probe().has(Features::TCX) || !has("tc") {
        return;
    }
    let mut stage = stage("occupied-tcx");
    detach(&mut stage);
    let (filter, _) = UNLIKE[0];
    add(&stage, "ingress", "1", filter);
    attach(&mut stage, true).expect("attached");
    assert_eq!(ours(&stage), 0, "links, and no filters");
    let Stage { node, datapath, .. } = &mut stage;
    let left = node.run(|| datapath.settle()).expect("settled");
    assert!(!left);
    reaches(&stage.pods[0], &stage.pods[1], "10.7.0.2");
    stage.close();
    silent(&stage.pods[1], &stage.pods[0], "10.7.0.1");
}
