//! The clock that goes on while the machine is suspended.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long ago the machine was booted, the time that it was suspended included (`CLOCK_BOOTTIME`). Where that cannot be read, for
/// ever: whatever was to end has ended.
pub fn since_boot() -> Duration {
    let read = clock_gettime(ClockId::CLOCK_BOOTTIME).ok().and_then(|time| {
        let (seconds, nanos) = (u64::try_from(time.tv_sec()).ok()?, u32::try_from(time.tv_nsec()).ok()?);
        Some(Duration::new(seconds, nanos))
    });
    read.unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_the_one_that_the_kernel_calls_uptime() {
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(text.split_whitespace().next().unwrap().parse().unwrap())
        };
        let (before, read, after) = (uptime(), since_boot(), uptime());
        let tick = Duration::from_millis(10);
        assert!(
            before <= read + tick && read <= after + tick,
            "{read:?} is not from {before:?} to {after:?}"
        );
    }
}
