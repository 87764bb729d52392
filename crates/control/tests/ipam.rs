//! IPAM: cases by hand, and a model over random histories.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_control::{Family, Ipam, IpamError};
use ipnet::IpNet;
use proptest::prelude::*;

fn ipam(pools: &[&str]) -> Ipam {
    let mut ipam = Ipam::default();
    let pools: Vec<IpNet> = pools.iter().map(|p| p.parse().expect("prefix")).collect();
    ipam.set_pools(&pools);
    ipam
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

#[test]
fn what_is_not_for_endpoints_is_not_given() {
    for (pool, expected) in [
        (
            "10.0.0.0/29",
            vec!["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
        ),
        ("10.0.0.0/30", vec!["10.0.0.2"]),
        ("10.0.0.4/31", vec!["10.0.0.4", "10.0.0.5"]),
        ("10.0.0.7/32", vec!["10.0.0.7"]),
        ("fd00::/126", vec!["fd00::2", "fd00::3"]),
        ("fd00::8/127", vec!["fd00::8", "fd00::9"]),
    ] {
        let mut ipam = ipam(&[pool]);
        let family = Family::of(ip(expected[0]));
        for (n, addr) in expected.iter().enumerate() {
            let given = ipam.allocate(&format!("owner-{n}"), family, None);
            assert_eq!(given, Ok(ip(addr)), "{pool}");
        }
        let error = ipam.allocate("one-more", family, None).expect_err(pool);
        let exhausted = IpamError::Exhausted {
            pools: pool.into(),
            in_use: expected.len(),
        };
        assert_eq!(error, exhausted);
        assert!(error.to_string().contains(pool), "{error}");
    }
}

#[test]
fn an_address_asked_for_is_given_or_refused_with_the_reason() {
    let mut ipam = ipam(&["10.0.0.0/24", "fd00::/64"]);
    assert_eq!(
        ipam.allocate("a", Family::Ipv4, Some(ip("10.0.0.9"))),
        Ok(ip("10.0.0.9"))
    );
    for (owner, addr, expected) in [
        ("a", "10.0.0.9", Ok("10.0.0.9")),
        ("a", "10.0.0.10", Err("a has the address 10.0.0.9 already")),
        ("b", "10.0.0.9", Err("address 10.0.0.9 is in use by a")),
        (
            "b",
            "10.0.1.9",
            Err("address 10.0.1.9 is not in the node's pod CIDRs (10.0.0.0/24)"),
        ),
        (
            "b",
            "10.0.0.255",
            Err("address 10.0.0.255 is reserved: it is the broadcast address of 10.0.0.0/24"),
        ),
        (
            "b",
            "10.0.0.1",
            Err("address 10.0.0.1 is reserved: it is the router address of 10.0.0.0/24"),
        ),
        (
            "b",
            "fd00::",
            Err("address fd00:: is reserved: it is the network address of fd00::/64"),
        ),
        (
            "b",
            "fd00::ffff:ffff:ffff:ffff",
            Ok("fd00::ffff:ffff:ffff:ffff"),
        ),
    ] {
        let family = Family::of(ip(addr));
        let got = ipam
            .allocate(owner, family, Some(ip(addr)))
            .map_err(|e| e.to_string());
        assert_eq!(
            got,
            expected.map(ip).map_err(str::to_owned),
            "{owner} asks for {addr}"
        );
    }
    assert_eq!(ipam.router(Family::Ipv6), Some(ip("fd00::1")));
    let mut none = Ipam::default();
    let error = none.allocate("a", Family::Ipv6, None);
    assert_eq!(
        error,
        Err(IpamError::NoPool {
            family: Family::Ipv6
        })
    );
}

#[test]
fn an_address_comes_back_as_late_as_possible() {
    let mut ipam = ipam(&["10.0.0.0/29", "10.0.1.0/29"]);
    let mut seen = Vec::new();
    for n in 0..20 {
        let owner = format!("pod-{n}");
        seen.push(ipam.allocate(&owner, Family::Ipv4, None).expect("free"));
        ipam.release(&owner);
        let text = serde_json::to_string(&ipam).expect("text");
        ipam = serde_json::from_str(&text).expect("and back");
    }
    assert_eq!(seen[..10], seen[10..]);
    let mut distinct = seen.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(
        distinct.len(),
        10,
        "every address of both pools had its turn"
    );
}

#[derive(Clone, Debug)]
enum Act {
    Allocate(u8, bool, Option<u8>),
    Release(u8),
    Restart,
    Pools(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..12_u8, any::<bool>(), prop::option::weighted(0.2, 0..20_u8))
            .prop_map(|(o, v6, want)| Act::Allocate(o, v6, want)),
        3 => (0..12_u8).prop_map(Act::Release),
        1 => Just(Act::Restart),
        1 => any::<bool>().prop_map(Act::Pools),
    ]
}

proptest! {
    #[test]
    fn never_two_owners_and_none_leaked(acts in prop::collection::vec(act(), 1..80)) {
        let small = ["10.0.0.0/29", "fd00::/125"];
        let moved = ["10.0.0.0/29", "10.9.0.0/30", "fd00::/125"];
        let mut ipam = ipam(&small);
        let mut model: BTreeMap<IpAddr, String> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Allocate(owner, v6, want) => {
                    let owner = format!("owner-{owner}");
                    let family = if v6 { Family::Ipv6 } else { Family::Ipv4 };
                    let want = want.map(|n| if v6 { ip(&format!("fd00::{n:x}")) } else { ip(&format!("10.0.0.{n}")) });
                    let held = model.iter().find(|(a, o)| **o == owner && Family::of(**a) == family).map(|(a, _)| *a);
                    match ipam.allocate(&owner, family, want) {
                        Ok(addr) => {
                            prop_assert_eq!(Family::of(addr), family);
                            prop_assert!(want.is_none_or(|w| w == addr));
                            prop_assert!(held.is_none_or(|h| h == addr));
                            let before = model.insert(addr, owner.clone());
                            prop_assert!(before.is_none_or(|o| o == owner), "two owners of {}", addr);
                        }
                        Err(IpamError::Exhausted { .. }) => {
                            let used = model.keys().filter(|a| Family::of(**a) == family).count();
                            prop_assert!(used >= if v6 { 6 } else { 5 }, "{} of a pool's", used);
                        }
                        Err(_) => prop_assert!(want.is_some()),
                    }
                }
                Act::Release(owner) => {
                    let owner = format!("owner-{owner}");
                    let mut released = ipam.release(&owner);
                    released.sort();
                    let held: Vec<IpAddr> = model.iter().filter(|(_, o)| **o == owner).map(|(a, _)| *a).collect();
                    prop_assert_eq!(released, held);
                    model.retain(|_, o| *o != owner);
                }
                Act::Restart => {
                    let text = serde_json::to_string(&ipam).expect("text");
                    ipam = serde_json::from_str(&text).expect("and back");
                }
                Act::Pools(more) => {
                    let pools: &[&str] = if more { &moved } else { &small };
                    let pools: Vec<IpNet> = pools.iter().map(|p| p.parse().expect("prefix")).collect();
                    ipam.set_pools(&pools);
                }
            }
            let kept: BTreeMap<IpAddr, String> = ipam.iter().map(|(a, o)| (a, o.to_owned())).collect();
            prop_assert_eq!(&kept, &model);
        }
    }
}
