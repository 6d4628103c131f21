//! The class parameters of the RBD backend: [`PARAMETERS`], and [`plan`], which reads them for one claim. Pure.
//!
//! They are those of rbd-provisioner and of the in-tree kubernetes.io/rbd, with their defaults; what those took by mistake is
//! refused with a word about what to write. Keys and clusters are only named here, never asked.

use std::collections::BTreeMap;

use super::{
    names::{self, PoolNamespace},
    settings::Settings,
    stream::Features,
    target::ImageTarget,
};
use crate::{
    backend::{
        Error, Kind, Parameter,
        ceph::{
            Admin, Cluster, Clusters, Monitors,
            class::{Form, Parameters, invalid, of, without_client, wrong},
            parameters,
        },
        parameter_table,
    },
    volume::{Access, Capacity, Location, Mode, SecretName, VolumeRequest},
};

/// Every class parameter that the backend reads.
pub const PARAMETERS: &[Parameter] = parameter_table! {
    use parameters::CLUSTER_ID;
    use parameters::MONITORS;
    "adminId": "a Ceph user, without \"client.\"" = "admin; without adminSecretName as the cluster is configured";
        "The user that makes and removes images: mon \"profile rbd\", osd \"profile rbd pool=...\".";
    use parameters::ADMIN_SECRET_NAME;
    use parameters::ADMIN_SECRET_NAMESPACE;
    "pool": "the name of a pool" = "rbd";
        "The pool in which images are made.";
    "dataPool": "the name of a pool" = "pool";
        "The pool in which the images' data is kept, erasure-coded for example.";
    "radosNamespace": "the name of a RADOS namespace" = "none";
        "The namespace of the pool in which images are made. Not with pvSource: in-tree, which cannot say it.";
    "userId": "a Ceph user, without \"client.\"" = "adminId";
        "The user that nodes map images as.";
    "userSecretName": "the name of a Secret" = "none; it is required";
        "The Secret with the key of userId.";
    "userSecretNamespace": "a namespace" = "the claim's namespace";
        "Where userSecretName is.";
    "imageFormat": "2" = "2";
        "The format of images. Ceph makes no images of format 1 any more.";
    "imageFeatures": "layering, exclusive-lock, object-map, fast-diff, deep-flatten, journaling; separated by commas" = "none of them";
        "The features of images; what a feature needs is added. The kernel of a node must know all of them.";
    "fsType": "a file system, such as ext4 or xfs" = "as the node decides, usually ext4";
        "The file system that a node makes in a new image; without effect for raw devices.";
    "csi.storage.k8s.io/fstype": "as fsType" = "fsType";
        "Another way to say fsType, as classes of CSI drivers do.";
    "keyring": "a path on the nodes" = "none";
        "Accepted beside userSecretName, which always won over it; refused without.";
    use parameters::PV_SOURCE;
    "maxSize": "an amount of storage, such as 10Ti" = "none, so what Ceph can make, about 976Ti";
        "The largest image that a claim gets, and may grow to. The larger it may be, the longer its purge takes, written or not.";
    use parameters::ARCHIVE_EXPIRY;
};

/// On which cluster, as whom, and where in it: what every operation must know.
#[derive(Debug, Clone)]
pub(super) struct ClassTarget {
    pub(super) cluster: Cluster,
    /// As the class wrote them.
    pub(super) monitors: Option<Monitors>,
    pub(super) admin: Admin,
    /// Whether the class itself named the admin.
    pub(super) admin_named: bool,
    pub(super) pool_namespace: PoolNamespace,
}

/// What a class asks for, for one claim.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) target: ClassTarget,
    pub(super) image: String,
    pub(super) data_pool: Option<String>,
    pub(super) features: Features,
    pub(super) size: u64,
    pub(super) fs_type: Option<String>,
    pub(super) user: String,
    /// Its namespace is empty where the class names none.
    pub(super) user_secret: SecretName,
    pub(super) form: Form,
}

impl Plan {
    pub(super) fn location(&self) -> Location {
        self.target.pool_namespace.location(self.target.cluster.name(), &self.image)
    }

    pub(super) fn image_target(&self) -> ImageTarget {
        let ClassTarget { cluster, admin, pool_namespace, .. } = self.target.clone();
        ImageTarget { cluster, pool_namespace, image: self.image.clone(), id: None, admin }
    }
}

/// Reads the parameters of `request`.
pub(super) fn plan(clusters: &Clusters, settings: &Settings, request: &VolumeRequest) -> Result<Plan, Error> {
    let parameters = Parameters(&request.parameters);
    let target = read_target(clusters, settings, parameters)?;
    usable(&request.access, request.mode)?;
    format(parameters)?;
    let form = parameters.form()?;
    if form == Form::InTree && target.pool_namespace.namespace.is_some() {
        return Err(invalid(
            "radosNamespace",
            "cannot be written in an in-tree PV; leave it out, or use pvSource: csi",
        ));
    }
    let (user, user_secret) = user(parameters, &target.admin)?;
    // What the removal will need must be right from the beginning.
    parameters.expiry()?;
    within_bounds(parameters, request.capacity)?;
    Ok(Plan {
        image: names::image_of(&request.name)?,
        // Ceph does not write down one that is the image's own.
        data_pool: named(parameters, "dataPool", "pool name")?
            .filter(|pool| *pool != target.pool_namespace.pool),
        features: features(parameters)?,
        size: size(request.capacity)?,
        fs_type: fs_type(parameters, request.mode)?,
        user,
        user_secret,
        form,
        target,
    })
}

