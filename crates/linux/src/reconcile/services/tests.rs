use axon_abi::{
    Backend, BackendFlags, Be16, FrontendKind, IpKey, ListBlock, ListKey, ListRef, MaglevBlock,
    MaglevKey, ServiceClient, ServiceEntry, ServiceFlags, ServiceKey, SourceRangeKey,
};
use axon_model::DesiredServices;
use axon_statedb::Backoff;

use super::super::{Pass, ReconcileReport};
use super::{Services, Stores};
use crate::maps::fake::{Fake, Refused};

const GRACE_MS: u64 = 1000;
const DENY: u32 = ServiceFlags::SOURCE_DENY;

/// Maps that fail when they are told to, what is to be in them, and who sees to it.
struct World {
    backends: Fake<u32, Backend>,
    lists: Fake<ListKey, ListBlock>,
    ranges: Fake<SourceRangeKey, u32>,
    frontends: Fake<ServiceKey, ServiceEntry>,
    desired: DesiredServices,
    services: Services,
}

fn key(n: u8) -> ServiceKey {
    ServiceKey {
        addr: IpKey::from_v4([10, 96, 0, n]),
        port: Be16::new(80),
        protocol: 6,
        pad: 0,
    }
}

fn block(list: u32) -> ListKey {
    ListKey { list, block: 0 }
}

/// A frontend of service 1 that leads to a list of one backend.
fn entry(list: u32, flags: u32) -> ServiceEntry {
    let list = ListRef {
        list,
        slots: 1,
        maglev: 0,
    };
    ServiceEntry {
        service: 1,
        flags: FrontendKind::LoadBalancer as u32 | flags,
        internal: list,
        external: list,
        ..ServiceEntry::default()
    }
}

fn ranged(list: u32, flags: u32) -> ServiceEntry {
    entry(list, ServiceFlags::SOURCE_RANGES | flags)
}

fn range(n: u8) -> SourceRangeKey {
    SourceRangeKey::host(1, IpKey::from_v4([192, 0, 2, n]))
}

impl World {
    fn new() -> Self {
        let (backends, lists) = (Fake::default(), Fake::default());
        let (ranges, frontends) = (Fake::default(), Fake::default());
        let desired = DesiredServices::default();
        desired.backends.mark_complete();
        desired.lists.mark_complete();
        desired.maglev.mark_complete();
        desired.ranges.mark_complete();
        desired.skips.mark_complete();
        desired.frontends.mark_complete();
        let world = Self {
            services: Self::agent(&backends, &lists, &ranges, &frontends),
            backends,
            lists,
            ranges,
            frontends,
            desired,
        };
        world.is_behind(1, 1);
        world
    }

    fn agent(
        backends: &Fake<u32, Backend>,
        lists: &Fake<ListKey, ListBlock>,
        ranges: &Fake<SourceRangeKey, u32>,
        frontends: &Fake<ServiceKey, ServiceEntry>,
    ) -> Services {
        let stores = Stores {
            backends: Box::new(backends.clone()),
            lists: Box::new(lists.clone()),
            maglev: Box::new(Fake::<MaglevKey, MaglevBlock>::default()),
            ranges: Box::new(ranges.clone()),
            skips: Box::new(Fake::<ServiceClient, u32>::default()),
            frontends: Box::new(frontends.clone()),
        };
        let backoff = Backoff {
            first_ms: 10,
            max_ms: 80,
        };
        Services::new(stores, backoff, GRACE_MS)
    }

    /// Another agent, which knows nothing of what the first has done.
    fn restart(&mut self) {
        self.services = Self::agent(&self.backends, &self.lists, &self.ranges, &self.frontends);
    }

    /// A list of one backend.
    fn is_behind(&self, id: u32, list: u32) {
        let row = Backend {
            service: 1,
            flags: BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL,
            ..Backend::default()
        };
        self.desired.backends.write(|t| t.insert(id, row));
        let mut row = ListBlock::default();
        row.backends[0] = id;
        self.desired.lists.write(|t| t.insert(block(list), row));
    }

    fn is_gone(&self, id: u32, list: u32) {
        self.desired.backends.write(|t| t.remove(&id));
        self.desired.lists.write(|t| t.remove(&block(list)));
    }

