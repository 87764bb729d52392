//! Policies in ordered tiers.

use axon_control::Config;
use axon_model::{Action, Peer, Peers, Tier};

use crate::world::{Cluster, config, ingress};

#[test]
fn networks_that_do_not_mean_pods_are_told_of() {
    let networks = Peers::List(vec![Peer::Cidr {
        cidr: "10.0.0.0/8".parse().expect("a prefix"),
        except: Vec::new(),
    }]);
    let pods = Config {
        cidr_selects_pods: true,
        ..config()
    };
    for (config, action, told) in [
        (config(), Action::Deny, true),
        (config(), Action::Pass, true),
        (config(), Action::Allow, false),
        (pods, Action::Deny, false),
    ] {
        let mut c = Cluster::new(config);
        let tier = Tier::Admin(1);
        c.policy_in("closed", tier, vec![ingress(action, networks.clone(), 80)]);
        c.complete();
        let report = c.step();
        let mut told_of = report.conditions.iter();
        let is_told = told_of.any(|c| c.remedy.contains("policy-cidr-match-mode"));
        assert_eq!(is_told, told, "{action:?}");
    }
}
