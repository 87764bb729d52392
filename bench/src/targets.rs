//! What our speed between pods shall be beside that of other topologies.

use std::sync::LazyLock;

use crate::goals::Goal;
use crate::load::{Mode, Sample};
use crate::service::{By, DIRECT, Service};
use crate::topology::Kind;

/// A figure of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    Rate,
    P50,
    P99,
    Cpu,
}

/// A ratio between two topologies, and what it shall come to.
pub(crate) struct Target {
    pub mode: Mode,
    pub figure: Figure,
    pub of: Kind,
    pub to: Kind,
    pub goal: Goal,
}

const fn rate(mode: Mode, of: Kind, to: Kind, goal: Goal) -> Target {
    Target {
        mode,
        figure: Figure::Rate,
        of,
        to,
        goal,
    }
}

/// Must be at least so much.
const fn least(goal: f64) -> Goal {
    Goal::at_least(Some(goal), None)
}

/// Is hoped to be at least so much.
const fn hoped(aim: f64) -> Goal {
    Goal::at_least(None, Some(aim))
}

/// What our ratios to other topologies shall be. What an agent reports the least
/// is not nothing: it tells of new flows, so that no goal is held to it for them.
const TARGETS: [Target; 24] = [
    rate(Mode::Rr, Kind::Axon, Kind::Floor, least(0.97)),
    rate(Mode::Rr, Kind::Axon, Kind::Netfilter, least(1.2)),
    rate(Mode::Rr, Kind::Axon, Kind::Raw, hoped(0.945)),
    Target {
        mode: Mode::Rr,
        figure: Figure::P99,
        of: Kind::Axon,
        to: Kind::Raw,
        goal: Goal::at_most(None, Some(1.06)),
    },
    rate(
        Mode::Rr,
        Kind::Axon,
        Kind::AxonQuiet,
        Goal::at_least(Some(0.97), Some(0.99)),
    ),
    rate(Mode::Crr, Kind::Axon, Kind::Floor, least(0.97)),
    rate(Mode::Crr, Kind::Axon, Kind::Netfilter, least(1.3)),
    rate(Mode::Crr, Kind::Axon, Kind::Raw, hoped(0.93)),
    rate(
        Mode::Crr,
        Kind::Axon,
        Kind::AxonQuiet,
        Goal::at_least(None, None),
    ),
    rate(Mode::Rr, Kind::Rules16k, Kind::Axon, least(0.98)),
    rate(Mode::Rr, Kind::Rules64k, Kind::Axon, least(0.98)),
    rate(Mode::Rr, Kind::Rules250k, Kind::Axon, least(0.98)),
    rate(Mode::Crr, Kind::Rules16k, Kind::Axon, least(0.98)),
    rate(Mode::Crr, Kind::Rules64k, Kind::Axon, least(0.98)),
    rate(Mode::Crr, Kind::Rules250k, Kind::Axon, least(0.98)),
    rate(Mode::Stream, Kind::AxonPlain, Kind::Floor, least(0.97)),
    rate(Mode::Stream, Kind::Axon, Kind::FloorBig, least(0.95)),
    rate(Mode::Stream, Kind::Axon, Kind::Raw, hoped(1.45)),
    Target {
        mode: Mode::Stream,
        figure: Figure::Cpu,
        of: Kind::Axon,
        to: Kind::Raw,
        goal: Goal::at_most(None, Some(0.72)),
    },
    rate(
        Mode::Stream,
        Kind::Axon,
        Kind::AxonQuiet,
        Goal::at_least(Some(0.99), Some(0.995)),
    ),
    rate(Mode::Udp, Kind::AxonPlain, Kind::Floor, least(0.95)),
    rate(Mode::Udp, Kind::Axon, Kind::FloorBig, least(0.95)),
    rate(Mode::Udp, Kind::Axon, Kind::Netfilter, least(1.4)),
    rate(Mode::Udp, Kind::Axon, Kind::Raw, hoped(0.88)),
];

const fn behind(by: By, count: usize) -> Kind {
    Kind::Service(Service { by, count })
}

/// The numbers of services that ours are measured at.
const OURS: [usize; 5] = [1, 100, 1_000, 10_000, 60_000];
/// Those that kube-proxy's rules are measured at too.
const BOTH: [usize; 4] = [1, 100, 1_000, 10_000];

/// What our services shall be beside no service, and beside kube-proxy's rules: no
/// slower than these with one service, however many there are.
fn of_services() -> impl Iterator<Item = Target> {
    let alone = OURS.into_iter().flat_map(move |count| {
        let ours = behind(By::Axon, count);
        [Mode::Crr, Mode::Rr].into_iter().flat_map(move |mode| {
            [
                rate(mode, ours, DIRECT, Goal::at_least(Some(0.98), Some(0.99))),
                rate(mode, ours, behind(By::Iptables, 1), least(1.0)),
            ]
        })
    });
    let nft = BOTH.into_iter().map(|count| {
        let ends = (behind(By::Axon, count), behind(By::Nft, count));
        let goal = Goal::at_least(Some(1.25), Some(1.32));
        rate(Mode::Crr, ends.0, ends.1, goal)
    });
    let most = behind(By::Axon, 10_000);
    let walks = [
        (By::Legacy, Goal::at_least(Some(1.65), Some(1.75))),
        (By::Iptables, Goal::at_least(Some(3.5), Some(3.75))),
    ];
    let walks = walks
        .into_iter()
        .map(move |(by, goal)| rate(Mode::Crr, most, behind(by, 10_000), goal));
    alone.chain(nft).chain(walks)
}

/// What ratios shall be.
pub(crate) fn targets() -> impl Iterator<Item = &'static Target> {
    static OF_SERVICES: LazyLock<Vec<Target>> = LazyLock::new(|| of_services().collect());
    TARGETS.iter().chain(OF_SERVICES.iter())
}

impl Figure {
    /// The figure itself.
    pub(crate) fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Rate => sample.rate,
            Self::P50 => sample.p50_us,
            Self::P99 => sample.p99_us,
            Self::Cpu => sample.cpu_s_per_gb,
        }
    }

    /// What a mode tells beside its rate.
    pub(crate) fn beside(mode: Mode) -> &'static [(&'static str, Self)] {
        match mode {
            Mode::Rr | Mode::Crr | Mode::Udprr => &[("p50 us", Self::P50), ("p99 us", Self::P99)],
            Mode::Stream => &[("CPU s/GB", Self::Cpu)],
            Mode::Udp => &[],
        }
    }
}

impl Target {
    /// What is held to something, in words.
    pub(crate) fn what(&self) -> String {
        let figure = match self.figure {
            Figure::Rate => "",
            Figure::P50 => " p50",
            Figure::P99 => " p99",
            Figure::Cpu => " CPU/GB",
        };
        let (mode, of, to) = (self.mode.name(), self.of.name(), self.to.name());
        format!("{mode}{figure} of {of} to {to}")
    }
}

/// What the ratio of a figure shall come to.
pub(crate) fn target(mode: Mode, figure: Figure, ends: (Kind, Kind)) -> Option<&'static Target> {
    targets().find(|t| (t.mode, t.figure, (t.of, t.to)) == (mode, figure, ends))
}
