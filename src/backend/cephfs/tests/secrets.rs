//! The Secret of a volume's own user, which lies where a tenant may delete it: it is made again for what is proved to be ours, and
//! for nothing else.

use std::{fs, slice::from_ref, sync::Arc};

use super::{
    changed_world::request_for,
    conformance::{Keys, World, removal},
    fake::{KEY, Mgr},
};
use crate::{
    backend::{Backend, Janitor, Kind, cephfs::Cephfs},
    volume::{Disposal, InUse, Permit, Removal, SecretName, Volume, VolumeRequest},
};

/// A volume with a user of its own, in use.
struct Site {
    mgr: Mgr,
    keys: Arc<Keys>,
    backend: Arc<Cephfs>,
    request: VolumeRequest,
    volume: Volume,
    in_use: InUse,
    secret: SecretName,
}

impl Site {
    async fn new(more: &[(&str, &str)]) -> Self {
        let mgr = Mgr::new();
        let keys = Keys::new("i-1", KEY);
        let backend = mgr.backend(keys.clone());
        let request = request_for("data", more);
        let volume = backend.create(&request, &Permit::unlimited()).await.unwrap();
        let secret = backend.kept_secret(&volume.record).expect("it has a user of its own");
        let Removal { name, id, source, claim, origin, pv_metadata, .. } =
            removal(&request, &volume, Disposal::Archive);
        let in_use = InUse { name, id, source, claim, origin, capacity: request.capacity, pv_metadata };
        assert_eq!(keys.kept(), from_ref(&secret));
        mgr.take_log();
        Self { mgr, keys, backend, request, volume, in_use, secret }
    }

    /// Nothing was made, and nobody was let in.
    fn untouched(&self, row: &str) {
        assert_eq!(self.keys.kept(), [], "{row}");
        let calls = self.mgr.take_log();
        assert!(!calls.iter().any(|call| call.contains("subvolume authorize ")), "{row}: {calls:?}");
    }
}

#[tokio::test]
async fn the_deleted_secret_of_a_volumes_own_user_is_made_again_with_the_same_values() {
    for more in [&[][..], &[("pvSource", "in-tree")], &[("deterministicNames", "true")]] {
        let site = Site::new(more).await;
        let before = (site.mgr.state(), site.keys.stored(&site.secret).unwrap());
        site.backend.register(&site.in_use, &Permit::unlimited()).await.unwrap();
        let calls = site.mgr.take_log();
        assert!(!calls.iter().any(|call| call.contains("subvolume authorize ")), "it is there: {calls:?}");
        site.keys.delete(&site.secret);
        site.backend.register(&site.in_use, &Permit::unlimited()).await.unwrap();
        assert_eq!((site.mgr.state(), site.keys.stored(&site.secret).unwrap()), before, "{more:?}");
        assert_eq!(site.keys.kept(), from_ref(&site.secret), "{more:?}");
        // It goes with its volume, as the first one would have.
        let removal = removal(&site.request, &site.volume, Disposal::Archive);
        site.backend.remove(&removal, &Permit::unlimited()).await.unwrap();
        assert_eq!(site.keys.kept(), [], "{more:?}");
    }
}

