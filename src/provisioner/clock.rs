//! The time by the API server's clock: [`ServerClock`], learned from the `Date` of its answers, which [`ReadDate`] reads.
//!
//! What is kept in the trash, perhaps for weeks, expires by this clock: the one of a single node may be wrong by years, and
//! then everything would be purged at once. Between two answers the time goes on with this machine's monotonic clock, so that
//! setting a clock does not move it. It is given out only while both clocks agree roughly, and never ahead of the server's.
//!
//! It asks nothing itself: requests that are made anyway tell the time.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::header;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{Layer, Service};

/// By how much the API server's clock and this machine's may differ before one of both counts as wrong.
const MOST_SKEW: Duration = Duration::from_mins(5);
/// By how much the server's clock may depart from what it said before.
const MOST_JUMP: Duration = Duration::from_mins(5);
/// How long a clock that jumped must go on from where it jumped to before it is believed.
const JUMP_CONFIRMATION: Duration = Duration::from_mins(10);

/// The API server's clock; copies share what was learned.
#[derive(Clone)]
pub struct ServerClock(Arc<Inner>);

struct Inner {
    local: Box<dyn Fn() -> SystemTime + Send + Sync>,
    clock_state: Mutex<ClockState>,
}

/// What the server's clock showed at a moment of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    at: Instant,
    time: SystemTime,
}

impl Reading {
    /// What it shows at `moment`.
    fn later(self, moment: Instant) -> SystemTime {
        let passed = moment.saturating_duration_since(self.at);
        self.time.checked_add(passed).unwrap_or(self.time)
    }

    /// Whether `time` lies in the second that this Date names.
    fn begins_second_of(self, time: SystemTime) -> bool {
        time.duration_since(self.time).is_ok_and(|past| past < Duration::from_secs(1))
    }
}

/// What was read so far, and what is made of it.
#[derive(Debug, Default)]
struct ClockState {
    held: Option<Reading>,
    /// Where the clock jumped to, while that is not believed.
    jumped: Option<Reading>,
    /// Why there is no time, as last told.
    told: Option<ClockFault>,
}

/// Why there is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClockFault {
    Unknown,
    /// The server's clock went by this many seconds further than time did.
    Jumped(i64),
    /// The server's clock is by this many seconds ahead of ours.
    Skewed(i64),
}

/// How many seconds `a` is ahead of `b`.
fn ahead(a: SystemTime, b: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    a.duration_since(b).map_or_else(|behind| -seconds(behind.duration()), seconds)
}

fn within(seconds: i64, most: Duration) -> bool {
    seconds.unsigned_abs() <= most.as_secs()
}

impl ClockState {
    /// The server's clock shows `reading`.
    fn see(&mut self, reading: Reading) {
        let follows = |from: Reading| within(ahead(reading.time, from.later(reading.at)), MOST_JUMP);
        if self.held.is_none_or(follows) {
            // What was held may be more exact: a `Date` lies up to a second behind the clock that it was read from.
            self.held =
                self.held.filter(|held| reading.begins_second_of(held.later(reading.at))).or(Some(reading));
            self.jumped = None;
            return;
        }
        match self.jumped.filter(|jumped| follows(*jumped)) {
            Some(jumped) if reading.at.saturating_duration_since(jumped.at) >= JUMP_CONFIRMATION => {
                self.held = Some(reading);
                self.jumped = None;
            }
            Some(_) => {}
            None => self.jumped = Some(reading),
        }
    }

    /// The time, unless one of the clocks is wrong. `local`: what ours says.
    fn time(&self, now: Instant, local: SystemTime) -> Result<SystemTime, ClockFault> {
        let held = self.held.ok_or(ClockFault::Unknown)?;
        let time = held.later(now);
        if let Some(jumped) = self.jumped {
            return Err(ClockFault::Jumped(ahead(jumped.later(now), time)));
        }
        match ahead(time, local) {
            skew if within(skew, MOST_SKEW) => Ok(time),
            skew => Err(ClockFault::Skewed(skew)),
        }
    }
}

impl Default for ServerClock {
    fn default() -> Self {
        Self::beside(SystemTime::now)
    }
}

