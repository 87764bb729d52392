//! The monotonic clock, the one that the kernel programs read too.

use nix::time::{ClockId, clock_gettime};

fn nanoseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
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
