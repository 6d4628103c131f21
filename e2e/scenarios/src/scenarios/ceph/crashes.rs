//! Berth is killed at every call of `rbd` and `ceph`, and at every write to the API server, while it makes and removes a
//! volume: before the call, behind it, and before its answer. The next process ends with one volume, then with none.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use nix::sys::signal::Signal;

use super::{bed::Bed, on_bed};
use crate::{
    berth::{Berth, Setup},
    ceph::{
        FILE_SYSTEM,
        steps::{Moment, Steps},
    },
    control_plane::User,
    proxy::{Call, Effect, Gate},
    suite::Scenario,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("berth killed at every call while it makes and removes an image", image_steps),
        on_bed("berth killed at every call while it archives an image", image_archive_steps),
        on_bed(
            "berth killed at every call while it makes and removes a subvolume and its user",
            subvolume_steps,
        ),
        on_bed("berth killed at every write to the API while it makes and removes volumes", api_steps),
        on_bed("a claim deleted while berth was dead leaves no image and no subvolume", orphans),
        on_bed(
            "of two replicas one makes images and subvolumes, and the other goes on when it is killed",
            replicas,
        ),
    ]
}

/// Which volume, and how it ends.
#[derive(Clone, Copy, Debug)]
enum Work {
    Image,
    ArchivedImage,
    /// With a user of its own, as every class without a user's Secret has it.
    Subvolume,
}

impl Work {
    async fn class(self, bed: &Bed) -> Result<String> {
        match self {
            Self::Image => bed.rbd_class("work").create().await,
            Self::ArchivedImage => bed.rbd_class("work").parameter("onDelete", "archive").create().await,
            Self::Subvolume => bed.cephfs_class("work").create().await,
        }
    }

    /// Whether its removal leaves the data. Such a volume is made as any other, so only the removal is disturbed.
    fn archives(self) -> bool {
        match self {
            Self::ArchivedImage => true,
            Self::Image | Self::Subvolume => false,
        }
    }
}

async fn image_steps(bed: Arc<Bed>) -> Result<()> {
    at_every_call(&bed, Work::Image).await
}

async fn image_archive_steps(bed: Arc<Bed>) -> Result<()> {
    at_every_call(&bed, Work::ArchivedImage).await
}

async fn subvolume_steps(bed: Arc<Bed>) -> Result<()> {
    at_every_call(&bed, Work::Subvolume).await
}

/// One claim whose class is `work`.
struct Life<'a> {
    bed: &'a Bed,
    class: &'a str,
    work: Work,
}

/// The two halves of a volume's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Make,
    Remove,
}

impl Life<'_> {
    /// Asks for what the half is about.
    async fn begin(&self, half: Half, claim: &str) -> Result<()> {
        match half {
            Half::Make => self.bed.claim(claim, self.class).await.map(drop),
            Half::Remove => self.bed.case.delete_claim(claim).await,
        }
    }

    /// Waits until it is done, and nothing is there twice or left over.
    async fn ended(&self, half: Half, claim: &str, volume: Option<&str>) -> Result<String> {
        match half {
            Half::Make => {
                let volume = self.bed.case.bound_pair(claim).await?.1;
                self.bed.agrees_but_for_the_trash().await?;
                Ok(volume.name_any())
            }
            Half::Remove => {
                let volume = volume.context("nothing was made")?;
                self.bed.case.volume_gone(volume).await?;
                if self.work.archives() {
                    let image = volume.replacen("pvc-", "berth-", 1);
                    self.bed.expect_trash(&image);
                }
                // Purging has its own time; at the end of the scenario the trash is looked at as well.
                self.bed.agrees_but_for_the_trash().await?;
                Ok(volume.to_owned())
            }
        }
    }
}