impl ServerClock {
    /// A clock of which nothing is known yet, held against `local`, which is this machine's.
    pub fn beside(local: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { local: Box::new(local), clock_state: Mutex::default() }))
    }

    /// The time; `None` while it is unknown, or while one of the two clocks is wrong.
    pub fn now(&self) -> Option<SystemTime> {
        let local = (self.0.local)();
        self.clock_state(|clock_state| clock_state.time(Instant::now(), local)).ok()
    }

    /// How many seconds the API server's clock is ahead of this machine's; `None` while it is unknown.
    pub fn skew(&self) -> Option<i64> {
        let (now, local) = (Instant::now(), (self.0.local)());
        self.clock_state(|clock_state| {
            let reading = clock_state.jumped.or(clock_state.held)?;
            Some(ahead(reading.later(now), local))
        })
    }

    fn clock_state<T>(&self, ask: impl FnOnce(&mut ClockState) -> T) -> T {
        ask(&mut self.0.clock_state.lock())
    }

    /// An answer that has just come says that it was made at `time`.
    fn see(&self, time: SystemTime) {
        let local = (self.0.local)();
        let news = self.clock_state(|clock_state| {
            let now = Instant::now();
            clock_state.see(Reading { at: now, time });
            let distrust = clock_state.time(now, local).err();
            // That they differ is told once, not by how much each time.
            let same = |told: Option<ClockFault>| {
                told.map(|told| std::mem::discriminant(&told))
                    == distrust.map(|distrust| std::mem::discriminant(&distrust))
            };
            let news = !same(clock_state.told);
            clock_state.told = distrust;
            news.then_some(distrust)
        });
        match news {
            Some(Some(ClockFault::Jumped(seconds))) => tracing::warn!(
                seconds,
                "the clock of the API server jumped: nothing in the trash expires until it has been steady for {} \
                 minutes",
                JUMP_CONFIRMATION.as_secs() / 60
            ),
            Some(Some(ClockFault::Skewed(seconds))) => tracing::warn!(
                seconds,
                "the clocks of the API server and of this machine differ by more than {} minutes: nothing in the \
                 trash expires until they agree; synchronise both",
                MOST_SKEW.as_secs() / 60
            ),
            Some(None) => tracing::info!("the clock of the API server is trusted again"),
            Some(Some(ClockFault::Unknown)) | None => {}
        }
    }
}

impl fmt::Debug for ServerClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerClock").field(&self.now()).finish()
    }
}

/// The layer to put around a client's service: it reads the date of every answer.
#[derive(Clone, Debug)]
pub(super) struct ReadDate(ServerClock);

impl ReadDate {
    /// For `clock`.
    pub(super) fn new(clock: ServerClock) -> Self {
        Self(clock)
    }
}

impl<S> Layer<S> for ReadDate {
    type Service = DatedAnswers<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DatedAnswers { inner, clock: self.0.clone() }
    }
}

/// The service whose answers tell the time; made by [`ReadDate`].
#[derive(Clone, Debug)]
pub(super) struct DatedAnswers<S> {
    inner: S,
    clock: ServerClock,
}

impl<S, Q, A> Service<http::Request<Q>> for DatedAnswers<S>
where
    S: Service<http::Request<Q>, Response = http::Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let clock = self.clock.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if let Some(time) =
                answer.headers().get(header::DATE).and_then(|date| parsed(date.to_str().ok()?))
            {
                clock.see(time);
            }
            Ok(answer)
        })
    }
}

