//! Work that is broken off before or after each of its changes is finished, or undone without a trace, by a later process.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use super::{
    conformance::{Keys, World, admin_secret, removal},
    fake::{KEY, MONITORS, Mgr},
};
use crate::{
    backend::{
        Backend, Error, Kind,
        cephfs::{Cephfs, mark::Archived, sweep},
        conformance::{key, request},
    },
    volume::{
        Capacity, CephfsSource, ClaimKey, Disposal, ExpandRequest, Mode, Origin, Permit, PvMetadata, Removal,
        SecretName, Source, Volume, VolumeName, VolumeRequest,
    },
};

/// What there is: on the storage and among the Secrets.
type State = (Vec<String>, Vec<SecretName>);

struct Bed {
    mgr: Mgr,
    keys: Arc<Keys>,
    /// What was made before, as its PV knows it.
    made: Mutex<Option<Volume>>,
}

impl Bed {
    fn new() -> Self {
        Self { mgr: Mgr::new(), keys: Keys::new("i-1", KEY), made: Mutex::default() }
    }

    /// A new process.
    fn start(&self) -> Arc<Cephfs> {
        self.mgr.backend(Arc::clone(&self.keys))
    }

    fn state(&self) -> State {
        (self.mgr.state(), self.keys.kept())
    }
}

fn asked(more: &[(&str, &str)]) -> VolumeRequest {
    let secret = admin_secret();
    let common = [
        ("monitors", MONITORS),
        ("adminSecretName", secret.name.as_str()),
        ("adminSecretNamespace", secret.namespace.as_str()),
        ("fsName", "cephfs"),
    ];
    let all = common.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    VolumeRequest { parameters: all.collect(), ..request("1") }
}

type Done<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Something that is done to a volume that was prepared.
struct Step {
    name: &'static str,
    prepare: fn(&Bed) -> Done<'_>,
    act: for<'a> fn(&'a Bed, &'a Permit) -> Done<'a>,
}

/// What a class says beside what all say.
type More = &'static [(&'static str, &'static str)];

const PLAIN: More = &[];
const FIXED: More = &[("deterministicNames", "true")];

fn create<'a>(bed: &'a Bed, permit: &'a Permit, more: More) -> Done<'a> {
    Box::pin(async move { bed.start().create(&asked(more), permit).await.map(|_| ()) })
}

fn nothing(_: &Bed) -> Done<'_> {
    Box::pin(async { Ok(()) })
}

fn volume(bed: &Bed, more: More) -> Done<'_> {
    Box::pin(async move {
        let made = bed.start().create(&asked(more), &Permit::unlimited()).await?;
        *bed.made.lock().unwrap() = Some(made);
        Ok(())
    })
}

/// Removes the volume as its PV says.
fn remove<'a>(bed: &'a Bed, permit: &'a Permit, disposal: Disposal) -> Done<'a> {
    Box::pin(async move {
        let made = bed.made.lock().unwrap().clone().unwrap();
        bed.start().remove(&removal(&asked(&[]), &made, disposal), permit).await.map(|_| ())
    })
}

/// Puts the volume back that was removed so.
fn restore<'a>(bed: &'a Bed, permit: &'a Permit, disposal: Disposal) -> Done<'a> {
    Box::pin(async move {
        let made = bed.made.lock().unwrap().clone().unwrap();
        bed.start().restore(&removal(&asked(&[]), &made, disposal), permit).await.map(|_| ())
    })
}

fn expand<'a>(bed: &'a Bed, permit: &'a Permit) -> Done<'a> {
    Box::pin(async move {
        let made = bed.made.lock().unwrap().clone().unwrap();
        let growth = ExpandRequest {
            name: asked(PLAIN).name,
            id: Some(made.id.clone()),
            source: made.source.clone(),
            claim: key(&asked(PLAIN)),
            mode: Mode::Filesystem,
            capacity: Capacity::from_bytes(2 << 30),
            pv_metadata: removal(&asked(PLAIN), &made, Disposal::Retain).pv_metadata,
        };
        bed.start().expand(&growth, permit).await.map(|_| ())
    })
}