/// Reads the parameters that say where images are made.
pub(super) fn target(
    clusters: &Clusters,
    settings: &Settings,
    parameters: &BTreeMap<String, String>,
) -> Result<ClassTarget, Error> {
    read_target(clusters, settings, Parameters(parameters))
}

fn read_target(
    clusters: &Clusters,
    settings: &Settings,
    parameters: Parameters<'_>,
) -> Result<ClassTarget, Error> {
    let (cluster, monitors) = parameters.cluster(clusters)?;
    let (admin, admin_named) = parameters.admin(&settings.admins, &cluster)?;
    let pool = named(parameters, "pool", "pool name")?.unwrap_or_else(|| "rbd".to_owned());
    let pool_namespace =
        PoolNamespace { pool, namespace: named(parameters, "radosNamespace", "RADOS namespace")? };
    Ok(ClassTarget { cluster, monitors, admin, admin_named, pool_namespace })
}

/// The size of an image that holds `capacity`: as it is, up to the next whole sector, since nodes see only whole ones.
pub(super) fn size(capacity: Capacity) -> Result<u64, Error> {
    /// Ceph keeps track of this many objects of an image, of 4 MiB each.
    const MOST: u64 = 256_000_000 * (4 << 20);
    const SECTOR: u64 = 512;
    match capacity.bytes() {
        0 => Err(Error::new(Kind::Invalid, "an image of 0 bytes holds nothing; ask for more storage")),
        bytes if bytes > MOST => Err(Error::new(
            Kind::Invalid,
            format!(
                "{capacity} ({bytes} bytes) are more than an image can have, which is {MOST} bytes (about 976 TiB)"
            ),
        )),
        bytes => Ok(bytes.next_multiple_of(SECTOR)),
    }
}

/// Whether the class allows an image of that size.
pub(super) fn within_bounds(parameters: Parameters<'_>, capacity: Capacity) -> Result<(), Error> {
    let Some(most) = of("maxSize", parameters.get("maxSize").map(str::parse::<Capacity>).transpose())? else {
        return Ok(());
    };
    if capacity.bytes() <= most.bytes() {
        return Ok(());
    }
    let message =
        format!("{capacity} are more than the class allows, which is {most} (maxSize); ask for less");
    Err(Error::new(Kind::Invalid, message))
}

fn named(parameters: Parameters<'_>, name: &str, what: &'static str) -> Result<Option<String>, Error> {
    of(name, parameters.get(name).map(|text| names::checked(what, text)).transpose())
}

/// The user that maps images, and where its key is.
fn user(parameters: Parameters<'_>, admin: &Admin) -> Result<(String, SecretName), Error> {
    let user = parameters.get("userId").map_or(admin.user.as_str(), without_client).to_owned();
    let Some(secret) = parameters.get("userSecretName") else {
        return match parameters.get("keyring") {
            Some(path) => Err(invalid(
                "keyring",
                format!(
                    "{path:?} names a file on the nodes, which nothing reads there any more; put the key of user {user:?} \
                     into a Secret and name it by userSecretName"
                ),
            )),
            None => Err(invalid(
                "userSecretName",
                format!("is missing; name the Secret with the key of user {user:?}"),
            )),
        };
    };
    let namespace = parameters.get("userSecretNamespace").unwrap_or_default().to_owned();
    Ok((user, SecretName { namespace, name: secret.to_owned() }))
}

/// Whether an image can be used in these ways.
fn usable(access: &[Access], mode: Mode) -> Result<(), Error> {
    for access in access {
        match (access, mode) {
            (Access::ReadWriteMany, Mode::Filesystem) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "access mode ReadWriteMany: the file system in an image is destroyed when two nodes write to it; use \
                     ReadWriteOnce, a class of CephFS, or volumeMode Block for programs that share a raw device",
                ));
            }
            (Access::ReadWriteMany, Mode::Block)
            | (Access::ReadWriteOnce | Access::ReadOnlyMany | Access::ReadWriteOncePod, _) => {}
        }
    }
    Ok(())
}

fn format(parameters: Parameters<'_>) -> Result<(), Error> {
    match parameters.get("imageFormat") {
        None | Some("2") => Ok(()),
        Some("1") => Err(invalid(
            "imageFormat",
            "Ceph makes no images of format 1 any more (\"Format 1 image creation unsupported\"); leave it out, or write \"2\"",
        )),
        Some(other) => Err(wrong("imageFormat", other, "must be \"2\"")),
    }
}

fn features(parameters: Parameters<'_>) -> Result<Features, Error> {
    let Some(text) = parameters.written("imageFeatures") else { return Ok(Features::NONE) };
    if text.trim().is_empty() {
        return Err(invalid("imageFeatures", "is empty; leave it out for images without features"));
    }
    of("imageFeatures", Features::parse(text))
}

fn fs_type(parameters: Parameters<'_>, mode: Mode) -> Result<Option<String>, Error> {
    let csi = "csi.storage.k8s.io/fstype";
    let (name, text) = match (parameters.get("fsType"), parameters.get(csi)) {
        (None, None) => return Ok(None),
        (Some(one), Some(other)) if one != other => {
            return Err(wrong(
                "fsType",
                one,
                format_args!("is not what {csi} says, {other:?}; set one of both"),
            ));
        }
        (Some(text), _) => ("fsType", text),
        (None, Some(text)) => (csi, text),
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if text.len() > 16 || !text.bytes().all(plain) {
        return Err(wrong(name, text, "must be the name of a file system, such as ext4 or xfs"));
    }
    Ok((mode == Mode::Filesystem).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests;