async fn at_every_call(bed: &Bed, work: Work) -> Result<()> {
    let class = work.class(bed).await?;
    let steps = Steps::new(&bed.case.scratch().join("steps"))?;
    let setup = bed.setup_through(&steps)?.alone();
    let life = Life { bed, class: &class, work };
    let start = async || -> Result<Berth> {
        let berth = bed.case.start(&setup)?;
        berth.answers("/livez").await?;
        Ok(berth)
    };

    // Once undisturbed, each half by a process that has asked the cluster nothing yet: all calls that it can have.
    let mut calls = Vec::new();
    let mut volume = None;
    for half in [Half::Make, Half::Remove] {
        steps.forget()?;
        let berth = start().await?;
        life.begin(half, "first").await?;
        volume = Some(life.ended(half, "first", volume.as_deref()).await?);
        if half == Half::Remove {
            // With what is purged later.
            bed.agrees().await?;
        }
        let mut made: BTreeMap<String, (usize, bool)> = BTreeMap::new();
        for step in steps.calls()? {
            let changes = step.changes();
            made.entry(step.verb).or_insert((0, changes)).0 += 1;
        }
        ensure!(!made.is_empty(), "{half:?} made no call: the programs in front are not used");
        berth.kill().await?;
        bed.case.note(format!("{half:?} of {work:?}: {made:?}"));
        if half == Half::Remove || !work.archives() {
            calls.extend(made.into_iter().map(|(verb, (times, changes))| (half, verb, times, changes)));
        }
    }

    // While there is a volume, the group cannot be taken away.
    calls.sort_by_key(|(_, verb, ..)| verb != GROUP);
    let mut kills = Vec::new();
    for (half, verb, times, changes) in &calls {
        // Of a call that changes nothing it is all one when berth dies, and at which of them.
        let (most, moments) =
            if *changes { (MOST_OF_A_KIND, &Moment::ALL[..]) } else { (1, &[Moment::After][..]) };
        for number in 1..=(*times).min(most) {
            let kill =
                |moment: &Moment| Kill { half: *half, verb, number, moment: *moment, changes: *changes };
            kills.extend(moments.iter().map(kill));
        }
    }
    let (makes, removals): (Vec<Kill<'_>>, Vec<Kill<'_>>) =
        kills.into_iter().partition(|kill| kill.half == Half::Make);
    let (mut struck, mut tried) = (0, makes.len() + removals.len());
    // What the one half leaves is what the other goes about.
    let mut made = Vec::new();
    for (number, kill) in makes.iter().enumerate() {
        let claim = format!("claim-{number}");
        let (struck_now, volume) = make_killed(&life, &steps, &start, kill, &claim)
            .await
            .with_context(|| format!("killed at {kill:?}"))?;
        struck += usize::from(struck_now);
        made.extend(volume.map(|volume| (claim, volume)));
    }
    let berth = start().await?;
    for number in made.len()..removals.len() {
        let claim = format!("other-{number}");
        life.begin(Half::Make, &claim).await?;
        let volume = bed.case.bound_pair(&claim).await?.1.name_any();
        made.push((claim, volume));
    }
    berth.kill().await?;
    for (kill, (claim, volume)) in removals.iter().zip(&made) {
        let killed = removal_killed(&life, &steps, &start, kill, claim, volume);
        struck += usize::from(killed.await.with_context(|| format!("killed at {kill:?}"))?);
    }
    // Somebody removes the rest, and purges what is left in the trash.
    steps.forget()?;
    start().await?;
    for (claim, volume) in made.iter().skip(removals.len()) {
        life.begin(Half::Remove, claim).await?;
        life.ended(Half::Remove, claim, Some(volume)).await?;
        tried += 1;
    }
    bed.case.note(format!("{struck} kills, {tried} volumes"));
    ensure!(struck >= calls.len(), "it was killed only {struck} times at {} calls", calls.len());
    bed.agrees().await
}

/// At how many calls of one kind berth is killed.
const MOST_OF_A_KIND: usize = 2;
/// The call that comes once for a group, which then stays.
const GROUP: &str = "ceph fs subvolumegroup create";

/// The call that prepares a pool, and comes once for it.
const PREPARES: &str = "rados create";

/// Where berth dies.
#[derive(Clone, Copy, Debug)]
struct Kill<'a> {
    half: Half,
    verb: &'a str,
    number: usize,
    moment: Moment,
    changes: bool,
}

impl Kill<'_> {
    /// That it happened, unless it is about what is looked at now and then, at times of its own.
    fn check(&self, struck: bool) -> Result<bool> {
        let comes = self.changes && self.number == 1 && self.verb != PREPARES;
        ensure!(struck || !comes, "the call did not come again");
        Ok(struck)
    }
}

