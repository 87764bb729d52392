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

/// Nanoseconds since 1970 at the zero of the monotonic clock.
pub(crate) fn monotonic_zero_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME).saturating_sub(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

/// By how much the wall clock may differ from what was told before.
const STEP_NS: u64 = 100_000_000;

/// Whether the wall clock was stepped since [`monotonic_zero_ns`] gave this.
pub(crate) fn clock_has_stepped(zero_ns: u64) -> bool {
    monotonic_zero_ns().abs_diff(zero_ns) > STEP_NS
}

#[cfg(test)]
mod tests {
    use super::{clock_has_stepped, monotonic_zero_ns};

    #[test]
    fn a_step_is_told_from_slewing() {
        let zero_ns = monotonic_zero_ns();
        assert!(!clock_has_stepped(zero_ns) && !clock_has_stepped(zero_ns + 1_000_000));
        for hour in [3_600_000_000_000_u64, 3_600_000_000_000_u64.wrapping_neg()] {
            assert!(clock_has_stepped(zero_ns.wrapping_add(hour)));
        }
    }
}
