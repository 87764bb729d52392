//! What our speed between pods shall be beside that of other topologies.

use crate::goals::Goal;
use crate::load::{Mode, Sample};
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
pub(crate) const TARGETS: [Target; 24] = [
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
    TARGETS
        .iter()
        .find(|t| (t.mode, t.figure, (t.of, t.to)) == (mode, figure, ends))
}
