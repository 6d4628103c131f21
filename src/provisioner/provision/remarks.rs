//! What an administrator should know about a class that was used: [`tell`], one Warning Event for each thing and each edition
//! of the class, on the claim that used it first.
//!
//! No claim is refused here.

use super::plan::Order;
use crate::{
    backend::Finding,
    provisioner::{context::Context, events::Type},
};

/// Something to tell about a class: the reason of the Event, and a sentence.
type Remark = (&'static str, String);

/// What there is to tell about the class of this order. `minor`: the minor version of the API server, where it is known.
fn remarks(order: &Order, minor: Option<u32>) -> Vec<Remark> {
    let class = &order.class.name;
    let unknown = order.unknown.iter().map(|unknown| {
        let note = format!(
            "storage class {class:?} {unknown}; it has no effect. Set strictParameters: \"true\" to refuse such classes"
        );
        ("UnknownParameter", note)
    });
    let findings = order.findings.iter().filter_map(|finding| match finding {
        Finding::LiteralPattern(what) => Some(("LiteralPattern", format!("storage class {class:?} {what}"))),
        Finding::NotMountable { from_minor, why } => {
            let so = *from_minor == 0 || minor.is_some_and(|minor| minor >= *from_minor);
            so.then(|| ("NotMountable", format!("storage class {class:?} {why}")))
        }
    });
    unknown.chain(findings).collect()
}

/// Whether it depends on the version of Kubernetes what there is to tell.
fn depends_on_version(order: &Order) -> bool {
    order.findings.iter().any(|finding| match finding {
        Finding::NotMountable { from_minor, .. } => *from_minor > 0,
        Finding::LiteralPattern(_) => false,
    })
}

/// Tells what there is to tell about the class of this order, if this edition of it was not used before.
pub(super) async fn tell(ctx: &Context, order: &Order) {
    if order.unknown.is_none() && order.findings.is_empty() || !ctx.first_use(&order.class) {
        return;
    }
    let minor = if depends_on_version(order) { ctx.cluster.minor_version().await } else { None };
    for (reason, note) in remarks(order, minor) {
        tracing::warn!(class = order.class.name, reason, note, "a storage class looks wrong");
        ctx.claim_event(&order.claim, Type::Warning, reason, note);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        backend::{Backends, memory::Memory},
        provisioner::{
            cache::Cache,
            fixtures::{self, NAME},
            provision::plan::{Plan, plan},
        },
    };

    fn reasons(parameters: &Value, minor: Option<u32>) -> Vec<&'static str> {
        let backends = Backends::default().with(NAME, Arc::new(Memory::new()));
        let mut cache = Cache::new(backends.clone(), true);
        cache.upsert_class(fixtures::class(json!({"parameters": parameters})));
        let Plan::Provision(order) = plan(&fixtures::claim(json!({})), &cache, &backends, None) else {
            panic!("{parameters} is not provisioned")
        };
        let found = remarks(&order, minor);
        assert!(found.iter().all(|(_, note)| note.starts_with("storage class \"nfs\" ")), "{found:?}");
        found.into_iter().map(|(reason, _)| reason).collect()
    }

    #[test]
    fn each_thing_about_a_class_is_reported_under_a_reason_of_its_own() {
        let rows: &[(Value, Option<u32>, &[&str])] = &[
            (json!({}), Some(36), &[]),
            (json!({"pathPattern": "${.PVC.name}"}), Some(36), &[]),
            (json!({"pathPattern": "${pvc.metadata.name}"}), None, &["LiteralPattern"]),
            (json!({"ondelete": "delete"}), None, &["UnknownParameter"]),
            (
                json!({"ondelete": "delete", "pathPattern": "{.PVC.name}", "mountableBefore": "0"}),
                None,
                &["UnknownParameter", "LiteralPattern", "NotMountable"],
            ),
        ];
        for (parameters, minor, expected) in rows {
            assert_eq!(reasons(parameters, *minor), *expected, "{parameters}");
        }
    }

    #[test]
    fn volumes_that_no_node_mounts_from_a_version_on_are_reported_from_that_version_on() {
        let since = |minor| reasons(&json!({"mountableBefore": "31"}), minor);
        assert!(since(Some(30)).is_empty());
        assert_eq!(since(Some(31)), ["NotMountable"]);
        assert_eq!(since(Some(36)), ["NotMountable"]);
        assert!(since(None).is_empty(), "nothing is claimed of a server that does not say its version");
        assert_eq!(
            reasons(&json!({"mountableBefore": "0"}), None),
            ["NotMountable"],
            "no version mounts them"
        );
    }
}
