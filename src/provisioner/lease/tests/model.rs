//! A search for two leaders: electors on machines that are suspended, over a server that deletes the locks, forbids them, delays
//! and loses answers, and carries out requests long after they were given up.
//!
//! Each run follows from its seed. The bounds are printed; [`SEEDS`] runs of [`LENGTH`] are part of `cargo test`, more with
//! `BERTH_LEASE_RUNS`. With one of the rules off the search must find what the rule is there for.
//!
//! What no rule can keep apart is not tried: replicas whose roles have no lock in common that both can read, and one that starts
//! just after the Endpoints were deleted and knows nothing of their holder.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Poll, Waker},
};

use http::{Method, Request, Response};
use kube::client::Body;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{super::candidate::Candidate, *};

const SEEDS: u64 = 40;
/// How long one run lasts, in the time of the test.
const LENGTH: Duration = Duration::from_mins(5);
/// How often the permits are counted.
const LOOK: Duration = Duration::from_millis(100);
/// All who start have seen the locks by then.
const QUIET: Duration = Duration::from_secs(40);
/// When nothing goes wrong any more, somebody leads after at most this: a lock runs out and another one becomes old enough, the right
/// lock is found, and some requests that were given up land.
const PEACE: Duration = Duration::from_secs(90);

/// Which rule is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Off {
    Nothing,
    /// The clock stands still while the machine is suspended.
    BootTime,
    /// Who holds the Endpoints, or a lock that replaced another one, works at once.
    Patience,
    /// Who holds the Lease does not look at the Endpoints.
    Look,
}

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// That of the manifests: Leases, and a look at the Endpoints.
    Shipped,
    /// That of the old provisioners: Endpoints alone.
    Old,
    Both,
}

impl Role {
    fn allows(self, method: &Method, path: &str) -> bool {
        let leases = path.contains("/leases");
        match self {
            Self::Shipped => leases || method == Method::GET,
            Self::Old => !leases,
            Self::Both => true,
        }
    }
}

/// How the network treats one process.
#[derive(Debug, Clone, Copy)]
struct Network {
    /// At most so long before a request arrives, and as long again before the answer does.
    delay: Duration,
    /// So many of a hundred requests are refused by a server that is too busy,
    busy: u32,
    /// and so many answers get lost.
    lost: u32,
}

const GOOD: Network = Network { delay: Duration::from_millis(5), busy: 0, lost: 0 };

/// One machine with one process on it.
struct Machine {
    /// When it was suspended, and for how long in all before.
    suspended: Mutex<(Option<Instant>, Duration)>,
    waker: Mutex<Option<Waker>>,
    role: Mutex<Role>,
    network: Mutex<Network>,
}

impl Machine {
    fn suspend(&self) {
        self.suspended.lock().0 = Some(Instant::now());
    }