    fn wants(&self, n: u8, row: ServiceEntry) {
        self.desired.frontends.write(|t| t.insert(key(n), row));
    }

    fn wants_ranges(&self, ranges: &[u8]) {
        let ranges = ranges.iter().map(|n| (range(*n), ()));
        self.desired.ranges.replace(ranges);
    }

    fn pass(&mut self, pass: Pass, now_ms: u64) -> ReconcileReport {
        let mut report = ReconcileReport::default();
        self.services.pass(pass, now_ms, &self.desired, &mut report);
        report
    }

    fn sync(&mut self, now_ms: u64) -> ReconcileReport {
        self.pass(Pass::Changes, now_ms)
    }

    fn frontend(&self, n: u8) -> ServiceEntry {
        self.frontends.state().rows[&key(n)]
    }

    fn has_ranges(&self) -> Vec<SourceRangeKey> {
        self.ranges.state().rows.keys().copied().collect()
    }

    /// Goes on from what is due to what is due next, until nothing is.
    fn settle(&mut self, mut now_ms: u64) {
        for _ in 0..100 {
            let Some(due_ms) = self.sync(now_ms).due_ms else {
                return;
            };
            now_ms = now_ms.max(due_ms);
        }
        panic!("it never ends");
    }
}

#[test]
fn nothing_goes_while_it_is_not_known_what_frontends_lead_to() {
    for is_of_lists in [false, true] {
        let mut world = World::new();
        world.wants(1, entry(1, 0));
        assert_eq!(world.sync(0).failing_rows(), 0);
        let valid = world.backends.state().rows[&1];

        // The frontend is to lead elsewhere, and does not take it; what is there cannot be read.
        world.is_gone(1, 1);
        world.is_behind(2, 2);
        world.wants(1, entry(2, 0));
        world.frontends.state().refused = Refused::All;
        let unreadable = Some(nix::libc::ENOMEM);
        let tell = |world: &World, unreadable| match is_of_lists {
            true => world.lists.state().unreadable = unreadable,
            false => world.frontends.state().unreadable = unreadable,
        };
        tell(&world, unreadable);
        let mut now_ms = 1;
        for _ in 0..20 {
            let report = world.pass(Pass::Everything, now_ms);
            assert!(report.failing_rows() > 0);
            assert!(report.due_ms > Some(now_ms), "it does not spin");
            assert_eq!(world.frontend(1), entry(1, 0));
            assert!(world.lists.state().rows.contains_key(&block(1)));
            assert_eq!(world.backends.state().rows.get(&1), Some(&valid));
            now_ms += GRACE_MS;
        }
        tell(&world, None);
        world.pass(Pass::Everything, now_ms);
        assert!(world.lists.state().rows.contains_key(&block(1)));
        assert_eq!(world.backends.state().rows.get(&1), Some(&valid));
        // Now it takes it: who has gone is valid no more, and goes.
        world.frontends.state().refused = Refused::These([].into());
        world.sync(now_ms + 80);
        assert_eq!(world.frontend(1), entry(2, 0));
        world.settle(now_ms + 80);
        assert!(!world.lists.state().rows.contains_key(&block(1)));
        assert!(!world.backends.state().rows.contains_key(&1));
    }
}

#[test]
fn what_waits_for_a_frontend_that_fails_does_not_spin() {
    let mut world = World::new();
    world.wants(1, entry(1, 0));
    world.sync(0);
    world.is_gone(1, 1);
    world.is_behind(2, 2);
    world.wants(1, entry(2, 0));
    world.frontends.state().refused = Refused::All;
    let mut now_ms = 1;
    for _ in 0..40 {
        let due_ms = world.sync(now_ms).due_ms.expect("a retry");
        assert!(due_ms > now_ms, "due again at {due_ms}, at {now_ms}");
        now_ms = due_ms;
    }
    assert!(now_ms > GRACE_MS);
    assert!(world.lists.state().rows.contains_key(&block(1)));
}

