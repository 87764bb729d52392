//! Staged policies: nothing in force follows from them, and what they would do is
//! what they do once they are enforced.

mod worlds;

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{Direction, Identity};
use axon_model::PolicyObject;
use axon_policy::{
    Engine, Group, IdentityInfo, Lookup, Numbers, Packet, PolicyConfig, Rehearsal, Resolution,
    World, is_about, reserved_identities, resolve,
};
use proptest::prelude::*;
use worlds::{PORTS, PROTOCOLS, group, group_key, identity, origin, policy};

#[derive(Clone, Debug)]
enum Edit {
    Identity(Identity, IdentityInfo),
    NoIdentity(u32),
    Policy(PolicyObject),
    NoPolicy(u8),
    Group(axon_model::GroupKey, Group),
    NoGroup(axon_model::GroupKey),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => identity().prop_map(|(id, info)| Edit::Identity(id, info)),
        1 => (256..264_u32).prop_map(Edit::NoIdentity),
        4 => (policy(), any::<bool>()).prop_map(|(policy, staged)| {
            Edit::Policy(PolicyObject { staged, ..policy })
        }),
        1 => (0..4_u8).prop_map(Edit::NoPolicy),
        1 => (group_key(), group()).prop_map(|(key, group)| Edit::Group(key, group)),
        1 => group_key().prop_map(Edit::NoGroup),
    ]
}

/// Makes an edit; hands back the identities of which something else is known.
fn apply(edit: &Edit, world: &mut World, engine: &mut Engine) -> BTreeSet<Identity> {
    match edit {
        Edit::Identity(id, info) => {
            world.identities.insert(*id, info.clone());
            engine.upsert_identity(*id, info.clone());
            [*id].into()
        }
        Edit::NoIdentity(id) => {
            world.identities.remove(&Identity(*id));
            engine.remove_identity(Identity(*id));
            [Identity(*id)].into()
        }
        Edit::Policy(policy) => {
            world.policies.insert(policy.origin.clone(), policy.clone());
            engine.upsert_policy(policy.clone());
            BTreeSet::new()
        }
        Edit::NoPolicy(n) => {
            world.policies.remove(&origin(*n));
            engine.remove_policy(&origin(*n));
            BTreeSet::new()
        }
        Edit::Group(key, group) => {
            world.groups.insert(key.clone(), group.clone());
            engine.upsert_group(key, group.clone());
            BTreeSet::new()
        }
        Edit::NoGroup(key) => {
            world.groups.remove(key);
            engine.remove_group(key);
            BTreeSet::new()
        }
    }
}

/// What sets say, whatever their numbers: for each subject, of everybody.
fn said(resolution: &Resolution, world: &World) -> BTreeMap<Identity, Vec<String>> {
    let verdicts = |number: &u32| -> Vec<String> {
        let lookup = Lookup::new(&resolution.sets[number].rows);
        let mut all = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for remote in world.identities.keys() {
                for protocol in PROTOCOLS {
                    for port in PORTS {
                        let verdict = lookup.verdict(Packet {
                            direction,
                            remote: *remote,
                            protocol,
                            port,
                        });
                        // Which of several agreeing rules is told is up to numbers.
                        let word = format!("{verdict:?}");
                        all.push(word.split(' ').next().unwrap_or_default().to_owned());
                    }
                }
            }
        }
        all
    };
    let subjects = resolution.subjects.iter();
    subjects
        .map(|(id, number)| (*id, verdicts(number)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_in_force_follows_from_them(edits in prop::collection::vec(edit(), 1..30)) {
        let config = PolicyConfig::default();
        let (mut with, mut without) = (Engine::new(config.clone()), Engine::new(config));
        let mut worlds = (World::default(), World::default());
        let mut numbers = (Numbers::default(), Numbers::default());
        let subjects: BTreeSet<Identity> = (256..264).map(Identity).collect();
        with.set_subjects(subjects.clone());
        without.set_subjects(subjects);
        for edit in &edits {
            apply(edit, &mut worlds.0, &mut with);
            let bare = match edit {
                Edit::Policy(policy) if policy.staged => {
                    // What was enforced under the name is not any more.
                    without.remove_policy(&policy.origin);
                    worlds.1.policies.remove(&policy.origin);
                    None
                }
                edit => Some(edit),
            };
            if let Some(edit) = bare {
                apply(edit, &mut worlds.1, &mut without);
            }
            let with = with.resolution(&mut numbers.0);
            prop_assert_eq!(with, without.resolution(&mut numbers.1));
        }
        prop_assert_eq!(numbers.0, numbers.1);
    }

    #[test]
    fn what_they_would_do_is_what_they_do(edits in prop::collection::vec(edit(), 1..30)) {
        let config = PolicyConfig::default();
        let mut world = World { identities: reserved_identities(&config), ..World::default() };
        let mut engine = Engine::new(config.clone());
        for (id, info) in &world.identities {
            engine.upsert_identity(*id, info.clone());
        }
        world.subjects = (256..264).map(Identity).collect();
        engine.set_subjects(world.subjects.clone());
        let mut rehearsal = Rehearsal::new(&engine);
        for edit in &edits {
            let changed = apply(edit, &mut world, &mut engine);
            rehearsal.follow(&engine, &changed);
            let staged = rehearsal.staged();
            let mut enforced = world.clone();
            let about = |id: &Identity| {
                let Some(info) = world.identities.get(id) else { return false };
                let staged = world.policies.values().filter(|policy| policy.staged);
                let mut rules = staged.flat_map(|policy| &policy.rules);
                rules.any(|rule| is_about(rule, *id, &info.labels))
            };
            enforced.subjects.retain(about);
            for policy in enforced.policies.values_mut() {
                policy.staged = false;
            }
            let expected = resolve(&config, &enforced, &mut Numbers::default());
            prop_assert_eq!(said(&staged.resolution, &world), said(&expected, &world));
            let named = world.policies.values().filter(|policy| policy.staged);
            let named: BTreeSet<_> = named.map(|policy| policy.origin.clone()).collect();
            prop_assert!(staged.rules.values().all(|origin| named.contains(origin)));
            prop_assert_eq!(staged.policies, named);
        }
    }
}
