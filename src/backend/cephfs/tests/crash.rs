//! Work that is interrupted before or after each of its changes is finished, or undone without a trace, by a later process.

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
        Backend, Error, Janitor, Kind, Stores,
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

struct Fixture {
    mgr: Mgr,
    keys: Arc<Keys>,
    /// What was made before, as its PV knows it.
    made: Mutex<Option<Volume>>,
}

impl Fixture {
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

fn request_for(more: &[(&str, &str)]) -> VolumeRequest {
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
    prepare: fn(&Fixture) -> Done<'_>,
    act: for<'a> fn(&'a Fixture, &'a Permit) -> Done<'a>,
}

/// What a class says beside what all say.
type More = &'static [(&'static str, &'static str)];

const PLAIN: More = &[];
const FIXED: More = &[("deterministicNames", "true")];

fn create<'a>(fixture: &'a Fixture, permit: &'a Permit, more: More) -> Done<'a> {
    Box::pin(async move { fixture.start().create(&request_for(more), permit).await.map(|_| ()) })
}

fn nothing(_: &Fixture) -> Done<'_> {
    Box::pin(async { Ok(()) })
}

fn volume(fixture: &Fixture, more: More) -> Done<'_> {
    Box::pin(async move {
        let made = fixture.start().create(&request_for(more), &Permit::unlimited()).await?;
        *fixture.made.lock().unwrap() = Some(made);
        Ok(())
    })
}

/// Removes the volume as its PV says.
fn remove<'a>(fixture: &'a Fixture, permit: &'a Permit, disposal: Disposal) -> Done<'a> {
    Box::pin(async move {
        let made = fixture.made.lock().unwrap().clone().unwrap();
        fixture.start().remove(&removal(&request_for(&[]), &made, disposal), permit).await.map(|_| ())
    })
}

/// Puts the volume back that was removed so.
fn restore<'a>(fixture: &'a Fixture, permit: &'a Permit, disposal: Disposal) -> Done<'a> {
    Box::pin(async move {
        let made = fixture.made.lock().unwrap().clone().unwrap();
        fixture.start().restore(&removal(&request_for(&[]), &made, disposal), permit).await.map(|_| ())
    })
}

fn expand<'a>(fixture: &'a Fixture, permit: &'a Permit) -> Done<'a> {
    Box::pin(async move {
        let made = fixture.made.lock().unwrap().clone().unwrap();
        let expansion = ExpandRequest {
            name: request_for(PLAIN).name,
            id: Some(made.id.clone()),
            source: made.source.clone(),
            claim: key(&request_for(PLAIN)),
            mode: Mode::Filesystem,
            capacity: Capacity::from_bytes(2 << 30),
            pv_metadata: removal(&request_for(PLAIN), &made, Disposal::Retain).pv_metadata,
        };
        fixture.start().expand(&expansion, permit).await.map(|_| ())
    })
}

/// Looks for archives whose time has come, 31 days from now.
fn expire<'a>(fixture: &'a Fixture, permit: &'a Permit) -> Done<'a> {
    Box::pin(async move {
        let backend = fixture.start();
        backend.register_class(&request_for(PLAIN).parameters);
        let work = backend.work_on(&backend.place(&request_for(PLAIN))?.location.store).await?.unwrap();
        sweep::collect_garbage(&work, SystemTime::now() + Duration::from_hours(24 * 31), permit).await
    })
}

pub(super) fn old() -> Removal {
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
        pv_metadata: PvMetadata { parameters: request_for(&[]).parameters, ..PvMetadata::default() },
    }
}

