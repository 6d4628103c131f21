//! Volumes of cephfs-provisioner.

use super::*;

/// A volume as cephfs-provisioner made it: directory, user, Secret, PV.
fn legacy(bench: &Bench, root: &str, group: &str, share: &str, user: &str, claim: &ClaimKey) -> Removal {
    let path = format!("{root}/{group}/{share}");
    bench.world.plant(&path);
    bench.world.add_user(user, &format!("allow r,allow rw path={path}"));
    let secret = SecretName { namespace: claim.namespace.clone(), name: format!("ceph-{user}-secret") };
    bench.keys.put(&secret, &[("key", "AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCB3cm9uZw==")]);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let parameters = [
        pair("monitors", &bench.monitors),
        pair("adminSecretName", "ceph-admin"),
        pair("adminSecretNamespace", "admin"),
        pair("claimRoot", root),
    ];
    let annotations = [pair("cephFSProvisionerIdentity", "cephfs-provisioner-1"), pair("cephShare", share)];
    Removal {
        name: VolumeName::for_claim(&claim.uid).unwrap(),
        id: None,
        source: Source::Cephfs(CephfsSource {
            monitors: bench.monitors.split(',').map(str::to_owned).collect(),
            path,
            user: user.to_owned(),
            secret: Some(secret),
        }),
        claim: claim.clone(),
        origin: Origin::Created,
        disposal: Disposal::Delete,
        pv_metadata: PvMetadata {
            annotations: annotations.into(),
            parameters: parameters.into(),
            ..PvMetadata::default()
        },
    }
}

/// Of this run alone: a cluster remembers users.
fn uuid(number: usize) -> String {
    format!("{:08x}-89ab-cdef-0123-{number:012x}", std::process::id())
}

/// Proves: cephfs 9, cephfs 11
pub(super) async fn old_volumes_are_removed_with_user_and_secret(bench: &Bench) {
    let backend = bench.start();
    let prefix = &bench.prefix;
    let roots =
        [format!("/volumes/{prefix}-old"), format!("/{prefix}-elsewhere/deep"), "/volumes".to_owned()];
    let claim = |name: &str| ClaimKey {
        namespace: format!("{prefix}-ns"),
        name: name.into(),
        uid: format!("{prefix}-old-{name}"),
    };
    for (index, root) in roots.iter().enumerate() {
        for (number, disposal) in
            [Disposal::Delete, Disposal::Archive, Disposal::Retain].into_iter().enumerate()
        {
            let number = index * 3 + number;
            let id = uuid(number);
            let user = format!("kubernetes-dynamic-user-{id}");
            let named = claim(&format!("claim-{number}"));
            let volumes = [
                legacy(
                    bench,
                    root,
                    &format!("{prefix}-kubernetes"),
                    &format!("kubernetes-dynamic-pvc-{id}"),
                    &user,
                    &claim("random"),
                ),
                legacy(
                    bench,
                    root,
                    &named.namespace,
                    &named.name,
                    &format!("k8s.{}.{}", named.namespace, named.name),
                    &named,
                ),
            ];
            for volume in volumes {
                let Source::Cephfs(source) = &volume.source else { unreachable!() };
                let secret = source.secret.clone().unwrap();
                let (path, user) = (&source.path, &source.user);
                let volume = Removal { disposal, ..volume.clone() };
                for again in [false, true] {
                    let expected = match disposal {
                        Disposal::Delete if again => Removed::Absent,
                        Disposal::Delete => Removed::Trashed,
                        Disposal::Archive => Removed::Archived(path.trim_start_matches('/').to_owned()),
                        Disposal::Retain => Removed::Kept,
                    };
                    assert_eq!(removed(&backend, &volume).await, expected, "{path}");
                }
                assert_eq!(bench.world.exists(path), disposal != Disposal::Delete, "{path} {disposal}");
                assert_eq!(bench.user_exists(user), disposal == Disposal::Retain, "{user} {disposal}");
                assert_eq!(
                    bench.keys.get(&secret, true).await.is_ok(),
                    disposal == Disposal::Retain,
                    "{secret} {disposal}"
                );
                assert_eq!(
                    backend.locate(&volume.source).unwrap().path.to_string(),
                    path.trim_start_matches('/')
                );
            }
        }
    }
}

/// Proves: cephfs 10
pub(super) async fn old_volumes_that_do_not_fit_are_refused(bench: &Bench) {
    let backend = bench.start();
    let root = format!("/volumes/{}-odd", bench.prefix);
    let claim =
        ClaimKey { namespace: "team".into(), name: "data".into(), uid: format!("{}-odd", bench.prefix) };
    let (share, user) =
        (format!("kubernetes-dynamic-pvc-{}", uuid(99)), format!("kubernetes-dynamic-user-{}", uuid(99)));
    let right = legacy(bench, &root, "kubernetes", &share, &user, &claim);
    let Source::Cephfs(source) = right.source.clone() else { unreachable!() };
    let with = |edit: &dyn Fn(&mut CephfsSource)| {
        let mut source = source.clone();
        edit(&mut source);
        Removal { source: Source::Cephfs(source), ..right.clone() }
    };
    let mut annotated = right.clone();
    annotated.pv_metadata.annotations.insert("cephShare".into(), "other".into());
    let mut classless = right.clone();
    classless.pv_metadata.parameters.clear();
    let rows = [
        ("the directory of all volumes", with(&|s| s.path = format!("{root}/kubernetes"))),
        ("a path that climbs", with(&|s| s.path = format!("{root}/kubernetes/x/../{share}"))),
        ("the root", with(&|s| s.path = "/".into())),
        ("another user", with(&|s| s.user = "admin".into())),
        (
            "the user of another claim's directory",
            with(&|s| {
                s.path = format!("{root}/team/other");
                s.user = "k8s.team.data".into();
            }),
        ),
        ("an annotation that says otherwise", annotated),
        ("no class and no configuration", classless),
    ];
    for (why, wrong) in rows {
        let error = backend.remove(&wrong, &permit()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{why}: {error}");
        assert!(bench.world.exists(&source.path) && bench.user_exists(&user), "{why}");
    }
    // Somebody looked at the directory above, and so made a subvolume of it.
    let group = format!("{}-odd", bench.prefix);
    bench
        .world
        .ceph(&["fs", "subvolume", "getpath", "cephfs", "kubernetes", "--group_name", &group])
        .unwrap();
    let error = backend.remove(&right, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("setfattr"), "{error}");
    assert!(bench.world.exists(&source.path) && bench.user_exists(&user));
}