/// Looks for archives whose time has come, 31 days from now.
fn expire<'a>(bed: &'a Bed, permit: &'a Permit) -> Done<'a> {
    Box::pin(async move {
        let backend = bed.start();
        backend.register_class(&asked(PLAIN).parameters);
        let work = backend.work_on(&backend.place(&asked(PLAIN))?.store).await?.unwrap();
        sweep::collect_garbage(&work, SystemTime::now() + Duration::from_hours(24 * 31), permit).await
    })
}

fn old() -> Removal {
    let user = "k8s.team.data";
    Removal {
        name: "pvc-old".parse().unwrap(),
        id: None,
        source: Source::Cephfs(CephfsSource {
            monitors: vec!["127.0.0.1:6789".into()],
            path: "/volumes/kubernetes/team/data".into(),
            user: user.into(),
            secret: Some(SecretName { namespace: "team".into(), name: format!("ceph-{user}-secret") }),
        }),
        claim: ClaimKey { namespace: "team".into(), name: "data".into(), uid: "old".into() },
        origin: Origin::Created,
        disposal: Disposal::Delete,
        pv_metadata: PvMetadata { parameters: asked(&[]).parameters, ..PvMetadata::default() },
    }
}

const STEPS: &[Step] = &[
    Step { name: "create", prepare: nothing, act: |bed, permit| create(bed, permit, &[]) },
    Step {
        name: "create under a deterministic name",
        prepare: nothing,
        act: |bed, permit| create(bed, permit, FIXED),
    },
    Step { name: "expand", prepare: |bed| volume(bed, PLAIN), act: expand },
    Step {
        name: "delete",
        prepare: |bed| volume(bed, PLAIN),
        act: |bed, permit| remove(bed, permit, Disposal::Delete),
    },
    Step {
        name: "archive",
        prepare: |bed| volume(bed, PLAIN),
        act: |bed, permit| remove(bed, permit, Disposal::Archive),
    },
    Step {
        name: "keep",
        prepare: |bed| volume(bed, PLAIN),
        act: |bed, permit| remove(bed, permit, Disposal::Retain),
    },
    Step {
        name: "delete what has a deterministic name",
        prepare: |bed| volume(bed, FIXED),
        act: |bed, permit| remove(bed, permit, Disposal::Delete),
    },
    Step {
        name: "archive what has a deterministic name",
        prepare: |bed| volume(bed, FIXED),
        act: |bed, permit| remove(bed, permit, Disposal::Archive),
    },
    Step {
        name: "expire",
        prepare: |bed| {
            Box::pin(async {
                volume(bed, PLAIN).await?;
                // As one ends that was broken off: its user may be there still.
                let made = bed.made.lock().unwrap().clone().unwrap();
                let (fs, name) = ("cephfs", made.record["subvolume"].as_str());
                let archived =
                    Archived::new(SystemTime::now(), Some(Duration::from_hours(24 * 30))).written();
                let args = ["fs", "subvolume", "metadata", "set", fs, name, "berth.archived", &archived];
                bed.mgr.ceph(&[&args[..], &["--group_name", "berth"]].concat()).unwrap();
                Ok(())
            })
        },
        act: expire,
    },
    Step {
        name: "purge",
        prepare: |bed| {
            Box::pin(async {
                volume(bed, PLAIN).await?;
                remove(bed, &Permit::unlimited(), Disposal::Delete).await
            })
        },
        act: expire,
    },
    Step {
        name: "restore what was deleted",
        prepare: |bed| {
            Box::pin(async {
                volume(bed, PLAIN).await?;
                remove(bed, &Permit::unlimited(), Disposal::Delete).await
            })
        },
        act: |bed, permit| restore(bed, permit, Disposal::Delete),
    },
    Step {
        name: "restore what was archived",
        prepare: |bed| {
            Box::pin(async {
                volume(bed, PLAIN).await?;
                remove(bed, &Permit::unlimited(), Disposal::Archive).await
            })
        },
        act: |bed, permit| restore(bed, permit, Disposal::Archive),
    },
    Step {
        name: "take back",
        prepare: |bed| volume(bed, PLAIN),
        act: |bed, permit| {
            Box::pin(async move {
                let backend = bed.start();
                backend.register_class(&asked(&[]).parameters);
                let store = backend.place(&asked(&[]))?.store;
                let nobody = |_: &VolumeName| false;
                for uncommitted in backend.list_uncommitted(&store, &nobody).await? {
                    backend.rollback(&uncommitted, permit).await?;
                }
                Ok(())
            })
        },
    },
    Step {
        name: "delete an old volume",
        prepare: |bed| {
            Box::pin(async {
                let old = old();
                let Source::Cephfs(source) = &old.source else { unreachable!() };
                bed.mgr.plant(&source.path);
                bed.mgr.add_user(&source.user, &format!("allow r,allow rw path={}", source.path));
                bed.keys.put(source.secret.as_ref().unwrap(), &[("key", KEY)]);
                Ok(())
            })
        },
        act: |bed, permit| Box::pin(async move { bed.start().remove(&old(), permit).await.map(|_| ()) }),
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_broken_off_anywhere_is_finished_by_the_next_attempt() {
    let permit = Permit::unlimited();
    for step in STEPS {
        let whole = Bed::new();
        (step.prepare)(&whole).await.unwrap();
        (step.act)(&whole, &permit).await.unwrap();
        let expected = whole.state();
        let mut broken = 0;
        for when in ["before", "after"] {
            for left in 0.. {
                let bed = Bed::new();
                (step.prepare)(&bed).await.unwrap();
                bed.mgr.break_off(left, when);
                let ended = (step.act)(&bed, &permit).await;
                if !bed.mgr.mend() {
                    ended.unwrap();
                    break;
                }
                if let Err(error) = ended {
                    assert_eq!(error.kind(), Kind::Unavailable, "{}: {error}", step.name);
                    broken += 1;
                } else if when == "before" {
                    // The fault was ready, but nothing more was changed.
                    assert_eq!(bed.state(), expected, "{}", step.name);
                    break;
                }
                (step.act)(&bed, &permit).await.unwrap_or_else(|error| {
                    unreachable!("{}, broken off {when} change {left}: {}", step.name, error.chain())
                });
                assert_eq!(bed.state(), expected, "{}, broken off {when} change {left}", step.name);
            }
        }
        assert!(broken > 0, "{} changes nothing", step.name);
    }
}

/// Proves: rbd 21
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_was_begun_and_given_up_leaves_nothing() {
    let permit = Permit::unlimited();
    for (left, when) in (0..6).flat_map(|left| [(left, "before"), (left, "after")]) {
        let bed = Bed::new();
        bed.mgr.break_off(left, when);
        let _ = create(&bed, &permit, &[]).await;
        bed.mgr.mend();
        let backend = bed.start();
        backend.register_class(&asked(&[]).parameters);
        let store = backend.place(&asked(&[])).unwrap().store;
        let nobody = |_: &VolumeName| false;
        // What is not marked yet is left alone for a day.
        bed.keys.later(Duration::from_hours(25));
        for uncommitted in backend.list_uncommitted(&store, &nobody).await.unwrap() {
            assert_eq!(uncommitted.claim.uid, "uid-1");
            backend.rollback(&uncommitted, &permit).await.unwrap();
        }
        let (storage, kept) = bed.state();
        let left_over: Vec<_> = storage.iter().filter(|path| path.contains("uid-1")).collect();
        assert!(
            left_over.is_empty() && kept.is_empty(),
            "broken off {when} change {left}: {left_over:?} {kept:?}"
        );
    }
}
