//! The monotonic clock, the one that the kernel programs read too.
//!
//! The wall clock, which may be stepped, tells when an event was, and ends a
//! trial of host policy, which outlives a start of the node. Clippy refuses it
//! elsewhere (`clippy.toml`).

use nix::time::{ClockId, clock_gettime};

fn nanoseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// Nanoseconds of the monotonic clock.
pub(crate) fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// Milliseconds of the monotonic clock.
pub(crate) fn monotonic_ms() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC) / 1_000_000
}

/// Seconds of the monotonic clock, as connections carry them.
pub(crate) fn monotonic_s() -> u32 {
    u32::try_from(nanoseconds(ClockId::CLOCK_MONOTONIC) / 1_000_000_000).unwrap_or(u32::MAX)
}

/// Nanoseconds since 1970 at the zero of the monotonic clock; never 0, which
/// stands for not told: both clocks begin together where a machine keeps no time.
pub(crate) fn monotonic_zero_ns() -> u64 {
    zero_ns(
        nanoseconds(ClockId::CLOCK_REALTIME),
        nanoseconds(ClockId::CLOCK_MONOTONIC),
    )
}

fn zero_ns(wall_ns: u64, monotonic_ns: u64) -> u64 {
    wall_ns.saturating_sub(monotonic_ns).max(1)
}

/// By how much the wall clock may differ from what was told before.
const STEP_NS: u64 = 100_000_000;

/// Whether the wall clock was stepped between what [`monotonic_zero_ns`] gave
/// before, and was told, and what it gives now.
pub(crate) fn has_stepped(told_ns: u64, zero_ns: u64) -> bool {
    told_ns != 0 && zero_ns.abs_diff(told_ns) > STEP_NS
}

#[cfg(test)]
mod tests {
    use super::{has_stepped, monotonic_zero_ns, zero_ns};

    const HOUR_NS: u64 = 3_600_000_000_000;

    #[test]
    fn a_step_is_told_from_slewing() {
        let now_ns = 500_000 * HOUR_NS;
        for (what, told_ns, now_ns, expected) in [
            ("nothing", now_ns, now_ns, false),
            ("slewed", now_ns, now_ns + 1_000_000, false),
            ("slewed back", now_ns, now_ns - 1_000_000, false),
            ("set ahead", now_ns, now_ns + HOUR_NS, true),
            ("set back", now_ns, now_ns - HOUR_NS, true),
            ("set to 1970", now_ns, zero_ns(0, HOUR_NS), true),
            ("set right", zero_ns(HOUR_NS, HOUR_NS), now_ns, true),
            ("to the end of time", now_ns, u64::MAX, true),
            ("not told before", 0, now_ns, false),
        ] {
            assert_eq!(has_stepped(told_ns, now_ns), expected, "{what}");
        }
        assert!(!has_stepped(monotonic_zero_ns(), monotonic_zero_ns()));
    }
}