    fn resume(&self) {
        let mut suspended = self.suspended.lock();
        if let Some(since) = suspended.0.take() {
            suspended.1 += since.elapsed();
        }
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    fn is_suspended(&self) -> bool {
        self.suspended.lock().0.is_some()
    }

    fn time_suspended(&self) -> Duration {
        let suspended = self.suspended.lock();
        suspended.1 + suspended.0.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Runs `process`, except while the machine is suspended.
    async fn run(&self, process: impl Future<Output = ()>) {
        let mut process = pin!(process);
        poll_fn(|context| {
            if self.is_suspended() {
                *self.waker.lock() = Some(context.waker().clone());
                return Poll::Pending;
            }
            process.as_mut().poll(context)
        })
        .await;
    }
}

/// A machine, and the process that runs on it now.
struct Replica {
    machine: Arc<Machine>,
    states: watch::Receiver<State>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Replica {
    fn may_work(&self) -> bool {
        match &*self.states.borrow() {
            State::Standby => false,
            State::Leading(term) => term.permit.check().is_ok(),
        }
    }
}

struct World {
    stub: Stub,
    random: StdRng,
    off: Off,
    started: u64,
    replicas: Vec<Replica>,
}

impl World {
    fn start(&mut self, machine: Arc<Machine>) -> Replica {
        self.started += 1;
        let states = watch::Sender::new(State::Standby);
        let following = states.subscribe();
        let announcer = Announcer { states, term: None };
        let client = self.client(&machine);
        let boot = Duration::from_secs(self.random.random_range(0..100_000));
        let (begin, stands_still, clocked) =
            (Instant::now(), self.off == Off::BootTime, Arc::clone(&machine));
        let clock = Clock::new(move || {
            let lost = if stands_still { clocked.time_suspended() } else { Duration::ZERO };
            (boot + begin.elapsed()).saturating_sub(lost)
        });
        let settings = settings(&format!("process-{}", self.started));
        let mut candidate = Candidate::new(client, settings, clock, true, announcer, Default::default());
        candidate.random = StdRng::from_rng(&mut self.random);
        match self.off {
            Off::Nothing | Off::BootTime => {}
            Off::Patience => candidate.hold_off = Duration::ZERO,
            Off::Look => candidate.old.hidden = Some(Moment::NEVER),
        }
        let stop = CancellationToken::new();
        let process = candidate.run(stop.clone());
        let runs_on = Arc::clone(&machine);
        let task = tokio::spawn(async move { Box::pin(runs_on.run(process)).await });
        Replica { machine, states: following, task, stop }
    }

    /// The way from one machine to the server. What was sent arrives, also when nobody waits for the answer any more.
    fn client(&mut self, machine: &Arc<Machine>) -> Client {
        let (server, machine) = (self.stub.clone(), Arc::clone(machine));
        let random = Arc::new(Mutex::new(StdRng::from_rng(&mut self.random)));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, machine, random) = (server.clone(), Arc::clone(&machine), Arc::clone(&random));
            let (sender, receiver) = oneshot::channel();
            tokio::spawn(async move {
                let network = *machine.network.lock();
                let (there, back, busy, lost) = {
                    let mut random = random.lock();
                    let there = network.delay.mul_f64(random.random_range(0.0..1.0));
                    let back = network.delay.mul_f64(random.random_range(0.0..1.0));
                    let mut of_a_hundred = |share| random.random_range(0..100) < share;
                    (there, back, of_a_hundred(network.busy), of_a_hundred(network.lost))
                };
                sleep(there).await;
                let role = *machine.role.lock();
                let answer = if busy {
                    refusal(429)
                } else if role.allows(request.method(), request.uri().path()) {
                    server.serve(request).await.unwrap()
                } else {
                    refusal(403)
                };
                sleep(back).await;
                if !lost {
                    let _ = sender.send(answer);
                }
            });
            async move { receiver.await.map_err(|_| std::io::Error::other("connection reset")) }
        });
        Client::new(service, "default")
    }

    /// One thing that may go wrong, or get better.
    fn disturb(&mut self, bounds: Bounds, at: Duration) {
        let index = self.random.random_range(0..self.replicas.len());
        let machine = Arc::clone(&self.replicas[index].machine);
        match self.random.random_range(0..12) {
            0 | 1 => self.stub.put("leases", NAMESPACE, NAME, None),
            2 if bounds.endpoints_deleted && at > QUIET => self.stub.put("endpoints", NAMESPACE, NAME, None),
            3 if bounds.roles.len() > 1 => {
                *machine.role.lock() = *bounds.roles.choose(&mut self.random).unwrap();
            }
            4..=6 if at > QUIET => {
                let delays = [5, 500, 3_000, 9_000].map(Duration::from_millis);
                *machine.network.lock() = Network {
                    delay: *delays.choose(&mut self.random).unwrap(),
                    busy: *[0, 30].choose(&mut self.random).unwrap(),
                    lost: *[0, 30].choose(&mut self.random).unwrap(),
                };
            }
            7 => machine.suspend(),
            8 | 9 => machine.resume(),
            10 if bounds.restarts => {
                self.replicas[index].task.abort();
                self.replicas[index] = self.start(machine);
            }
            11 if bounds.restarts => {
                machine.resume();
                self.replicas[index].stop.cancel();
                if self.replicas[index].task.is_finished() {
                    self.replicas[index] = self.start(machine);
                }
            }
            _ => {}
        }
    }
}

fn refusal(code: u16) -> Response<Body> {
    let status = crate::provisioner::stub::status(code, "a fault of the test");
    Response::builder().status(code).body(Body::from(serde_json::to_vec(&status).unwrap())).unwrap()
}

/// What one run tries.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    roles: &'static [Role],
    /// At most so long between two disturbances.
    calm: Duration,
    endpoints_deleted: bool,
    restarts: bool,
}

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    /// When two could work at a time.
    two: Option<String>,
    /// How often a term began.
    terms: u32,
    led: Duration,
    /// Nobody leads long after the last fault.
    stuck: bool,
}

fn run(seed: u64, off: Off, roles: Option<&'static [Role]>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(story(seed, off, roles))
}

