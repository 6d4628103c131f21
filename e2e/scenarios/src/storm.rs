//! Kills berth at random moments while claims are made and deleted, then compares the storage with
//! the API.
//!
//! Everything random comes from the seed: which claims are made, of which class, when they are
//! deleted, how long each berth lives. Run [`Storm::run`] again with the seed of a failure to get the
//! same orders in the same places (the kernel's scheduling is not ours to repeat).
//!
//! At the end (`agreement`): each living claim is bound to exactly one directory, which still holds
//! the file written to it; no directory is without PV and claim; each deleted claim of an archiving
//! class has exactly one archive, and its file is in it; nothing is left of the others; `.berth` holds
//! the records of the living and of the archives, no intent and no trash.

mod agreement;

use std::{collections::BTreeMap, fmt, time::Duration};

use agreement::{Expected, FILE, Found, NESTED, compare};
use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::sync::watch;

use crate::{berth::Setup, case::Case};

/// How big, and which one.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// What all random choices follow from.
    pub seed: u64,
    /// How many claims are made in all; about two of three are deleted again.
    pub claims: usize,
    /// How often berth is killed.
    pub kills: usize,
    /// The longest life of a berth that is to be killed.
    pub longest_life: Duration,
}

/// What a claim's class does with its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Deletes,
    Archives,
    /// Archives a nested directory.
    Nested,
}

const FATES: [Fate; 3] = [Fate::Deletes, Fate::Archives, Fate::Nested];

/// What a storm has done, for the report.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Claims that were alive at the end.
    pub living: usize,
    /// Claims that were deleted after they had been bound and written to.
    pub deleted_with_data: usize,
    /// Claims that were deleted before anybody saw them bound.
    pub deleted_early: usize,
    /// Kills.
    pub kills: usize,
    /// From the first claim to agreement, seconds.
    pub seconds: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills; {} claims live, {} deleted with data, {} deleted early; agreement after {:.1} s",
            self.kills, self.living, self.deleted_with_data, self.deleted_early, self.seconds
        )
    }
}

/// One claim's part in the storm.
#[derive(Debug)]
struct Part {
    name: String,
    fate: Fate,
    end: End,
    /// In which of berth's lives it is made.
    made: usize,
    /// How many lives later it is deleted, once it is bound.
    lingers: usize,
}

/// How a claim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not at all.
    Lives,
    /// Deleted after its volume was bound and written to.
    DeletedBound,
    /// Deleted this long after it was made, bound or not.
    DeletedAfter(Duration),
}

impl Storm {
    /// Rages in `case`, with berth started as in `setup`.
    pub async fn run(&self, case: &Case, setup: &Setup) -> Result<Outcome> {
        let setup = setup.clone().sweeps_soon();
        let mut random = StdRng::seed_from_u64(self.seed);
        let parts = self.parts(&mut random);
        let lives: Vec<Duration> = (0..self.kills)
            .map(|_| random.random_range(Duration::from_millis(20)..self.longest_life))
            .collect();
        let classes = classes(case).await?;
        let clock = std::time::Instant::now();

        let begun = watch::Sender::new(0);
        let kill = async {
            for (number, life) in lives.into_iter().enumerate() {
                let berth = case.start(&setup)?;
                begun.send_modify(|begun| *begun += 1);
                // Its length of life is the experiment, not a wait for anything.
                tokio::time::sleep(life).await;
                berth.check_alive().with_context(|| format!("berth number {number} ended by itself"))?;
                berth.kill().await?;
            }
            let last = case.start(&setup).context("start the last berth")?;
            begun.send_modify(|begun| *begun += 1);
            Ok(last)
        };
        let play = futures::future::try_join_all(parts.iter().map(async |part| {
            let class = classes.get(&part.fate).context("a fate without class")?;
            part.play(case, class, &begun, self.kills + 1)
                .await
                .with_context(|| format!("seed {}, claim {}", self.seed, part.name))
        }));
        let (last, facts) = futures::future::try_join(kill, play).await?;
        let agreement = agree(case, &facts).await;
        let ended = |which: fn(End) -> bool| facts.iter().filter(|fact| which(fact.end)).count();
        let outcome = Outcome {
            living: ended(|end| end == End::Lives),
            deleted_with_data: ended(|end| end == End::DeletedBound),
            deleted_early: ended(|end| matches!(end, End::DeletedAfter(_))),
            kills: self.kills,
            seconds: clock.elapsed().as_secs_f64(),
        };
        agreement.with_context(|| format!("seed {} ({outcome})", self.seed))?;
        let status = last.terminate().await?;
        ensure!(status.success(), "the last berth ended with {status}");
        Ok(outcome)
    }

