//! How long to wait before the next try: of a container that ended, of a step that failed.

use std::time::Duration;

/// A moment, as time since the machine started: monotonic, and the same before and after a restart of the agent.
pub type Tick = Duration;

/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(10);
/// The longest wait.
const LONGEST: Duration = Duration::from_mins(5);
/// A container that ran for this long starts afresh, as a kubelet has it.
const RESET: Duration = Duration::from_mins(10);

/// The wait before the start that has `level` ended starts before it: none for the first two, then 10 s doubling to
/// 300 s.
pub fn restart(level: u32) -> Duration {
    match level {
        0 | 1 => Duration::ZERO,
        n => doubled(n - 2),
    }
}

/// The wait after the `failures`th failure of a step in a row.
pub fn retry(failures: u32) -> Duration {
    doubled(failures.saturating_sub(1))
}

fn doubled(times: u32) -> Duration {
    // 2^5 × 10 s is past the longest already; more would overflow.
    FIRST.saturating_mul(1 << times.min(5)).min(LONGEST)
}

/// The level of the next start, after one of level `level` that ran for `ran`.
pub fn next_level(level: u32, ran: Duration) -> u32 {
    // Past this level the wait does not grow.
    const ENOUGH: u32 = 8;
    if ran >= RESET { 1 } else { (level + 1).min(ENOUGH) }
}

/// The machine's time since it started.
pub fn now() -> Tick {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or_default(), u32::try_from(t.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_then_ten_seconds_doubling_to_five_minutes() {
        let waits: Vec<u64> = (0..10).map(|n| restart(n).as_secs()).collect();
        assert_eq!(waits, [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_start_afresh() {
        assert_eq!(next_level(7, Duration::from_secs(599)), 8);
        assert_eq!(next_level(7, Duration::from_mins(10)), 1);
        assert_eq!(restart(next_level(7, Duration::from_mins(10))), Duration::ZERO);
    }

    #[test]
    fn a_failed_step_waits_ten_seconds_first() {
        assert_eq!(retry(1).as_secs(), 10);
        assert_eq!(retry(100).as_secs(), 300);
    }
}
