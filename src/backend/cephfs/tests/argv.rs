//! The arguments of every call, as `ceph` sees them.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    conformance::{Keys, World, purged, removal},
    fake::{KEY, MONITORS, Mgr},
};
use crate::{
    backend::{Backend, cephfs::Cephfs, conformance::key},
    volume::{
        Capacity, CephfsSource, ClaimKey, Disposal, ExpandRequest, Mode, Permit, PvMetadata, Removal, Source,
        VolumeName, VolumeRequest,
    },
};

/// The mark of what was deleted, and of what is being purged, without their times.
const DELETED: &str = r#"fs subvolume metadata set cephfs team.1 berth.deleted {"since":","object":"object-pvc-uid-1"} --group_name kubernetes"#;
const BEGUN: &str = r#"fs subvolume metadata set cephfs team.1 berth.deleted {"since":","object":"object-pvc-uid-1","purging":true} --group_name kubernetes"#;

struct Watched {
    mgr: Mgr,
    backend: Arc<Cephfs>,
}

impl Watched {
    fn new() -> Self {
        let mgr = Mgr::new();
        let backend = mgr.backend(Keys::new("i-1", KEY));
        Self { mgr, backend }
    }

    fn request(more: &[(&str, &str)]) -> VolumeRequest {
        super::changed_world::request_for("1", more)
    }

    /// The calls since the last time, without the identity of the cluster, the times, and the directory's name.
    fn calls(&self) -> Vec<String> {
        let lines = self.mgr.take_log().into_iter().filter(|line| line != "fsid");
        lines
            .map(|line| match line.split_once("\"since\":\"") {
                Some((before, after)) => {
                    format!("{before}\"since\":\"{}", after.split_once('"').map_or("", |(_, rest)| rest))
                }
                None => line,
            })
            .map(|line| match line.split_once(",\"until\":\"") {
                Some((before, after)) => {
                    format!("{before}{}", after.split_once('"').map_or("", |(_, rest)| rest))
                }
                None => line,
            })
            .collect()
    }
}

const SHARED: [(&str, &str); 1] = [("userSecretName", "shared")];

#[tokio::test]
async fn a_volume_takes_three_calls_in_the_steady_state() {
    let watched = Watched::new();
    let request = Watched::request(&[&SHARED[..], &[("fsName", "cephfs")]].concat());
    watched.backend.create(&request, &Permit::unlimited()).await.unwrap();
    let owner = r#"{"installation":"i-1","namespace":"team","name":"1","uid":"uid-1","since":"}"#;
    let create = "fs subvolume create cephfs berth-uid-1 --size 1073741824 --group_name berth --mode 0777 --namespace-isolated";
    let info = "fs subvolume info cephfs berth-uid-1 --group_name berth";
    let common = [
        "fs subvolume ls cephfs --group_name berth",
        create,
        "fs subvolumegroup create cephfs berth",
        create,
        info,
        &format!("fs subvolume metadata set cephfs berth-uid-1 berth.owner {owner} --group_name berth"),
    ];
    assert_eq!(watched.calls(), common);

    let mut second = request.clone();
    second.name = VolumeName::for_claim("uid-2").unwrap();
    second.claim.uid = "uid-2".into();
    watched.backend.create(&second, &Permit::unlimited()).await.unwrap();
    let verbs: Vec<String> =
        watched.calls().iter().map(|line| line.split(' ').take(4).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        verbs,
        ["fs subvolume create cephfs", "fs subvolume info cephfs", "fs subvolume metadata set"]
    );

    watched.backend.create(&request, &Permit::unlimited()).await.unwrap();
    let look = "fs subvolume metadata ls cephfs berth-uid-1 --group_name berth";
    assert_eq!(watched.calls(), [look, info], "what may be there is looked at, and left as it is");
}

