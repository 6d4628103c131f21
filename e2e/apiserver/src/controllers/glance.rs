//! The few fields of claims and volumes by which most of them are settled at a glance.
//!
//! Entry points: [`Glance::at`], [`settled`]. Reading these costs a tenth of parsing the object, and with a hundred
//! thousand of them nearly every look finds nothing to do. Deliberately not here: deciding what is to be done.

use std::borrow::Cow;

use serde::Deserialize;

use crate::object::Object;

type Text<'a> = Option<Cow<'a, str>>;

/// Some fields of a claim or a volume.
#[derive(Deserialize, Default)]
pub(crate) struct Glance<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize, Default)]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Text<'a>,
    #[serde(borrow, default)]
    annotations: Annotations<'a>,
}

#[derive(Deserialize, Default)]
struct Annotations<'a> {
    #[serde(borrow, rename = "pv.kubernetes.io/bind-completed")]
    bind_completed: Text<'a>,
    #[serde(borrow, rename = "volume.beta.kubernetes.io/storage-class")]
    class: Text<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    volume_name: Text<'a>,
    #[serde(borrow)]
    storage_class_name: Text<'a>,
    #[serde(borrow)]
    claim_ref: Option<ClaimRef<'a>>,
}

#[derive(Deserialize, Default)]
struct ClaimRef<'a> {
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    uid: Text<'a>,
}

#[derive(Deserialize, Default)]
struct Status<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
}

fn text<'a>(field: &'a Text<'_>) -> &'a str {
    field.as_deref().unwrap_or_default()
}

impl<'a> Glance<'a> {
    pub(crate) fn at(object: &'a Object) -> Self {
        serde_json::from_str(&object.json).unwrap_or_default()
    }

    pub(crate) fn uid(&self) -> &str {
        text(&self.metadata.uid)
    }

    pub(crate) fn phase(&self) -> &str {
        text(&self.status.phase)
    }

    /// The volume of a claim.
    pub(crate) fn volume(&self) -> &str {
        text(&self.spec.volume_name)
    }

    /// The class; the old annotation wins.
    pub(crate) fn class(&self) -> &str {
        self.metadata.annotations.class.as_deref().unwrap_or_else(|| text(&self.spec.storage_class_name))
    }

    /// The claim that a volume names, as namespace and name.
    pub(crate) fn claim(&self) -> Option<(&str, &str)> {
        let reference = self.spec.claim_ref.as_ref()?;
        let name = text(&reference.name);
        (!name.is_empty()).then(|| (text(&reference.namespace), name))
    }
}

/// Whether a claim and a volume are bound to each other and both say so.
pub(crate) fn settled(claim: &Object, volume: &Object) -> bool {
    let (a, b) = (Glance::at(claim), Glance::at(volume));
    let named = b.spec.claim_ref.as_ref().is_some_and(|reference| {
        !a.uid().is_empty()
            && text(&reference.uid) == a.uid()
            && text(&reference.name) == claim.name()
            && text(&reference.namespace) == claim.namespace()
    });
    named
        && a.metadata.annotations.bind_completed.is_some()
        && a.volume() == volume.name()
        && a.phase() == "Bound"
        && b.phase() == "Bound"
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_what_agrees_in_everything_is_settled() {
        let claim = json!({"metadata": {"uid": "u", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        let volume = json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "u"}}, "status": {"phase": "Bound"}});
        let with = |value: &Value, pointer: &str, new: Value| {
            let mut value = value.clone();
            *value.pointer_mut(pointer).unwrap() = new;
            value
        };
        let agree = |claim: &Value, volume: &Value| {
            settled(&Object::new("n/c".into(), 1, claim), &Object::new("v".into(), 1, volume))
        };
        assert!(agree(&claim, &volume));
        for (claim, volume) in [
            (with(&claim, "/status/phase", json!("Pending")), volume.clone()),
            (with(&claim, "/spec/volumeName", json!("other")), volume.clone()),
            (with(&claim, "/metadata/annotations", json!({})), volume.clone()),
            (claim.clone(), with(&volume, "/status/phase", json!("Available"))),
            (claim.clone(), with(&volume, "/spec/claimRef/uid", json!("other"))),
        ] {
            assert!(!agree(&claim, &volume), "{claim} {volume}");
        }
    }
}