const STEPS: &[Step] = &[
    Step { name: "create", prepare: nothing, act: |fixture, permit| create(fixture, permit, &[]) },
    Step {
        name: "create under a deterministic name",
        prepare: nothing,
        act: |fixture, permit| create(fixture, permit, FIXED),
    },
    Step { name: "expand", prepare: |fixture| volume(fixture, PLAIN), act: expand },
    Step {
        name: "delete",
        prepare: |fixture| volume(fixture, PLAIN),
        act: |fixture, permit| remove(fixture, permit, Disposal::Delete),
    },
    Step {
        name: "archive",
        prepare: |fixture| volume(fixture, PLAIN),
        act: |fixture, permit| remove(fixture, permit, Disposal::Archive),
    },
    Step {
        name: "keep",
        prepare: |fixture| volume(fixture, PLAIN),
        act: |fixture, permit| remove(fixture, permit, Disposal::Retain),
    },
    Step {
        name: "delete what has a deterministic name",
        prepare: |fixture| volume(fixture, FIXED),
        act: |fixture, permit| remove(fixture, permit, Disposal::Delete),
    },
    Step {
        name: "archive what has a deterministic name",
        prepare: |fixture| volume(fixture, FIXED),
        act: |fixture, permit| remove(fixture, permit, Disposal::Archive),
    },
    Step {
        name: "expire",
        prepare: |fixture| {
            Box::pin(async {
                volume(fixture, PLAIN).await?;
                // As one ends that was interrupted: its user may be there still.
                let made = fixture.made.lock().unwrap().clone().unwrap();
                let (fs, name) = ("cephfs", made.record["subvolume"].as_str());
                let archived =
                    Archived::new(SystemTime::now(), Some(Duration::from_hours(24 * 30))).written();
                let args = ["fs", "subvolume", "metadata", "set", fs, name, "berth.archived", &archived];
                fixture.mgr.ceph(&[&args[..], &["--group_name", "berth"]].concat()).unwrap();
                Ok(())
            })
        },
        act: expire,
    },
    Step {
        name: "purge",
        prepare: |fixture| {
            Box::pin(async {
                volume(fixture, PLAIN).await?;
                remove(fixture, &Permit::unlimited(), Disposal::Delete).await
            })
        },
        act: expire,
    },
    Step {
        name: "restore what was deleted",
        prepare: |fixture| {
            Box::pin(async {
                volume(fixture, PLAIN).await?;
                remove(fixture, &Permit::unlimited(), Disposal::Delete).await
            })
        },
        act: |fixture, permit| restore(fixture, permit, Disposal::Delete),
    },
    Step {
        name: "restore what was archived",
        prepare: |fixture| {
            Box::pin(async {
                volume(fixture, PLAIN).await?;
                remove(fixture, &Permit::unlimited(), Disposal::Archive).await
            })
        },
        act: |fixture, permit| restore(fixture, permit, Disposal::Archive),
    },
    Step {
        name: "take back",
        prepare: |fixture| volume(fixture, PLAIN),
        act: |fixture, permit| {
            Box::pin(async move {
                let backend = fixture.start();
                backend.register_class(&request_for(&[]).parameters);
                let store = backend.place(&request_for(&[]))?.location.store;
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
        prepare: |fixture| {
            Box::pin(async {
                let old = old();
                let Source::Cephfs(source) = &old.source else { unreachable!() };
                fixture.mgr.plant(&source.path);
                fixture.mgr.add_user(&source.user, &format!("allow r,allow rw path={}", source.path));
                fixture.keys.put(source.secret.as_ref().unwrap(), &[("key", KEY)]);
                Ok(())
            })
        },
        act: |fixture, permit| {
            Box::pin(async move { fixture.start().remove(&old(), permit).await.map(|_| ()) })
        },
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_interrupted_anywhere_is_finished_by_the_next_attempt() {
    let permit = Permit::unlimited();
    for step in STEPS {
        let whole = Fixture::new();
        (step.prepare)(&whole).await.unwrap();
        (step.act)(&whole, &permit).await.unwrap();
        let expected = whole.state();
        let mut broken = 0;
        for when in ["before", "after"] {
            for left in 0.. {
                let fixture = Fixture::new();
                (step.prepare)(&fixture).await.unwrap();
                fixture.mgr.break_off(left, when);
                let ended = (step.act)(&fixture, &permit).await;
                if !fixture.mgr.mend() {
                    ended.unwrap();
                    break;
                }
                if let Err(error) = ended {
                    assert_eq!(error.kind(), Kind::Unavailable, "{}: {error}", step.name);
                    broken += 1;
                } else if when == "before" {
                    // The fault was ready, but nothing more was changed.
                    assert_eq!(fixture.state(), expected, "{}", step.name);
                    break;
                }
                (step.act)(&fixture, &permit).await.unwrap_or_else(|error| {
                    unreachable!("{}, broken off {when} change {left}: {}", step.name, error.chain())
                });
                assert_eq!(fixture.state(), expected, "{}, broken off {when} change {left}", step.name);
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
        let fixture = Fixture::new();
        fixture.mgr.break_off(left, when);
        let _ = create(&fixture, &permit, &[]).await;
        fixture.mgr.mend();
        let backend = fixture.start();
        backend.register_class(&request_for(&[]).parameters);
        let store = backend.place(&request_for(&[])).unwrap().location.store;
        let nobody = |_: &VolumeName| false;
        // What is not marked yet is left alone for a day.
        fixture.keys.later(Duration::from_hours(25));
        for uncommitted in backend.list_uncommitted(&store, &nobody).await.unwrap() {
            assert_eq!(uncommitted.claim.uid, "uid-1");
            backend.rollback(&uncommitted, &permit).await.unwrap();
        }
        let (storage, kept) = fixture.state();
        let left_over: Vec<_> = storage.iter().filter(|path| path.contains("uid-1")).collect();
        assert!(
            left_over.is_empty() && kept.is_empty(),
            "broken off {when} change {left}: {left_over:?} {kept:?}"
        );
    }
}
