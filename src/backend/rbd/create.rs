//! Making a volume's image, or finding the one that an earlier attempt made; and making it bigger.
//!
//! Nothing is made while it is not known for which cluster: it could not be marked, and so never be removed.
//!
//! One program makes image, mark and size, in this order: an image of one object, its metadata, then its size. Whatever is found
//! half done is finished. An image without our mark is taken only if it is exactly what such a program leaves behind.

use super::{
    class::{self, Plan},
    error::{OpError, fail},
    image::ImageState,
    owner::Mark,
    proof::Verdict,
    settings::NAME,
    volume_context::VolumeContext,
    work::PoolClient,
};
use crate::{
    backend::{
        Kind, UNKNOWN_CLUSTER,
        ceph::{
            Reason,
            class::{Form, Parameters},
        },
        quoted,
    },
    volume::{
        Capacity, ClusterIds, CsiSource, ExpandRequest, Expanded, Mode, Origin, Permit, RbdSource,
        SecretName, Source, Volume, VolumeId, VolumeRequest,
    },
};

/// How often the work is begun again when images come and go.
const ATTEMPTS: usize = 3;

/// Makes the volume, or finds it.
pub(super) async fn create(
    work: &PoolClient,
    driver: &str,
    request: &VolumeRequest,
    plan: &Plan,
    permit: &Permit,
) -> Result<Volume, OpError> {
    let spec = work.pool_namespace.spec(&plan.image);
    let Some(cluster) = work.kube.cluster_ids() else {
        return fail(
            Kind::Unavailable,
            format!("image {spec} cannot be marked as this cluster's: {UNKNOWN_CLUSTER}"),
        );
    };
    let identity = work.identity().await?;
    let mark = Mark::new(&cluster, request.claim.key());
    for attempt in 0..ATTEMPTS {
        match work.import(plan, &mark, permit).await {
            Ok(()) => return volume(driver, request, plan, plan.size, identity),
            Err(failed) if failed.reason == Reason::Exists => {}
            Err(failed) => return Err(failed.into()),
        }
        if let Some(look) = work.look(&plan.image).await? {
            work.store.is_whole(&spec);
            let size = adopt(work, plan, (&cluster, &mark), &look, permit).await?;
            return volume(driver, request, plan, size, identity);
        }
        // It may be gone by now.
        if attempt == 0 {
            continue;
        }
        // The making of it was interrupted before it could be opened. What is left is a name in the list of images, which no client
        // can have put content behind; or it was on its way to the trash.
        if !work.store.is_abandoned(&spec) {
            let message =
                format!("image {spec} is being created by another process, or its creation was interrupted");
            return fail(Kind::Busy, message);
        }
        work.clear(&plan.image, permit).await?;
        work.store.is_whole(&spec);
    }
    fail(
        Kind::Unavailable,
        format!(
            "image {spec} was repeatedly created and removed during the creation of the \
        volume"
        ),
    )
}