/// A volume is made in spite of a kill. Tells whether the call came at all, and which volume there is now.
async fn make_killed(
    life: &Life<'_>,
    steps: &Steps,
    start: impl AsyncFn() -> Result<Berth>,
    kill: &Kill<'_>,
    claim: &str,
) -> Result<(bool, Option<String>)> {
    let (bed, case) = (life.bed, &life.bed.case);
    let regroup = kill.verb == GROUP;
    if regroup {
        bed.cluster.ceph(&["fs", "subvolumegroup", "rm", FILE_SYSTEM, &bed.group]).await?;
    }
    steps.forget()?;
    let berth = start().await?;
    // From here on it is expected to die.
    steps.arm(kill.verb, kill.number, kill.moment, berth.expect_end())?;
    life.begin(Half::Make, claim).await?;
    case.until("the kill, or the end of the work", async || {
        if !berth.runs() {
            return Ok(());
        }
        let claim = case.get_claim(claim).await?;
        let bound = claim.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Bound");
        ensure!(bound, "neither");
        Ok(())
    })
    .await?;
    let struck = kill.check(dead(berth, steps).await?)?;
    let next = start().await?;
    let volume = life.ended(Half::Make, claim, None).await?;
    if regroup {
        life.begin(Half::Remove, claim).await?;
        life.ended(Half::Remove, claim, Some(&volume)).await?;
    }
    next.kill().await?;
    Ok((struck, (!regroup).then_some(volume)))
}

/// A volume is removed in spite of a kill. Tells whether the call came at all.
async fn removal_killed(
    life: &Life<'_>,
    steps: &Steps,
    start: impl AsyncFn() -> Result<Berth>,
    kill: &Kill<'_>,
    claim: &str,
    volume: &str,
) -> Result<bool> {
    let case = &life.bed.case;
    steps.forget()?;
    let berth = start().await?;
    steps.arm(kill.verb, kill.number, kill.moment, berth.expect_end())?;
    life.begin(Half::Remove, claim).await?;
    case.until("the kill, or the end of the work", async || {
        // The calls of the purge come when the PV is gone; what changes nothing may not come at all.
        let done = if kill.changes && kill.number == 1 && kill.verb != PREPARES {
            steps.struck()
        } else {
            case.get_volume(volume).await?.is_none()
        };
        ensure!(done || !berth.runs(), "neither");
        Ok(())
    })
    .await?;
    let struck = kill.check(dead(berth, steps).await?)?;
    let next = start().await?;
    life.ended(Half::Remove, claim, Some(volume)).await?;
    next.kill().await?;
    Ok(struck)
}

/// Waits for the end of what was killed, or ends it. Tells whether it was killed, and lets the next process be.
async fn dead(berth: Berth, steps: &Steps) -> Result<bool> {
    let struck = steps.struck();
    if struck {
        berth.wait().await?;
    } else {
        berth.kill().await?;
    }
    steps.forget()?;
    Ok(struck)
}

/// Berth behind a proxy that can hold its requests.
fn writes(verb: &'static str, resource: &'static str) -> impl Fn(&Call) -> bool + Send + 'static {
    move |call: &Call| call.verb == verb && call.resource == resource
}

async fn api_steps(bed: Arc<Bed>) -> Result<()> {
    let rbd = bed.rbd_class("rbd").create().await?;
    let cephfs = bed.cephfs_class("cephfs").parameter("pvSource", "in-tree").create().await?;
    let rows: [(&str, Half, &'static str, &'static str); 7] = [
        (&rbd, Half::Make, "create", "persistentvolumes"),
        (&rbd, Half::Remove, "delete", "persistentvolumes"),
        (&cephfs, Half::Make, "create", "secrets"),
        (&cephfs, Half::Make, "create", "persistentvolumes"),
        (&cephfs, Half::Remove, "delete", "secrets"),
        (&cephfs, Half::Remove, "delete", "persistentvolumes"),
        (&rbd, Half::Remove, "patch", "persistentvolumes"),
    ];
    for (number, (class, half, verb, resource)) in rows.into_iter().enumerate() {
        for seen in [false, true] {
            let claim = format!("data-{number}-{seen}");
            one_write(&bed, class, half, verb, resource, seen, &claim)
                .await
                .with_context(|| format!("killed at {verb} {resource}, seen by the API server: {seen}"))?;
        }
    }
    Ok(())
}