/// A date as HTTP writes it (`Sun, 06 Nov 1994 08:49:37 GMT`).
fn parsed(date: &str) -> Option<SystemTime> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    /// A machine whose clock the test sets by seconds from a good one.
    fn clock() -> (ServerClock, Arc<Mutex<SystemTime>>) {
        let local = Arc::new(Mutex::new(start()));
        let told = Arc::clone(&local);
        (ServerClock::beside(move || *told.lock()), local)
    }

    fn start() -> SystemTime {
        parsed("Sun, 06 Nov 1994 08:49:37 GMT").unwrap()
    }

    /// Both clocks go on.
    async fn pass(local: &Mutex<SystemTime>, time: Duration) {
        *local.lock() += time;
        advance(time).await;
    }

    #[test]
    fn a_date_is_read_as_http_writes_it() {
        assert_eq!(start().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 784_111_777);
        for bad in ["", "1994-11-06T08:49:37Z", "784111777", "Sun, 06 Nov", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_is_that_of_the_last_answer_and_goes_on_by_itself() {
        let (clock, local) = clock();
        assert_eq!((clock.now(), clock.skew()), (None, None), "nothing is known before the first answer");
        clock.see(start() + MINUTE);
        assert_eq!((clock.now(), clock.skew()), (Some(start() + MINUTE), Some(60)));
        pass(&local, 60 * MINUTE).await;
        assert_eq!(clock.now(), Some(start() + 61 * MINUTE));
        clock.see(start() + 60 * MINUTE);
        assert_eq!(clock.now(), Some(start() + 60 * MINUTE), "an answer puts it right, backwards too");
    }

    /// What was removed waited in the trash for up to a second longer than it was to be kept there.
    #[tokio::test(start_paused = true)]
    async fn the_time_does_not_fall_back_to_the_whole_second_that_an_answer_tells() {
        let (clock, local) = clock();
        let millis = Duration::from_millis;
        clock.see(start());
        pass(&local, millis(999)).await;
        clock.see(start());
        assert_eq!(clock.now(), Some(start() + millis(999)));
        clock.see(start() + millis(1000));
        assert_eq!(clock.now(), Some(start() + millis(1000)), "the server's next second began");
        pass(&local, millis(1000)).await;
        clock.see(start() + millis(1000));
        assert_eq!(clock.now(), Some(start() + millis(1000)), "the server's clock is slower than ours");
    }

    /// A clock that was a month ahead purged archives that were to be kept for a month.
    #[tokio::test(start_paused = true)]
    async fn nothing_expires_while_one_of_the_two_clocks_is_wrong_by_more_than_five_minutes() {
        let month = Duration::from_hours(24 * 30);
        for wrong in [month, Duration::from_secs(301)] {
            let (clock, local) = clock();
            *local.lock() += wrong;
            clock.see(start());
            assert_eq!(clock.now(), None, "ours is ahead by {wrong:?}");
            assert_eq!(clock.skew(), Some(-i64::try_from(wrong.as_secs()).unwrap()));
            *local.lock() -= wrong;
            assert_eq!(clock.now(), Some(start()), "it was set right");
            *local.lock() -= wrong;
            assert_eq!(clock.now(), None, "ours is behind by {wrong:?}");
        }
        let (clock, local) = clock();
        *local.lock() += Duration::from_secs(299);
        clock.see(start());
        assert_eq!(clock.now(), Some(start()), "some minutes are no error");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_is_believed_once_it_has_gone_on_from_there_for_ten_minutes() {
        let (clock, local) = clock();
        let month = Duration::from_hours(24 * 30);
        clock.see(start());
        // Both clocks are set a month ahead at once.
        *local.lock() += month;
        clock.see(start() + month);
        assert_eq!(clock.now(), None);
        pass(&local, 5 * MINUTE).await;
        clock.see(start() + month + 5 * MINUTE);
        assert_eq!(clock.now(), None);
        pass(&local, 6 * MINUTE).await;
        clock.see(start() + month + 11 * MINUTE);
        assert_eq!(clock.now(), Some(start() + month + 11 * MINUTE));
    }

    #[tokio::test(start_paused = true)]
    async fn one_wrong_server_among_several_is_not_believed_and_the_others_are_again() {
        let (clock, local) = clock();
        clock.see(start());
        for _ in 0..3 {
            pass(&local, 6 * MINUTE).await;
            let right = *local.lock();
            clock.see(right + Duration::from_hours(1));
            assert_eq!(clock.now(), None);
            clock.see(right);
            assert_eq!(clock.now(), Some(right));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_answer_with_a_date_tells_the_time() {
        let (clock, _) = clock();
        let layer = ReadDate::new(clock.clone());
        let mut answers = layer.layer(tower::service_fn(async |request: http::Request<&'static str>| {
            let answer = http::Response::builder().status(404);
            Ok::<_, std::convert::Infallible>(match *request.body() {
                "" => answer.body(()).unwrap(),
                date => answer.header("date", date).body(()).unwrap(),
            })
        }));
        let ask = |date: &'static str| http::Request::get("/").body(date).unwrap();
        answers.call(ask("")).await.unwrap();
        answers.call(ask("yesterday")).await.unwrap();
        assert_eq!(clock.now(), None);
        answers.call(ask("Sun, 06 Nov 1994 08:50:37 GMT")).await.unwrap();
        assert_eq!(clock.now(), Some(start() + MINUTE));
    }
}