#[tokio::test]
async fn a_user_of_its_own_and_every_option_of_a_class() {
    let watched = Watched::new();
    let request = Watched::request(&[
        ("mode", "750"),
        ("uid", "5"),
        ("gid", "6"),
        ("pool", "cephfs_data"),
        ("claimRoot", "/volumes/kubernetes/"),
        ("deterministicNames", "true"),
        ("archiveExpiry", "30d"),
    ]);
    let permit = Permit::unlimited();
    let volume = watched.backend.create(&request, &permit).await.unwrap();
    let owner = r#"{"installation":"i-1","namespace":"team","name":"1","uid":"uid-1","since":","user":"berth-uid-1","secret":{"namespace":"team","name":"ceph-berth-uid-1-secret"}}"#;
    assert_eq!(
        watched.calls(),
        [
            "fs ls",
            "fs subvolume metadata ls cephfs team.1_uid-1 --group_name kubernetes",
            "fs subvolume metadata ls cephfs team.1 --group_name kubernetes",
            "fs subvolume create cephfs team.1 --size 1073741824 --group_name kubernetes --mode 0750 --uid 5 --gid 6 --pool_layout cephfs_data --namespace-isolated",
            "fs subvolumegroup create cephfs kubernetes",
            "fs subvolume create cephfs team.1 --size 1073741824 --group_name kubernetes --mode 0750 --uid 5 --gid 6 --pool_layout cephfs_data --namespace-isolated",
            "fs subvolume metadata set cephfs team.1 berth.wanted-uid-1 1 --group_name kubernetes",
            "fs subvolume metadata ls cephfs team.1 --group_name kubernetes",
            &format!("fs subvolume metadata set cephfs team.1 berth.owner {owner} --group_name kubernetes"),
            "fs subvolume info cephfs team.1 --group_name kubernetes",
            "fs subvolume authorize cephfs team.1 berth-uid-1 --access_level rw --tenant_id uid-1 --group_name kubernetes",
        ]
    );
    assert_eq!(
        volume.record,
        [
            ("adminId", "admin"),
            ("adminSecretName", "ceph-admin"),
            ("adminSecretNamespace", "admin"),
            ("archiveExpiry", "2592000s"),
            ("fsName", "cephfs"),
            ("group", "kubernetes"),
            ("monitors", MONITORS),
            ("secretName", "ceph-berth-uid-1-secret"),
            ("secretNamespace", "team"),
            ("subvolume", "team.1"),
            ("user", "berth-uid-1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into_iter()
        .collect::<BTreeMap<_, _>>()
    );
}

#[tokio::test]
async fn growing_keeping_archiving_and_deleting() {
    let watched = Watched::new();
    let request = Watched::request(&[
        ("group", "kubernetes"),
        ("fsName", "cephfs"),
        ("deterministicNames", "true"),
        ("archiveExpiry", "30d"),
    ]);
    let permit = Permit::unlimited();
    let volume = watched.backend.create(&request, &permit).await.unwrap();
    watched.calls();
    let expansion = ExpandRequest {
        name: request.name.clone(),
        id: Some(volume.id.clone()),
        source: volume.source.clone(),
        claim: key(&request),
        mode: Mode::Filesystem,
        capacity: Capacity::from_bytes(2 << 30),
        pv_metadata: removal(&request, &volume, Disposal::Retain).pv_metadata,
    };
    watched.backend.expand(&expansion, &permit).await.unwrap();
    assert_eq!(
        watched.calls(),
        [
            "fs subvolume metadata ls cephfs team.1 --group_name kubernetes",
            "fs subvolume info cephfs team.1 --group_name kubernetes",
            "fs subvolume resize cephfs team.1 2147483648 --group_name kubernetes --no_shrink",
        ]
    );
    watched.backend.remove(&removal(&request, &volume, Disposal::Retain), &permit).await.unwrap();
    let calls = watched.calls();
    assert!(calls[1].starts_with("fs subvolume metadata set cephfs team.1 berth.kept 20"), "{calls:?}");
    assert_eq!(calls.len(), 2);
    watched.backend.remove(&removal(&request, &volume, Disposal::Archive), &permit).await.unwrap();
    let calls = watched.calls();
    assert_eq!(calls[0], "fs subvolume metadata ls cephfs team.1 --group_name kubernetes");
    assert_eq!(
        calls[2..],
        [
            "fs subvolume metadata rm cephfs team.1 berth.kept --group_name kubernetes",
            "fs subvolume authorized_list cephfs team.1 --group_name kubernetes",
            "fs subvolume deauthorize cephfs team.1 berth-uid-1 --group_name kubernetes",
            "fs subvolume evict cephfs team.1 berth-uid-1 --group_name kubernetes",
        ]
    );
    assert!(
        calls[1].starts_with(
            r#"fs subvolume metadata set cephfs team.1 berth.archived {"since":","expires":"20"#
        ),
        "{calls:?}"
    );
    watched.backend.remove(&removal(&request, &volume, Disposal::Delete), &permit).await.unwrap();
    assert_eq!(
        watched.calls(),
        [
            "fs subvolume metadata ls cephfs team.1 --group_name kubernetes",
            "fs subvolume snapshot ls cephfs team.1 --group_name kubernetes",
            DELETED,
        ]
    );
    watched.backend.remove(&removal(&request, &volume, Disposal::Delete), &permit).await.unwrap();
    assert_eq!(watched.calls(), ["fs subvolume metadata ls cephfs team.1 --group_name kubernetes"]);
    purged(&*watched.backend).await;
    let calls = watched.calls();
    assert!(
        calls.ends_with(&[
            "fs subvolume metadata ls cephfs team.1 --group_name kubernetes".to_owned(),
            "fs subvolume snapshot ls cephfs team.1 --group_name kubernetes".to_owned(),
            "fs subvolume deauthorize cephfs team.1 berth-uid-1 --group_name kubernetes".to_owned(),
            "fs subvolume evict cephfs team.1 berth-uid-1 --group_name kubernetes".to_owned(),
            BEGUN.to_owned(),
            "fs subvolume rm cephfs team.1 --group_name kubernetes".to_owned(),
        ]),
        "{calls:?}"
    );
    watched.backend.remove(&removal(&request, &volume, Disposal::Delete), &permit).await.unwrap();
    assert_eq!(
        watched.calls(),
        ["fs subvolume metadata ls cephfs team.1 --group_name kubernetes", "auth get client.berth-uid-1",]
    );
}

#[tokio::test]
async fn an_old_volume() {
    let watched = Watched::new();
    let path = "/volumes/kubernetes/team/data";
    watched.mgr.plant(path);
    watched.mgr.add_user("k8s.team.data", &format!("allow r,allow rw path={path}"));
    let removal = Removal {
        name: "pvc-1".parse().unwrap(),
        id: None,
        source: Source::Cephfs(CephfsSource {
            monitors: vec!["127.0.0.1:6789".into()],
            path: path.into(),
            user: "k8s.team.data".into(),
            secret: None,
        }),
        claim: ClaimKey { namespace: "team".into(), name: "data".into(), uid: "1".into() },
        origin: crate::volume::Origin::Created,
        disposal: Disposal::Delete,
        pv_metadata: PvMetadata { parameters: Watched::request(&[]).parameters, ..PvMetadata::default() },
    };
    watched.backend.remove(&removal, &Permit::unlimited()).await.unwrap();
    assert_eq!(
        watched.calls(),
        [
            "fs ls",
            "fs subvolume metadata ls cephfs data --group_name kubernetes/team",
            "fs subvolume getpath cephfs data --group_name kubernetes/team",
            "fs subvolume snapshot ls cephfs data --group_name kubernetes/team",
            "auth get client.k8s.team.data",
            "auth rm client.k8s.team.data",
            "fs subvolume evict cephfs data k8s.team.data --group_name kubernetes/team",
            "fs subvolume rm cephfs data --group_name kubernetes/team",
        ]
    );
}

/// The calls of one volume that is made and deleted, and of one that is archived, among so many other subvolumes.
async fn calls_among(others: usize) -> Vec<String> {
    let watched = Watched::new();
    for number in 0..others {
        watched.mgr.plant(&format!("/volumes/berth/berth-uid-other-{number}"));
    }
    let permit = Permit::unlimited();
    for (name, disposal) in [("1", Disposal::Delete), ("2", Disposal::Archive)] {
        let request =
            super::changed_world::request_for(name, &[&SHARED[..], &[("fsName", "cephfs")]].concat());
        let volume = watched.backend.create(&request, &permit).await.unwrap();
        watched.backend.remove(&removal(&request, &volume, disposal), &permit).await.unwrap();
    }
    watched.calls()
}

#[tokio::test]
async fn a_creation_and_a_removal_make_the_same_calls_among_many_subvolumes_as_among_few() {
    let (few, many) = (calls_among(10).await, calls_among(500).await);
    println!("{} calls among 10 other subvolumes, {} among 500", few.len(), many.len());
    assert_eq!(few, many);
    assert!(!few.iter().any(|call| call.contains("other-")), "{few:?}");
    let lists = few.iter().filter(|call| call.starts_with("fs subvolume ls")).count();
    assert!(lists <= 1, "a process may list a group once, before its first volume there: {few:?}");
}