    fn parts(&self, random: &mut StdRng) -> Vec<Part> {
        let mut parts: Vec<Part> = (0..self.claims)
            .map(|number| {
                let fate = match random.random_range(0..4) {
                    0 | 1 => Fate::Deletes,
                    2 => Fate::Archives,
                    _ => Fate::Nested,
                };
                let end = match random.random_range(0..6) {
                    0 | 1 => End::Lives,
                    2..=4 => End::DeletedBound,
                    _ => End::DeletedAfter(Duration::from_millis(random.random_range(0..600))),
                };
                let lingers = random.random_range(0..3);
                Part { name: format!("storm-{number}"), fate, end, made: 0, lingers }
            })
            .collect();
        parts.shuffle(random);
        // Spread over all lives, so that there is work at each kill.
        let lives = self.kills + 1;
        for (number, part) in parts.iter_mut().enumerate() {
            part.made = 1 + number * lives / self.claims.max(1);
        }
        parts
    }
}

impl Part {
    /// Makes the claim in its time, writes to its volume, deletes it; `begun` counts berth's lives.
    async fn play(
        &self,
        case: &Case,
        class: &str,
        begun: &watch::Sender<usize>,
        lives: usize,
    ) -> Result<Expected> {
        let mut clock = begun.subscribe();
        clock.wait_for(|begun| *begun >= self.made).await?;
        case.claim(&self.name).class(class).create().await?;
        let mut fact = Expected { claim: self.name.clone(), fate: self.fate, end: self.end, volume: None };
        if let End::DeletedAfter(delay) = self.end {
            tokio::time::sleep(delay).await;
            case.delete_claim(&self.name).await?;
            case.claim_gone(&self.name).await?;
            return Ok(fact);
        }
        let volume = case.bound(&self.name).await?;
        volume.write(FILE, &self.name)?;
        if self.end == End::DeletedBound {
            let until = (*clock.borrow() + self.lingers).min(lives);
            clock.wait_for(|begun| *begun >= until).await?;
            case.delete_claim(&self.name).await?;
            case.claim_gone(&self.name).await?;
        }
        fact.volume = Some((volume.name, volume.relative));
        Ok(fact)
    }
}

async fn classes(case: &Case) -> Result<BTreeMap<Fate, String>> {
    let mut classes = BTreeMap::new();
    for fate in FATES {
        let class = match fate {
            Fate::Deletes => case.class("deletes").deletes(),
            Fate::Archives => case.class("archives"),
            Fate::Nested => {
                let pattern = format!("{NESTED}/${{.PVC.namespace}}/${{.PVC.name}}");
                case.class("nested").parameter("pathPattern", &pattern)
            }
        };
        classes.insert(fate, class.create().await?);
    }
    Ok(classes)
}

/// Waits until storage and API agree, and tells the first disagreement that stays.
async fn agree(case: &Case, facts: &[Expected]) -> Result<()> {
    // More than one patience: all that the kills left behind is worked off here.
    let mut last = None;
    for _ in 0..3 {
        match case.until("storage and API to agree", async || look(case, facts).await).await {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
        case.check_berths()?;
    }
    last.map_or_else(|| bail!("nothing was compared"), Err)
}

async fn look(case: &Case, facts: &[Expected]) -> Result<()> {
    let volumes = case
        .volumes()
        .await?
        .into_iter()
        .map(|volume| {
            let phase = volume.status.as_ref().and_then(|status| status.phase.clone());
            (volume.name_any(), phase.unwrap_or_default())
        })
        .collect();
    let export = case.export();
    let read = |path: &str| std::fs::read_to_string(export.join(path)).ok();
    compare(facts, &Found { volumes, tree: case.tree()?, read: &read })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_storm_again_and_another_seed_another_one() {
        let storm = |seed| {
            let storm = Storm { seed, claims: 100, kills: 1, longest_life: Duration::from_secs(1) };
            format!("{:?}", storm.parts(&mut StdRng::seed_from_u64(seed)))
        };
        assert_eq!(storm(1), storm(1));
        assert_ne!(storm(1), storm(2));
    }

    #[test]
    fn a_storm_has_claims_of_every_kind() {
        let storm = Storm { seed: 7, claims: 200, kills: 1, longest_life: Duration::from_secs(1) };
        let parts = storm.parts(&mut StdRng::seed_from_u64(7));
        for fate in FATES {
            for end in ["Lives", "DeletedBound", "DeletedAfter"] {
                assert!(
                    parts.iter().any(|part| part.fate == fate && format!("{:?}", part.end).starts_with(end)),
                    "{fate:?} {end}"
                );
            }
        }
    }
}