#[test]
fn who_is_gone_is_valid_no_more_once_no_frontend_leads_to_him() {
    let mut world = World::new();
    world.wants(1, entry(1, 0));
    world.sync(0);
    let valid = world.backends.state().rows[&1];
    world.is_gone(1, 1);
    world.is_behind(2, 2);
    world.wants(1, entry(2, 0));
    world.frontends.state().refused = Refused::All;
    world.sync(1);
    assert_eq!(world.backends.state().rows[&1], valid, "he is chosen still");
    world.frontends.state().refused = Refused::These([].into());
    world.sync(11);
    let row = world.backends.state().rows[&1];
    assert_ne!(row.generation, valid.generation, "no choice holds");
    assert_eq!(row.flags & BackendFlags::IN_INTERNAL, 0);
}

#[test]
fn ranges_do_not_turn_while_a_frontend_cannot_be_closed() {
    let mut world = World::new();
    world.wants(1, ranged(1, 0));
    world.wants(2, ranged(1, 0));
    world.wants_ranges(&[1]);
    world.sync(0);
    assert_eq!(world.has_ranges(), [range(1)]);

    // From "1 is let in" to "2 is kept out". One frontend cannot be written.
    world.wants(1, ranged(1, DENY));
    world.wants(2, ranged(1, DENY));
    world.wants_ranges(&[2]);
    world.frontends.state().refused = Refused::These([key(2)].into());
    let mut now_ms = 1;
    for _ in 0..10 {
        let report = world.sync(now_ms);
        assert_eq!(
            world.has_ranges(),
            [range(1)],
            "what they mean is not told yet"
        );
        assert_eq!(world.frontend(2), ranged(1, 0), "as it was");
        assert_eq!(report.tables["services"].failing_rows, 2, "{report:?}");
        assert_eq!(report.tables["source-ranges"].failing_rows, 1, "{report:?}");
        let due_ms = report.due_ms.expect("a retry");
        assert!(due_ms > now_ms);
        now_ms = due_ms;
    }
    let closed = world.frontend(1);
    assert!(closed.has(ServiceFlags::CLOSED_OUTSIDE) && !closed.has(DENY));
    world.frontends.state().refused = Refused::These([].into());
    world.settle(now_ms);
    assert_eq!(world.has_ranges(), [range(2)]);
    assert_eq!([1, 2].map(|n| world.frontend(n)), [ranged(1, DENY); 2]);
}

#[test]
fn a_frontend_stays_closed_while_a_range_of_the_other_meaning_is_there() {
    for is_stuck in [true, false] {
        let mut world = World::new();
        world.wants(1, ranged(1, 0));
        world.wants_ranges(&[1]);
        world.sync(0);
        world.wants(1, ranged(1, DENY));
        world.wants_ranges(&[2]);
        if is_stuck {
            world.ranges.state().stuck = [range(1)].into();
        } else {
            world.ranges.state().refused = Refused::All;
        }
        let mut now_ms = 1;
        for _ in 0..10 {
            let report = world.sync(now_ms);
            let row = world.frontend(1);
            let is_closed = row.has(ServiceFlags::CLOSED_OUTSIDE) && !row.has(DENY);
            assert!(is_closed, "{row:?} beside {:?}", world.has_ranges());
            now_ms = report.due_ms.expect("a retry");
        }
        world.ranges.state().stuck.clear();
        world.ranges.state().refused = Refused::These([].into());
        world.settle(now_ms);
        assert_eq!(world.has_ranges(), [range(2)]);
        assert_eq!(world.frontend(1), ranged(1, DENY));
    }
}

#[test]
fn ranges_do_not_turn_while_it_is_not_known_what_frontends_say() {
    let mut world = World::new();
    world.wants(1, ranged(1, 0));
    world.wants_ranges(&[1]);
    world.sync(0);
    world.restart();
    world.wants(1, ranged(1, DENY));
    world.wants_ranges(&[2]);
    world.frontends.state().unreadable = Some(nix::libc::ENOMEM);
    for n in 0..10 {
        world.pass(Pass::Everything, 1 + n * 10);
        assert_eq!(world.has_ranges(), [range(1)]);
        assert_eq!(world.frontend(1), ranged(1, 0));
    }
    world.frontends.state().unreadable = None;
    world.settle(200);
    assert_eq!(world.has_ranges(), [range(2)]);
    assert_eq!(world.frontend(1), ranged(1, DENY));
}
