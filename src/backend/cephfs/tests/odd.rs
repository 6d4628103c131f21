//! What must hold where the world is not as it was: classes that came and went, work that others left, clusters that were
//! swapped. On the stand-in alone.

use super::{
    conformance::{Keys, admin_secret},
    fake::{KEY, MONITORS, Mgr},
};
use crate::{
    backend::{Backend, conformance::request},
    volume::{CephfsSource, Source, VolumeRequest},
};

/// What claim `team/<name>` of a class asks for.
fn asked(name: &str, more: &[(&str, &str)]) -> VolumeRequest {
    let secret = admin_secret();
    let common = [
        ("monitors", MONITORS),
        ("adminSecretName", secret.name.as_str()),
        ("adminSecretNamespace", secret.namespace.as_str()),
    ];
    let all = common.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    VolumeRequest { parameters: all.collect(), ..request(name) }
}

#[test]
fn where_a_volume_lies_does_not_depend_on_the_classes_that_are_known() {
    let backend = Mgr::new().backend(Keys::new("i-1", KEY));
    // One of the monitors that the class names.
    let source = Source::Cephfs(CephfsSource {
        monitors: vec!["127.0.0.2:6789".into()],
        path: "/volumes/kubernetes/team/data".into(),
        user: "k8s.team.data".into(),
        secret: None,
    });
    let before = backend.locate(&source).unwrap();
    backend.acquaint(&asked("data", &[]).parameters);
    assert_eq!(backend.stores().len(), 1, "the cluster of the class is known by now");
    assert_eq!(backend.locate(&source), Some(before));
}