/// Finishes an image that exists, if it is ours; its size.
async fn adopt(
    work: &PoolClient,
    plan: &Plan,
    (cluster, mark): (&ClusterIds, &Mark),
    look: &ImageState,
    permit: &Permit,
) -> Result<u64, OpError> {
    let spec = work.pool_namespace.spec(&plan.image);
    let marked = look.header.metadata.mark(&spec)?;
    if let Some(there) = &marked
        && (there.claim() != mark.claim() || there.has_cluster_id() && !there.is_of(Some(cluster)))
    {
        return fail(Kind::Conflict, format!("image {spec} exists already and belongs to {there}"));
    }
    if marked.is_none()
        && let Some(why) = not_a_trace(look)
    {
        let message = format!(
            "image {spec} exists already, has no owner, and is not what a broken off attempt leaves behind: {why}. Find out whose it \
             is, and rename it (rbd rename)"
        );
        return fail(Kind::Conflict, message);
    }
    let signed = marked.is_some_and(|mark| mark.has_cluster_id());
    // A program that still makes it removes it again when a step of that fails. One that a node uses has a PV, and is asked for no
    // more.
    if let Some(watcher) = look.watchers.first() {
        let watcher = watcher.describe(|address| work.kube.node_at(address));
        let message = format!(
            "image {spec} is being made by another process, or the making of it was broken off; it is open by {watcher}, \
             which Ceph forgets after 30 s"
        );
        return fail(Kind::Busy, message);
    }
    // One that does not say of which cluster it is may be another one's, as long as anything is in it.
    if !signed && work.has_content(&plan.image).await? {
        let message = format!(
            "image {spec} exists already, does not say of which cluster it is, and has content. Find out whose it is, and rename it (rbd \
             rename)"
        );
        return fail(Kind::Conflict, message);
    }
    let (has, wants) = (look.info.features(), plan.features);
    if has != wants {
        let message = format!(
            "image {spec} was made with the features [{has}], and the class asks for [{wants}]; correct the class, or remove \
             the image (rbd rm {}) if nothing is in it",
            quoted(&spec)
        );
        return fail(Kind::Conflict, message);
    }
    // Where the class names none, it is as the cluster is configured.
    if plan.data_pool.is_some() && look.info.data_pool != plan.data_pool {
        let shown = |pool: &Option<String>| pool.clone().unwrap_or_else(|| "its own pool".to_owned());
        let message = format!(
            "image {spec} keeps its data in {}, and the class asks for {}; correct the class, or remove the image (rbd rm {}) \
             if nothing is in it",
            shown(&look.info.data_pool),
            shown(&plan.data_pool),
            quoted(&spec)
        );
        return fail(Kind::Conflict, message);
    }
    if !signed {
        work.set_mark(&plan.image, mark, permit).await?;
    }
    if look.info.size < plan.size {
        work.resize(&plan.image, plan.size, permit).await?;
    }
    Ok(look.info.size.max(plan.size))
}

/// Why an image without our mark cannot be what an import of ours left behind, as far as its description tells.
pub(super) fn not_a_trace(look: &ImageState) -> Option<&'static str> {
    let ImageState { info, header, watchers: _ } = look;
    if !header.metadata.is_empty() {
        Some("it has metadata of others")
    } else if info.snapshot_count > 0 {
        Some("it has snapshots")
    } else if info.parent.is_some() {
        Some("it is a clone")
    } else if info.size > info.object_size {
        Some("it is larger than one object")
    } else {
        None
    }
}

/// The volume, as its PV describes it.
fn volume(
    driver: &str,
    request: &VolumeRequest,
    plan: &Plan,
    size: u64,
    identity: String,
) -> Result<Volume, OpError> {
    let id = VolumeId::new(NAME, plan.target.cluster.name(), request.name.clone())?;
    let source = match plan.form {
        Form::Csi => Source::Csi(csi(driver, request, plan, &id)),
        Form::InTree => Source::Rbd(in_tree(plan)),
    };
    let target = &plan.target;
    let monitors = target.monitors.as_ref().map(ToString::to_string);
    let admin = |text: &str| target.admin_named.then(|| text.to_owned());
    let written = |name| Parameters(&request.parameters).get(name).map(str::to_owned);
    let record = [
        ("monitors", monitors),
        ("adminId", admin(&target.admin.user)),
        ("adminSecretName", admin(&target.admin.secret.name)),
        ("adminSecretNamespace", admin(&target.admin.secret.namespace)),
        ("pool", Some(target.pool_namespace.pool.clone())),
        ("radosNamespace", target.pool_namespace.namespace.clone()),
        ("dataPool", plan.data_pool.clone()),
        ("image", Some(plan.image.clone())),
        ("archiveExpiry", written("archiveExpiry")),
        ("maxSize", written("maxSize")),
    ];
    let record = record.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    Ok(Volume {
        id,
        source,
        capacity: Some(Capacity::from_bytes(size)),
        origin: Origin::Created,
        store_identity: identity,
        record,
    })
}

