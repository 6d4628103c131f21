//! Kills berth at random moments while claims are made and deleted, then compares the storage with
//! the API.
//!
//! Everything random comes from the seed: which claims are made, of which class, when they are
//! deleted, how long each berth lives. Run [`Storm::run`] again with the seed of a failure to get the
//! same orders in the same places (the kernel's scheduling is not ours to repeat).
//!
//! At the end: each living claim is bound to exactly one directory, which still holds the file
//! written to it; no directory is without PV and claim; each deleted claim of an archiving class has
//! exactly one archive, and its file is in it; nothing is left of the others; `.berth` holds no
//! intent without a PV and no trash.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    berth::Setup,
    case::{Case, PATIENCE, Volume},
};

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

/// What is known of a claim when the storm is over.
#[derive(Debug)]
struct Fact {
    fate: Fate,
    end: End,
    volume: Option<Volume>,
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
        let began = std::time::Instant::now();

        let kill = async {
            for (number, life) in lives.into_iter().enumerate() {
                let berth = case.start(&setup)?;
                // Its length of life is the experiment, not a wait for anything.
                tokio::time::sleep(life).await;
                berth.check_alive().with_context(|| format!("berth number {number} ended by itself"))?;
                berth.kill().await?;
            }
            case.start(&setup).context("start the last berth")
        };
        let (last, facts) = futures::future::try_join(kill, self.claims(case, &parts, &classes)).await?;
        let agreement = agree(case, &facts).await;
        let outcome = Outcome {
            living: facts.values().filter(|fact| fact.end == End::Lives).count(),
            deleted_with_data: facts.values().filter(|fact| fact.end == End::DeletedBound).count(),
            deleted_early: facts.values().filter(|fact| matches!(fact.end, End::DeletedAfter(_))).count(),
            kills: self.kills,
            seconds: began.elapsed().as_secs_f64(),
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
                Part { name: format!("storm-{number}"), fate, end }
            })
            .collect();
        parts.shuffle(random);
        parts
    }

    /// Plays all parts, a few at a time.
    async fn claims(
        &self,
        case: &Case,
        parts: &[Part],
        classes: &BTreeMap<Fate, String>,
    ) -> Result<BTreeMap<String, Fact>> {
        use futures::{StreamExt, TryStreamExt};
        // Enough to keep berth busy at each kill, few enough that claims come until the last one.
        let side_by_side = (self.claims / self.kills.max(1)).clamp(4, 40);
        futures::stream::iter(parts)
            .map(|part| async move {
                let class = classes.get(&part.fate).context("a fate without class")?;
                let fact = play(case, part, class)
                    .await
                    .with_context(|| format!("seed {}, claim {}", self.seed, part.name))?;
                anyhow::Ok((part.name.clone(), fact))
            })
            .buffer_unordered(side_by_side)
            .try_collect()
            .await
    }
}

async fn classes(case: &Case) -> Result<BTreeMap<Fate, String>> {
    let mut classes = BTreeMap::new();
    for fate in FATES {
        let class = match fate {
            Fate::Deletes => case.class("deletes").deletes(),
            Fate::Archives => case.class("archives"),
            Fate::Nested => {
                case.class("nested").parameter("pathPattern", "nested/${.PVC.namespace}/${.PVC.name}")
            }
        };
        classes.insert(fate, class.create().await?);
    }
    Ok(classes)
}

async fn play(case: &Case, part: &Part, class: &str) -> Result<Fact> {
    case.claim(&part.name).class(class).create().await?;
    let mut fact = Fact { fate: part.fate, end: part.end, volume: None };
    if let End::DeletedAfter(delay) = part.end {
        tokio::time::sleep(delay).await;
        case.delete_claim(&part.name).await?;
        case.claim_gone(&part.name).await?;
        return Ok(fact);
    }
    let volume = case.bound(&part.name).await?;
    volume.write("data", &part.name)?;
    if part.end == End::DeletedBound {
        case.delete_claim(&part.name).await?;
        case.claim_gone(&part.name).await?;
    }
    fact.volume = Some(volume);
    Ok(fact)
}

