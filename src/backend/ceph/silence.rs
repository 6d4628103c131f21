//! How long a cluster whose monitors did not answer is left alone: [`Silence`]. Pure but for the clock.
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
pub(super) struct Silence {
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
pub(super) enum Gate {
    /// Nothing speaks against it.
    Open,
    /// Not for so long, for that reason.
    Closed(Duration, String),
    /// It is the one that tries whether the silence is over.
    Trial,
}

impl Silence {
    /// None so far. The first pause will be `first`; zero for never any.
    pub(super) fn new(first: Duration) -> Self {
        Self { first, now: None }
    }

    /// Asks to make a call.
    pub(super) fn gate(&mut self) -> Gate {
        let Some(pause) = &mut self.now else { return Gate::Open };
        let now = Instant::now();
        if now < pause.until {
            return Gate::Closed(pause.until - now, pause.why.clone());
        }
        // The next caller waits for the outcome of this trial.
        pause.until = now + pause.length;
        Gate::Trial
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
            let mut silence = Silence::new(Duration::from_secs(1));
            assert_eq!(silence.gate(), Gate::Open);
            for _crowd in 0..8 {
                silence.begin("timed out", false, listens);
            }
            let mut length = Duration::from_secs(1);
            for _ in 0..12 {
                assert_eq!(silence.gate(), Gate::Closed(length, "timed out".into()), "{listens}");
                advance(length).await;
                assert_eq!(silence.gate(), Gate::Trial);
                assert!(matches!(silence.gate(), Gate::Closed(..)), "one tries");
                silence.begin("timed out", true, listens);
                length = (length * 2).min(most);
                assert_eq!(silence.left(), length);
            }
            assert_eq!(length, most);
            silence.end();
            assert_eq!((silence.gate(), silence.left()), (Gate::Open, Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pause_everything_is_asked() {
        let mut silence = Silence::new(Duration::ZERO);
        silence.begin("timed out", false, false);
        assert_eq!(silence.gate(), Gate::Open);
    }
}
