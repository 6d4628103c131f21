//! The class that a volume to remove names, as far as it still matters: [`if_needed`].

use crate::provisioner::{
    class::Class,
    context::Context,
    names,
    objects::{VolumeObject, annotation, class_name},
    queue::Outcome,
};

/// The name of the class.
pub(super) fn name_of(volume: &VolumeObject) -> &str {
    class_name(&volume.metadata, volume.spec.storage_class_name.as_deref())
}

/// The class that the volume names, where it matters: for what becomes of the data and, with volumes of older
/// provisioners, for how they are reached. That a class is gone is not believed without asking.
pub(super) async fn if_needed(ctx: &Context, live: &VolumeObject) -> Result<Option<Class>, Outcome> {
    let name = name_of(live);
    let recorded = |key| annotation(&live.metadata, key).is_some();
    if recorded(names::ON_DELETE) && recorded(names::VOLUME_ID) || name.is_empty() {
        return Ok(None);
    }
    let known = ctx.cache().class(name).map(|class| Class::clone(class));
    if known.is_some() {
        return Ok(known);
    }
    ctx.cluster.class(name).await.map_err(|failure| {
        tracing::warn!(class = name, error = %failure, "cannot read the class of a volume to remove");
        failure.outcome()
    })
}

/// The same, as far as it is known without asking.
pub(super) fn if_known(ctx: &Context, live: &VolumeObject) -> Option<Class> {
    ctx.cache().class(name_of(live)).map(|class| Class::clone(class))
}
