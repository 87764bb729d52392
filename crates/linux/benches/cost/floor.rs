//! The floors: programs that do the least.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;

use axon_testkit::Build;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};

use crate::stages::{Stage, run};

/// As the floor's look-ups expect them.
const SPREAD: u32 = 250_000;
const REPEAT: u32 = 200;

fn object() -> Vec<u8> {
    let built = || PathBuf::from(concat!(env!("OUT_DIR"), "/axon_floor.o"));
    let path = std::env::var_os("AXON_COST_FLOOR").map_or_else(built, PathBuf::from);
    std::fs::read(path).expect("the floor's object can be read")
}

fn words(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

fn fill(ebpf: &mut Ebpf) {
    let (a, b) = (Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 12));
    let mut places: HashMap<&mut MapData, u32, [u8; 16]> = ebpf
        .map_mut("floor_place")
        .expect("a map")
        .try_into()
        .expect("a hash");
    places
        .insert(
            words(b),
            [12, 0, 0, 0, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0xff, 2],
            0,
        )
        .expect("written");
    let mut identities: HashMap<&mut MapData, u32, u32> = ebpf
        .map_mut("floor_identity")
        .expect("a map")
        .try_into()
        .expect("a hash");
    identities.insert(words(a), 300, 0).expect("written");
    let mut rules: HashMap<&mut MapData, [u8; 8], u64> = ebpf
        .map_mut("floor_rule")
        .expect("a map")
        .try_into()
        .expect("a hash");
    rules.insert([0; 8], 1, 0).expect("written");
    let address = |n: u32| [0, 0, 0xffff_0000, n.wrapping_mul(0x9e37_79b1)];
    let mut exact: HashMap<&mut MapData, [u32; 4], [u32; 6]> = ebpf
        .map_mut("floor_exact")
        .expect("a map")
        .try_into()
        .expect("a hash");
    for n in 1..=SPREAD {
        exact.insert(address(n), [0; 6], 0).expect("written");
    }
    let mut trie: LpmTrie<&mut MapData, [u32; 4], [u32; 6]> = ebpf
        .map_mut("floor_trie")
        .expect("a map")
        .try_into()
        .expect("a trie");
    for n in 1..=SPREAD {
        // A node that cannot be had at once can be had a moment later.
        let key = Key::new(128, address(n));
        let written = (0..100).any(|tries| {
            if tries > 0 {
                std::thread::sleep(std::time::Duration::from_millis(tries));
            }
            trie.insert(&key, [0; 6], 0).is_ok()
        });
        assert!(written, "the trie takes {n} rows only");
    }
}

/// Every floor; the look-ups among them have as many rows as they ask for.
pub(crate) fn all() -> Vec<Stage> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    let mut ebpf = loader.load(&object()).expect("the floor loads");
    fill(&mut ebpf);
    let mut frame = Build::tcp("10.0.0.11", "10.0.0.12", (4000, 5201), 16).hops(255);
    frame.body.resize(frame.body.len() + 64, 0);
    let frame = frame.frame();
    let ebpf = Rc::new(RefCell::new(ebpf));
    [
        "floor_empty",
        "floor_peer",
        "floor_full",
        "look_base",
        "look_exact",
        "look_trie",
    ]
    .into_iter()
    .map(|name| {
        {
            let mut ebpf = ebpf.borrow_mut();
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .expect("the program")
                .try_into()
                .expect("a classifier");
            program.load().expect("the verifier accepts it");
            let (action, _) = run(program, 12, &frame, 1);
            assert!(matches!(action, 0 | 7), "{name}: {action}");
        }
        let (ebpf, frame) = (Rc::clone(&ebpf), frame.clone());
        let run = move || {
            let mut ebpf = ebpf.borrow_mut();
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .expect("the program")
                .try_into()
                .expect("a classifier");
            run(program, 12, &frame, REPEAT).1
        };
        Stage::new(name, Box::new(run))
    })
    .collect()
}