fn csi(driver: &str, request: &VolumeRequest, plan: &Plan, id: &VolumeId) -> CsiSource {
    let target = &plan.target;
    // Of a configured cluster they are looked up when they are needed.
    let monitors = target.monitors.as_ref().filter(|monitors| monitors.store_name() == target.cluster.name());
    let features = plan.features.to_string();
    let context = VolumeContext {
        cluster_id: Some(target.cluster.name().to_owned()),
        monitors: monitors.cloned(),
        pool_namespace: target.pool_namespace.clone(),
        image: plan.image.clone(),
        features: (!features.is_empty()).then_some(features),
        user: Some(plan.user.clone()),
    };
    let secret = &plan.user_secret;
    let namespace = if secret.namespace.is_empty() { &request.claim.namespace } else { &secret.namespace };
    CsiSource {
        driver: driver.to_owned(),
        handle: id.to_string(),
        attributes: context.attributes(),
        fs_type: plan.fs_type.clone(),
        stage_secret: Some(SecretName { namespace: namespace.clone(), name: secret.name.clone() }),
    }
}

/// Exactly the fields of the old provisioner; the monitors stay as they were written, names too.
fn in_tree(plan: &Plan) -> RbdSource {
    let target = &plan.target;
    let monitors = target.monitors.as_ref().unwrap_or_else(|| target.cluster.monitors());
    RbdSource {
        monitors: monitors.each(),
        pool: target.pool_namespace.pool.clone(),
        image: plan.image.clone(),
        user: plan.user.clone(),
        secret: Some(plan.user_secret.clone()),
        fs_type: plan.fs_type.clone(),
    }
}

/// Makes the image of a volume bigger, never smaller.
pub(super) async fn expand(
    work: &PoolClient,
    request: &ExpandRequest,
    image: &str,
    permit: &Permit,
) -> Result<Expanded, OpError> {
    let size = class::size(request.capacity)?;
    let ExpandRequest { name, pv_metadata, .. } = request;
    let parameters = if request.id.is_some() { &pv_metadata.record } else { &pv_metadata.parameters };
    class::within_bounds(Parameters(parameters), request.capacity)?;
    let spec = work.pool_namespace.spec(image);
    work.prove_identity(request.into()).await?;
    let Some((info, header)) = work.info_and_header(image).await? else {
        return fail(Kind::NotFound, format!("image {spec} of volume {name} does not exist"));
    };
    match work.prove(&spec, &header, request.into()).await? {
        // What is taken over is marked when it is registered, or before it is removed.
        Verdict::Ours | Verdict::Relabel { .. } => {}
    }
    if info.size < size {
        work.resize(image, size, permit).await?;
    }
    let capacity = Capacity::from_bytes(info.size.max(size));
    Ok(Expanded { capacity, on_node: request.mode == Mode::Filesystem })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::backend::rbd::{header::Header, image::Info};

    #[test]
    fn only_what_a_interrupted_import_leaves_behind_is_taken_without_a_mark() {
        const OBJECT: u64 = 4 << 20;
        let look = |change: serde_json::Value, metadata: serde_json::Value| {
            let mut info = json!({"id": "1", "size": OBJECT, "object_size": OBJECT, "snapshot_count": 0});
            if let (Some(info), Some(change)) = (info.as_object_mut(), change.as_object()) {
                info.extend(change.clone());
            }
            let info: Info = serde_json::from_value(info).unwrap();
            let header = Header { metadata: serde_json::from_value(metadata).unwrap(), ..Header::default() };
            ImageState { info, header, watchers: Vec::new() }
        };
        let rows = [
            ("one object", look(json!({}), json!({})), None),
            ("larger", look(json!({"size": OBJECT + 512}), json!({})), Some("larger")),
            ("metadata", look(json!({}), json!({"a": "b"})), Some("metadata")),
            ("snapshots", look(json!({"snapshot_count": 1}), json!({})), Some("snapshots")),
            ("a clone", look(json!({"parent": {"image": "x"}}), json!({})), Some("clone")),
        ];
        for (row, look, expected) in rows {
            let why = not_a_trace(&look);
            match expected {
                None => assert_eq!(why, None, "{row}"),
                Some(word) => assert!(why.is_some_and(|why| why.contains(word)), "{row}: {why:?}"),
            }
        }
    }
}
