//! Which floor a crate stands on, and what it must never contain.

/// Where a crate stands, and so whom it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Floors 0 to 6; a crate uses lower floors, on floors 0 to 3 also its own.
    Floor(u8),
    /// Doubles and builders for tests; others use it as a dev-dependency only.
    Testkit,
    /// Fuzz targets: use any of our crates, and none uses them.
    Fuzzing,
    /// Tooling: uses none of our crates and none uses it.
    Tooling,
}

/// One crate's rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// The package's name.
    pub(super) name: &'static str,
    /// Where it stands.
    pub(super) place: Place,
    /// Crates that it must not contain, by name or by `prefix*`.
    pub(super) bans: &'static [&'static str],
    /// Whether what external crates bring along counts as well.
    pub(super) deep: bool,
    /// Whether it may contain unsafe code.
    pub(super) allows_unsafe: bool,
}

/// The kernel, clocks of others and connections: nothing for the floors that only compute.
const PURE: &[&str] = &[
    "aya*",
    "netlink*",
    "rtnetlink",
    "genetlink",
    "nix",
    "socket2",
    "tokio*",
    "kube*",
    "etcd*",
];
/// Formats may know Kubernetes' words, not how to reach it.
const NO_CLIENTS: &[&str] = &[
    "aya*",
    "netlink*",
    "rtnetlink",
    "genetlink",
    "tokio*",
    "kube*",
    "etcd*",
    "reqwest",
    "hyper*",
];
const NO_KERNEL: &[&str] = &["aya*", "netlink*", "rtnetlink", "genetlink"];

/// What decides about packets knows numbers only: no pod, no label, no table of them.
const NO_NOUNS: &[&str] = &[
    "aya*",
    "tracing*",
    "log",
    "tokio*",
    "axon-statedb",
    "axon-model",
];
/// The same for what runs in the kernel, which has its helpers from aya-ebpf.
const NO_NOUNS_BUT_AYA: &[&str] = &["aya", "tokio*", "axon-statedb", "axon-model"];

const fn floor(number: u8, name: &'static str, bans: &'static [&'static str]) -> Rule {
    let deep = number <= SHARED_FLOORS;
    Rule {
        name,
        place: Place::Floor(number),
        bans,
        deep,
        allows_unsafe: false,
    }
}

/// Every crate. A new one is entered here together with the reason for its floor.
pub(super) const RULES: &[Rule] = &[
    floor(0, "axon-abi", &["aya*", "tokio*", "serde_json"]),
    floor(0, "axon-statedb", PURE),
    floor(1, "axon-datapath", NO_NOUNS),
    floor(1, "axon-model", PURE),
    // Over the datapath's traits, for tests and for replay.
    floor(2, "axon-frame", PURE),
    floor(2, "axon-policy", PURE),
    floor(2, "axon-api", NO_CLIENTS),
    floor(3, "axon-control", PURE),
    // Policy, formats and datapath in one: no kernel, and no clock but the dump's.
    floor(3, "axon-replay", PURE),
    floor(4, "axon-bpf", NO_NOUNS_BUT_AYA).with_unsafe(),
    floor(4, "axon-linux", &["axon-policy", "kube*", "etcd*"]).with_unsafe(),
    floor(4, "axon-sources", NO_KERNEL),
    floor(4, "axon-evaluate", PURE),
    floor(4, "axon-proxy", &["aya*", "kube*"]),
    floor(4, "axon-hubble", &["aya*", "kube*"]),
    floor(5, "axon-agent", &["aya*"]),
    floor(5, "axon-operator", &["aya*"]),
    floor(5, "axon-cni", &["aya*", "tokio*", "kube*"]).deeply(),
    floor(5, "axon-lab", &["aya*"]),
    floor(6, "axon", &["aya*"]),
    floor(0, "axon-testkit", &["aya*", "tokio*", "kube*"]).at(Place::Testkit),
    // The fuzzer's entry point is a C function.
    floor(6, "axon-fuzz", &[]).at(Place::Fuzzing).with_unsafe(),
    floor(0, "axon-bench", &[]).at(Place::Tooling),
    floor(0, "xtask", &[]).at(Place::Tooling),
];

/// Floors whose crates may use each other; above, crates of one floor meet in tables only.
const SHARED_FLOORS: u8 = 3;

/// The highest floor that the test doubles imitate.
const TESTKIT_REACH: u8 = 3;

impl Rule {
    const fn with_unsafe(self) -> Self {
        Self {
            allows_unsafe: true,
            ..self
        }
    }

    const fn deeply(self) -> Self {
        Self { deep: true, ..self }
    }

    const fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// Whether this crate may use another as a normal or build dependency.
    pub(super) fn may_use(&self, other: &Rule) -> bool {
        match (self.place, other.place) {
            (Place::Floor(mine), Place::Floor(theirs)) => {
                theirs < mine || (theirs == mine && mine <= SHARED_FLOORS)
            }
            (Place::Testkit, Place::Floor(theirs)) => theirs <= TESTKIT_REACH,
            (Place::Fuzzing, Place::Floor(_) | Place::Testkit) => true,
            (_, Place::Testkit | Place::Tooling | Place::Fuzzing) | (Place::Tooling, _) => false,
        }
    }

    /// Whether this crate's tests may use another.
    pub(super) fn tests_may_use(&self, other: &Rule) -> bool {
        let doubles = other.place == Place::Testkit && self.place != Place::Tooling;
        doubles || self.may_use(other)
    }

    /// What `may_use` allows, in words for a message.
    pub(super) fn allowance(&self) -> String {
        match self.place {
            Place::Floor(0) => "floor 0 only, and axon-testkit in its tests".into(),
            Place::Floor(number) if number <= SHARED_FLOORS => {
                format!("floors 0 to {number}, and axon-testkit in its tests")
            }
            Place::Floor(number) => {
                format!("floors 0 to {}, and axon-testkit in its tests", number - 1)
            }
            Place::Testkit => format!("floors 0 to {TESTKIT_REACH}"),
            Place::Fuzzing => "all floors, and axon-testkit".into(),
            Place::Tooling => "none of our crates".into(),
        }
    }

    /// The ban that a crate falls under.
    pub(super) fn ban(&self, name: &str) -> Option<&'static str> {
        self.bans
            .iter()
            .copied()
            .find(|ban| match ban.strip_suffix('*') {
                Some(prefix) => name.strip_prefix(prefix).is_some_and(is_end_of_word),
                None => name == *ban,
            })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Floor(number) => write!(out, "floor {number}"),
            Self::Testkit => write!(out, "the test doubles"),
            Self::Fuzzing => write!(out, "fuzzing"),
            Self::Tooling => write!(out, "tooling"),
        }
    }
}

/// `kube*` means kube and kube-client, not kubernetes-something.
fn is_end_of_word(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['-', '_'])
}

/// The rules of a crate.
pub(super) fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}