async fn one_write(
    bed: &Bed,
    class: &str,
    half: Half,
    verb: &'static str,
    resource: &'static str,
    seen: bool,
    claim: &str,
) -> Result<()> {
    let case = &bed.case;
    let proxy = case.proxy().await?;
    let through = proxy.access(&case.plane.access(User::Berth)?);
    let setup: Setup = bed.setup()?.through(through).alone().sweeps_soon();
    let mut berth = case.start(&setup)?;
    let mut volume = None;
    if half == Half::Remove {
        volume = Some(bed.bound(claim, class).await?.name_any());
    }
    let gate = Gate::default();
    let effect = if seen { Effect::HoldAnswer(gate.clone()) } else { Effect::HoldRequest(gate.clone()) };
    proxy.on(writes(verb, resource), 1, effect);
    match half {
        Half::Make => drop(bed.claim(claim, class).await?),
        Half::Remove => case.delete_claim(claim).await?,
    }
    let reached = tokio::select! {
        reached = gate.reached(1) => reached.map(|()| true)?,
        // Not every way of removal patches the PV.
        gone = case.volume_gone(volume.as_deref().unwrap_or("none")), if half == Half::Remove && verb == "patch" => {
            gone.map(|()| false)?
        }
    };
    if reached {
        berth.kill().await?;
        proxy.heal();
        berth = case.start(&setup)?;
    }
    match half {
        Half::Make => {
            let volume = case.bound_pair(claim).await?.1;
            bed.agrees().await?;
            bed.delete(claim, &volume).await?;
        }
        Half::Remove => case.volume_gone(volume.as_deref().unwrap_or_default()).await?,
    }
    bed.agrees().await?;
    berth.kill().await
}

async fn orphans(bed: Arc<Bed>) -> Result<()> {
    for (name, class) in [
        ("image", bed.rbd_class("rbd").create().await?),
        ("subvolume", bed.cephfs_class("cephfs").parameter("pvSource", "in-tree").create().await?),
    ] {
        let proxy = bed.case.proxy().await?;
        let through = proxy.access(&bed.case.plane.access(User::Berth)?);
        let setup = bed.setup()?.through(through).alone().sweeps_soon();
        let gate = Gate::default();
        proxy.on(writes("create", "persistentvolumes"), 1, Effect::HoldRequest(gate.clone()));
        let berth = bed.case.start(&setup)?;
        bed.claim(name, &class).await?;
        gate.reached(1).await?;
        berth.kill().await?;
        proxy.heal();
        let made = bed.images().await?.live.len() + bed.subvolumes().await?.len();
        ensure!(made == 1, "{made} volumes were made beforehand");
        bed.case.delete_claim(name).await?;
        bed.case.claim_gone(name).await?;
        let next = bed.case.start(&setup)?;
        bed.agrees().await?;
        next.kill().await?;
    }
    Ok(())
}

async fn replicas(bed: Arc<Bed>) -> Result<()> {
    const CLAIMS: usize = 6;
    let rbd = bed.rbd_class("rbd").create().await?;
    let cephfs = bed.cephfs_class("cephfs").create().await?;
    let setup = bed.setup()?;
    ensure!(setup.leader_election, "both would work");
    let first = bed.case.start(&setup)?;
    bed.bound("leads", &rbd).await?;
    let second = bed.case.start(&setup)?;
    for number in 0..CLAIMS {
        bed.claim(&format!("a-{number}"), &rbd).await?;
        bed.claim(&format!("b-{number}"), &cephfs).await?;
    }
    bed.case.bound_pair("a-0").await?;
    first.kill().await?;
    for number in 0..CLAIMS {
        bed.claim(&format!("c-{number}"), &rbd).await?;
    }
    let mut names = vec!["leads".to_owned()];
    for number in 0..CLAIMS {
        names.extend(["a", "b", "c"].map(|kind| format!("{kind}-{number}")));
    }
    let mut volumes = Vec::new();
    for name in &names {
        volumes.push(bed.case.bound_pair(name).await?.1);
    }
    bed.agrees().await?;

    // A leader that hangs in the middle of removals, and wakes when another has done them.
    let third = bed.case.start(&setup)?;
    for name in &names {
        bed.case.delete_claim(name).await?;
    }
    second.signal(Signal::SIGSTOP)?;
    for volume in &volumes {
        bed.case.volume_gone(&volume.name_any()).await?;
    }
    second.signal(Signal::SIGCONT)?;
    second.answers("/livez").await?;
    third.check_alive()?;
    let last = bed.bound("last", &rbd).await?;
    bed.delete("last", &last).await
}
