//! Who goes on next: [`Turns`] holds every actor before each of its steps until it is given the turn, [`Orders`] goes through
//! the orders in which the turns can be given.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Where an actor is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// On its way to its next step, which comes without anyone else.
    Working,
    /// Before this step.
    Waiting(String),
    /// It died before the step that it waited for.
    Dead,
    /// It has done all that it had to do.
    Done,
}

/// The actors of one run.
#[derive(Debug)]
pub(super) struct Turns {
    actors: Mutex<Vec<At>>,
    news: Condvar,
}

impl Turns {
    pub(super) fn new(actors: usize) -> Self {
        Self { actors: Mutex::new(vec![At::Working; actors]), news: Condvar::new() }
    }

    fn actors(&self) -> MutexGuard<'_, Vec<At>> {
        self.actors.lock().unwrap()
    }

    fn set(&self, actor: usize, at: At) {
        self.actors()[actor] = at;
        self.news.notify_all();
    }

    /// Waits for the turn; an error where it never comes.
    pub(super) fn wait(&self, actor: usize, step: String) -> io::Result<()> {
        let mut actors = self.actors();
        if actors[actor] != At::Dead {
            actors[actor] = At::Waiting(step);
            self.news.notify_all();
            actors = self.news.wait_while(actors, |all| matches!(all[actor], At::Waiting(_))).unwrap();
        }
        if actors[actor] == At::Dead { Err(io::Error::other("the process died")) } else { Ok(()) }
    }

    pub(super) fn done(&self, actor: usize) {
        self.set(actor, At::Done);
    }

    /// Gives the turn.
    pub(super) fn go(&self, actor: usize) {
        self.set(actor, At::Working);
    }

    /// Lets the actor die before the step that it waits for.
    pub(super) fn kill(&self, actor: usize) {
        self.set(actor, At::Dead);
    }

    /// The step before which each actor waits, once none is on its way; `None` for those that wait no more.
    pub(super) fn waiting(&self) -> Vec<Option<String>> {
        let busy = |all: &mut Vec<At>| all.iter().any(|at| matches!(at, At::Working | At::Dead));
        let actors = self.news.wait_while(self.actors(), busy).unwrap();
        let step = |at: &At| if let At::Waiting(step) = at { Some(step.clone()) } else { None };
        actors.iter().map(step).collect()
    }
}

/// Goes through the orders: first every one with a small number of interruptions, then some with more of them.
#[derive(Debug)]
pub(super) struct Orders {
    /// The choices of this run: which of how many.
    taken: Vec<(usize, usize)>,
    at: usize,
    systematic: bool,
    random: StdRng,
}

impl Orders {
    pub(super) fn new(seed: u64) -> Self {
        Self { taken: Vec::new(), at: 0, systematic: true, random: StdRng::seed_from_u64(seed) }
    }

    /// Whether every choice is still to be tried.
    pub(super) fn is_systematic(&self) -> bool {
        self.systematic
    }

    /// One of `options`, of which the first is the one that interrupts nobody.
    pub(super) fn choose(&mut self, options: usize) -> usize {
        if options < 2 {
            return 0;
        }
        if !self.systematic {
            return if self.random.random_bool(0.8) { 0 } else { self.random.random_range(1..options) };
        }
        if self.at == self.taken.len() {
            self.taken.push((0, options));
        }
        let (choice, known) = self.taken[self.at];
        assert_eq!(known, options, "the run before this one went otherwise with the same choices");
        self.at += 1;
        choice
    }

    /// Prepares the next run.
    pub(super) fn next(&mut self) {
        self.at = 0;
        if !self.systematic {
            return;
        }
        while let Some((choice, options)) = self.taken.pop() {
            if choice + 1 < options {
                self.taken.push((choice + 1, options));
                return;
            }
        }
        self.systematic = false;
    }
}

#[test]
fn every_order_is_gone_through_once_before_orders_are_drawn() {
    let mut orders = Orders::new(1);
    let mut seen = Vec::new();
    while orders.is_systematic() {
        let first = orders.choose(2);
        let second = if first == 0 { orders.choose(3) } else { orders.choose(1) };
        seen.push((first, second));
        orders.next();
    }
    assert_eq!(seen, [(0, 0), (0, 1), (0, 2), (1, 0)]);
    assert!((0..100).all(|_| orders.choose(3) < 3));
}