async fn story(seed: u64, off: Off, of: Option<&'static [Role]>) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let restarts = random.random_bool(0.5);
    let roles: [&'static [Role]; 4] = [
        &[Role::Shipped],
        &[Role::Old],
        &[Role::Shipped, Role::Old],
        &[Role::Shipped, Role::Old, Role::Both],
    ];
    let roles = of.unwrap_or(*roles.choose(&mut random).unwrap());
    let calm = *[3, 10, 30].map(Duration::from_secs).choose(&mut random).unwrap();
    let bounds = Bounds { roles, calm, endpoints_deleted: !restarts, restarts };
    let count = random.random_range(2..=3);
    let mut world = World { stub: Stub::new(), random, off, started: 0, replicas: Vec::new() };
    for _ in 0..count {
        let role = *roles.choose(&mut world.random).unwrap();
        let machine = Machine {
            suspended: Mutex::default(),
            waker: Mutex::default(),
            role: Mutex::new(role),
            network: Mutex::new(GOOD),
        };
        let replica = world.start(Arc::new(machine));
        world.replicas.push(replica);
    }
    let mut outcome = Outcome::default();
    let begin = Instant::now();
    let mut next = Duration::from_secs(20);
    let mut leader = None;
    while begin.elapsed() < LENGTH + PEACE {
        let at = begin.elapsed();
        if at >= LENGTH && next < LENGTH + PEACE {
            next = LENGTH + PEACE;
            for replica in &world.replicas {
                replica.machine.resume();
                *replica.machine.network.lock() = GOOD;
                *replica.machine.role.lock() = Role::Both;
            }
            for index in 0..world.replicas.len() {
                if world.replicas[index].stop.is_cancelled() {
                    let machine = Arc::clone(&world.replicas[index].machine);
                    world.replicas[index].task.abort();
                    world.replicas[index] = world.start(machine);
                }
            }
        } else if at >= next {
            world.disturb(bounds, at);
            next = at + bounds.calm.mul_f64(world.random.random_range(0.0..1.0));
        }
        let able: Vec<usize> =
            (0..world.replicas.len()).filter(|index| world.replicas[*index].may_work()).collect();
        if able.len() > 1 {
            outcome.two = Some(format!("seed {seed}, {bounds:?}: {able:?} of {count} may work at {at:?}"));
            return outcome;
        }
        if able.first().is_some_and(|index| leader != Some(*index)) {
            outcome.terms += 1;
        }
        leader = able.first().copied();
        if leader.is_some() {
            outcome.led += LOOK;
        }
        sleep(LOOK).await;
    }
    outcome.stuck = leader.is_none();
    outcome
}

#[test]
fn no_two_replicas_may_ever_work_at_the_same_moment() {
    let runs = std::env::var("BERTH_LEASE_RUNS").ok().map_or(SEEDS, |runs| runs.parse().unwrap());
    let (mut terms, mut led) = (0, Duration::ZERO);
    for seed in 0..runs {
        let outcome = run(seed, Off::Nothing, None);
        assert_eq!(outcome.two, None);
        assert!(!outcome.stuck, "seed {seed}: nobody leads, though nothing goes wrong any more");
        terms += outcome.terms;
        led += outcome.led;
    }
    let share =
        led.as_secs_f64() / ((LENGTH + PEACE).as_secs_f64() * f64::from(u32::try_from(runs).unwrap()));
    println!(
        "{runs} runs of {LENGTH:?} with 2 or 3 replicas: {terms} times another one led, somebody did {:.0} % of the time",
        share * 100.0
    );
    assert!(terms > 2 * u32::try_from(runs).unwrap(), "the lock hardly ever changed hands: {terms}");
    assert!(share > 0.3, "hardly anybody ever led: {share}");
}

#[test]
fn with_a_rule_off_two_leaders_are_found() {
    let table: [(Off, &[Role]); 5] = [
        (Off::BootTime, &[Role::Shipped]),
        (Off::BootTime, &[Role::Old]),
        (Off::Patience, &[Role::Shipped]),
        (Off::Patience, &[Role::Shipped, Role::Old]),
        (Off::Look, &[Role::Shipped, Role::Old]),
    ];
    for (off, roles) in table {
        let found = (0..10 * SEEDS).find_map(|seed| run(seed, off, Some(roles)).two);
        println!("{off:?}: {found:?}");
        assert!(found.is_some(), "{off:?}, {roles:?}: the search does not find what the rule is there for");
    }
}