/// Waits until storage and API agree, and tells the first disagreement that stays.
async fn agree(case: &Case, facts: &BTreeMap<String, Fact>) -> Result<()> {
    // Longer than one patience: all that the kills left behind is worked off here.
    let mut last = None;
    for _ in 0..4 {
        match case.until("storage and API to agree", async || compare(case, facts).await).await {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
        case.check_berths()?;
    }
    last.map_or_else(|| bail!("nothing was compared within {PATIENCE:?}"), Err)
}

async fn compare(case: &Case, facts: &BTreeMap<String, Fact>) -> Result<()> {
    let living: BTreeMap<&str, &Volume> = facts
        .values()
        .filter(|fact| fact.end == End::Lives)
        .filter_map(|fact| fact.volume.as_ref())
        .map(|volume| (volume.name.as_str(), volume))
        .collect();

    // The API: exactly the PVs of living claims, all of them bound.
    let volumes = case.volumes().await?;
    let names: BTreeSet<String> = volumes.iter().map(ResourceExt::name_any).collect();
    for volume in &volumes {
        let name = volume.name_any();
        ensure!(living.contains_key(name.as_str()), "PV {name} has no living claim");
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        ensure!(phase == Some("Bound"), "PV {name} is {phase:?}");
    }
    for (name, volume) in &living {
        ensure!(names.contains(*name), "claim {} has lost its PV {name}", volume.claim.name_any());
    }

    // The storage: exactly their directories, and the archives.
    let tree = case.tree()?;
    let mut directories: BTreeSet<&str> = BTreeSet::new();
    let mut archives: Vec<&str> = Vec::new();
    let mut own: Vec<&str> = Vec::new();
    for path in &tree {
        if let Some(rest) = path.strip_prefix(".berth/") {
            own.push(rest);
            continue;
        }
        let path = path.trim_end_matches('/');
        let depth = path.split('/').count();
        if let Some(rest) = path.strip_prefix("archived-") {
            if rest.ends_with("/data") {
                archives.push(path);
            }
        } else if path.starts_with("nested/") || path == "nested" {
            if depth == 3 {
                directories.insert(path);
            }
        } else if depth == 1 {
            directories.insert(path);
        }
    }
    let expected: BTreeSet<&str> = living.values().map(|volume| volume.relative.as_str()).collect();
    ensure!(
        directories == expected,
        "without a claim: {:?}; missing: {:?}",
        directories.difference(&expected).collect::<Vec<_>>(),
        expected.difference(&directories).collect::<Vec<_>>()
    );
    for (claim, fact) in facts {
        if let (End::Lives, Some(volume)) = (fact.end, &fact.volume) {
            holds(&volume.directory.join("data"), claim)?;
        }
    }

    // Each archive holds its claim's file, and no claim has two.
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for path in archives {
        let claim =
            std::fs::read_to_string(case.export().join(path)).with_context(|| format!("read {path}"))?;
        *copies.entry(claim).or_default() += 1;
    }
    for (claim, fact) in facts {
        let found = copies.remove(claim).unwrap_or(0);
        let wanted = match (fact.end, fact.fate) {
            (End::DeletedBound, Fate::Archives | Fate::Nested) => 1,
            (End::DeletedBound, Fate::Deletes) | (End::Lives | End::DeletedAfter(_), _) => 0,
        };
        ensure!(found == wanted, "claim {claim} ({fact:?}) has {found} archives, expected {wanted}");
    }
    ensure!(copies.is_empty(), "archives of nobody: {copies:?}");

    // Berth's own folder: a marker for each living volume, nothing to be purged.
    for path in own {
        ensure!(!path.starts_with("trash/") || path == "trash/", "the trash holds {path}");
        if let Some(marker) = path.strip_prefix("volumes/").filter(|name| !name.is_empty()) {
            let known = living.keys().any(|name| marker.starts_with(name))
                || facts.values().any(|fact| {
                    fact.fate != Fate::Deletes
                        && fact.volume.as_ref().is_some_and(|volume| marker.starts_with(&volume.name))
                });
            ensure!(known, "there is a marker of nothing: {marker}");
        }
    }
    Ok(())
}

fn holds(path: &std::path::Path, text: &str) -> Result<()> {
    let found = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(found == text, "{} holds {found:?}", path.display());
    Ok(())
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