#[tokio::test]
async fn a_secret_that_a_tenant_put_in_the_place_of_a_deleted_one_is_left_alone_and_told() {
    let site = Site::new(&[]).await;
    site.keys.delete(&site.secret);
    site.keys.put(&site.secret, &[("key", "of the tenant")]);
    let theirs = site.keys.stored(&site.secret);
    let error = site.backend.register(&site.in_use, &Permit::unlimited()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert_eq!(site.keys.stored(&site.secret), theirs);
    site.untouched("a tenant's Secret");
    site.keys.delete(&site.secret);
    site.backend.register(&site.in_use, &Permit::unlimited()).await.unwrap();
    assert_eq!(site.keys.kept(), from_ref(&site.secret));
}

/// An edited record must not carry a key into another namespace.
#[tokio::test]
async fn no_secret_is_made_that_the_mark_on_the_storage_does_not_name() {
    for (key, value) in [("secretNamespace", "elsewhere"), ("secretName", "other"), ("user", "admin")] {
        let site = Site::new(&[]).await;
        site.keys.delete(&site.secret);
        let mut in_use = site.in_use.clone();
        in_use.pv_metadata.record.insert(key.into(), value.into());
        let error = site.backend.register(&in_use, &Permit::unlimited()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{key}");
        assert!(error.to_string().contains("ceph auth get-key client."), "{key}: {error}");
        site.untouched(key);
    }
}

#[tokio::test]
async fn no_secret_is_made_for_a_volume_that_is_not_proved_to_be_ours() {
    let permit = Permit::unlimited();
    let site = Site::new(&[]).await;
    let copies = site.mgr.backend(Keys::new("i-2", KEY));
    let error = copies.register(&site.in_use, &permit).await.unwrap_err();
    assert!(error.to_string().contains("take-over=i-1"), "a copied PersistentVolume: {error}");
    site.keys.delete(&site.secret);
    site.untouched("a copied PersistentVolume");

    site.keys.identify(None);
    site.backend.register(&site.in_use, &permit).await.unwrap();
    site.untouched("who we are is not known");
    site.keys.identify(Some("i-1"));

    let ended = Permit::unlimited();
    ended.revoke();
    assert!(site.backend.register(&site.in_use, &ended).await.is_err());
    site.untouched("another one leads by now");

    for disposal in [Disposal::Archive, Disposal::Delete] {
        let site = Site::new(&[]).await;
        site.backend.remove(&removal(&site.request, &site.volume, disposal), &permit).await.unwrap();
        site.keys.delete(&site.secret);
        site.mgr.take_log();
        site.backend.register(&site.in_use, &permit).await.unwrap();
        site.untouched(&disposal.to_string());
    }
    let site = Site::new(&[]).await;
    site.mgr.ceph(&["fs", "subvolume", "rm", "cephfs", "berth-uid-data", "--group_name", "berth"]).unwrap();
    site.keys.delete(&site.secret);
    site.backend.register(&site.in_use, &permit).await.unwrap();
    site.untouched("its data is gone");
}

/// Where the leadership ends between the two changes, the next leader does the second one.
#[tokio::test]
async fn a_secret_whose_making_was_interrupted_is_made_by_the_next_leader() {
    for when in ["before", "after"] {
        let site = Site::new(&[]).await;
        site.keys.delete(&site.secret);
        site.mgr.break_off(0, when);
        assert!(site.backend.register(&site.in_use, &Permit::unlimited()).await.is_err(), "{when}");
        assert!(site.mgr.mend(), "{when}");
        assert_eq!(site.keys.kept(), [], "{when}");
        let next = site.mgr.backend(site.keys.clone());
        next.register(&site.in_use, &Permit::unlimited()).await.unwrap();
        assert_eq!(site.keys.kept(), from_ref(&site.secret), "{when}");
    }
}

/// `authorize` empties Ceph's record of the user first: the volume could never be mounted again.
#[tokio::test]
async fn no_secret_is_made_in_a_full_file_system_and_the_user_stays_known() {
    let site = Site::new(&[]).await;
    let before = site.mgr.state();
    let full = site.mgr.path().join("full");
    fs::write(&full, "").unwrap();
    site.keys.delete(&site.secret);
    let error = site.backend.register(&site.in_use, &Permit::unlimited()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    site.untouched("full");
    fs::remove_file(&full).unwrap();
    assert_eq!(site.mgr.state(), before);
    site.backend.register(&site.in_use, &Permit::unlimited()).await.unwrap();
    assert_eq!(site.keys.kept(), from_ref(&site.secret));
}

/// The namespace may have been deleted, and made again by anybody.
#[tokio::test]
async fn the_key_of_a_volume_goes_to_no_namespace_that_its_claim_has_left() {
    let site = Site::new(&[]).await;
    let (ours, theirs) = (site.in_use.claim.namespace.clone(), "elsewhere".to_owned());
    assert_eq!(site.secret.namespace, ours, "the Secret is with the claim");
    site.keys.delete(&site.secret);
    let mut rebound = site.in_use.clone();
    rebound.claim.namespace = theirs;
    rebound.claim.uid = "another".into();
    let error = site.backend.register(&rebound, &Permit::unlimited()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("ceph auth get-key client."), "{error}");
    site.untouched("bound to a claim of another namespace");
}
