//! What the log is told while the API server does not serve us: [`Outage`]. One line says it for all requests, then one
//! at growing intervals, and one when it is over.
//!
//! It hears of every request from the client's layer. The caller whose request failed decides what to do about it, and
//! need not tell that the server was not reached.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
/// The first pause between two lines; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// An API server that cannot be reached, or does not accept who we are.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Since when nothing was answered.
    since: Option<Instant>,
    /// Whether this outage is in the log.
    told: bool,
    /// Requests that failed since the last line.
    failed: u64,
    /// When the next line may be written.
    next: Option<Instant>,
    pause: Duration,
}

impl Default for State {
    fn default() -> Self {
        Self { since: None, told: false, failed: 0, next: None, pause: FIRST_PAUSE }
    }
}

impl State {
    /// How many requests failed since the last line, where it is time for another.
    fn fail(&mut self, now: Instant) -> Option<u64> {
        self.since.get_or_insert(now);
        self.failed += 1;
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.told = true;
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(std::mem::take(&mut self.failed))
    }

    /// How long an outage lasted that was told of and is over.
    fn answer(&mut self, now: Instant) -> Option<Duration> {
        // A server that comes and goes is not told of more often than one that is gone.
        if self.next.is_some_and(|next| now >= next + LONGEST_PAUSE) {
            (self.next, self.pause) = (None, FIRST_PAUSE);
        }
        let since = self.since.take()?;
        self.failed = 0;
        std::mem::take(&mut self.told).then(|| now.saturating_duration_since(since))
    }
}

impl Outage {
    fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.0.lock()
    }

    /// A request to `server` got no answer.
    pub(super) fn unreached(&self, server: &str, error: &(dyn Error + 'static)) {
        let told = self.state().fail(Instant::now());
        if let Some(requests) = told {
            let error = causes(error);
            tracing::warn!(server, error, requests, "the API server cannot be reached; trying again");
        }
    }

    /// The server answered that it does not know who we are.
    pub(super) fn unauthorized(&self, server: &str) {
        let told = self.state().fail(Instant::now());
        if let Some(requests) = told {
            tracing::error!(
                server,
                requests,
                "the API server does not accept the credentials of this process (401 Unauthorized): look at the token of \
                 its service account, or at the user of its kubeconfig; trying again"
            );
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self, server: &str) {
        let lasted = self.state().answer(Instant::now());
        if let Some(lasted) = lasted {
            let seconds = lasted.as_secs();
            tracing::info!(server, seconds, "the API server answers again");
        }
    }
}

/// An error with all that caused it, on one line, nothing twice.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_reported_at_once_then_at_growing_intervals_for_all_requests_together() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::default();
        // Ten requests a second, for ten minutes.
        let mut told = Vec::new();
        for second in 0..600 {
            for _ in 0..10 {
                told.extend(state.fail(at(second)).map(|requests| (second, requests)));
            }
        }
        let seconds: Vec<u64> = told.iter().map(|(second, _)| *second).collect();
        assert_eq!(seconds, [0, 5, 15, 35, 75, 135, 195, 255, 315, 375, 435, 495, 555]);
        assert_eq!(told[0].1, 1);
        assert_eq!(told[1].1, 50, "a line says how many requests it stands for");
        assert_eq!(state.answer(at(600)), Some(Duration::from_mins(10)));
        assert_eq!(state.answer(at(601)), None, "the end is told once");
    }

    #[test]
    fn a_server_that_comes_and_goes_is_reported_no_more_often() {
        let start = Instant::now();
        let mut state = State::default();
        let mut lines = 0;
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            lines += usize::from(state.fail(now).is_some()) + usize::from(state.answer(now).is_some());
        }
        // At 0, 5, 15 and 35 seconds, each with its end.
        assert_eq!(lines, 8);
    }

    #[test]
    fn after_a_calm_time_an_outage_is_reported_at_once_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::default();
        assert_eq!(state.fail(at(0)), Some(1));
        assert_eq!(state.answer(at(1)), Some(Duration::from_secs(1)));
        assert_eq!(state.answer(at(100)), None);
        assert_eq!(state.fail(at(101)), Some(1));
        assert_eq!(state.fail(at(106)), Some(1), "the pauses begin anew");
    }

    #[test]
    fn the_cause_is_reported_with_all_that_caused_it_and_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Outer(&'static str, #[source] std::io::Error);
        let refused = || std::io::Error::other("connection refused");
        assert_eq!(
            causes(&Outer("client error (Connect)", refused())),
            "client error (Connect): connection refused"
        );
        assert_eq!(causes(&Outer("connect: connection refused", refused())), "connect: connection refused");
    }
}
