//! How long a cluster whose monitors did not answer is left alone: [`CircuitBreaker`]. Pure but for the clock.
//!
//! What is asked of a cluster that is left alone fails at once, with what is known. When the time is over, one caller tries, and
//! the others wait for what comes of it: a cluster that is gone for good costs next to nothing, whatever is asked of it.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time where nothing listens: to find that out costs no program.
const NOTHING_LISTENS: Duration = Duration::from_secs(30);
/// The longest time where monitors listen and do not serve.
const NOT_SERVED: Duration = Duration::from_mins(5);

/// The silence of one cluster.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    first: Duration,
    now: Option<Pause>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    why: String,
}

/// Whether a call may be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BreakerDecision {
    /// Nothing speaks against it.
    Allow,
    /// Not for so long, for that reason.
    Reject(Duration, String),
    /// It is the one that tries whether the silence is over.
    HalfOpen,
}

impl CircuitBreaker {
    /// None so far. The first pause will be `first`; zero for never any.
    pub(super) fn new(first: Duration) -> Self {
        Self { first, now: None }
    }

    /// Asks to make a call.
    pub(super) fn gate(&mut self) -> BreakerDecision {
        let Some(pause) = &mut self.now else { return BreakerDecision::Allow };
        let now = Instant::now();
        if now < pause.until {
            return BreakerDecision::Reject(pause.until - now, pause.why.clone());
        }
        // The next caller waits for the outcome of this trial.
        pause.until = now + pause.length;
        BreakerDecision::HalfOpen
    }

    /// The cluster did not answer, for that reason. A `trial` makes the pause longer, which others that began before it do not.
    pub(super) fn begin(&mut self, why: &str, trial: bool, listens: bool) {
        if self.first.is_zero() {
            return;
        }
        let most = if listens { NOT_SERVED } else { NOTHING_LISTENS };
        let length = match &self.now {
            None => self.first,
            Some(pause) if trial => (pause.length * 2).min(most),
            Some(_) => return,
        };
        self.now = Some(Pause { until: Instant::now() + length, length, why: why.to_owned() });
    }

    /// The cluster answered.
    pub(super) fn end(&mut self) {
        self.now = None;
    }

    /// How long nothing is asked.
    pub(super) fn left(&self) -> Duration {
        self.now
            .as_ref()
            .map_or(Duration::ZERO, |pause| pause.until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_to_its_bound_and_one_caller_at_a_time_tries() {
        for (listens, most) in [(false, NOTHING_LISTENS), (true, NOT_SERVED)] {
            let mut breaker = CircuitBreaker::new(Duration::from_secs(1));
            assert_eq!(breaker.gate(), BreakerDecision::Allow);
            for _crowd in 0..8 {
                breaker.begin("timed out", false, listens);
            }
            let mut length = Duration::from_secs(1);
            for _ in 0..12 {
                assert_eq!(breaker.gate(), BreakerDecision::Reject(length, "timed out".into()), "{listens}");
                advance(length).await;
                assert_eq!(breaker.gate(), BreakerDecision::HalfOpen);
                assert!(matches!(breaker.gate(), BreakerDecision::Reject(..)), "one tries");
                breaker.begin("timed out", true, listens);
                length = (length * 2).min(most);
                assert_eq!(breaker.left(), length);
            }
            assert_eq!(length, most);
            breaker.end();
            assert_eq!((breaker.gate(), breaker.left()), (BreakerDecision::Allow, Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pause_everything_is_asked() {
        let mut breaker = CircuitBreaker::new(Duration::ZERO);
        breaker.begin("timed out", false, false);
        assert_eq!(breaker.gate(), BreakerDecision::Allow);
    }
}
