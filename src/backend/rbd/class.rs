//! The class parameters of the RBD backend: [`PARAMETERS`], and [`plan`], which reads them for one claim. Pure.
//!
//! They are those of rbd-provisioner and of the in-tree kubernetes.io/rbd, with their defaults; what those took by mistake is
//! refused with a word about what to write. Keys and clusters are only named here, never asked.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Admin, Settings,
    names::{self, Spot},
    stream::Features,
};
use crate::{
    backend::{
        Error, Kind, Parameter,
        ceph::{Cluster, Clusters, Monitors},
    },
    volume::{Access, Capacity, Invalid, Mode, Place, SecretName, VolumeRequest},
};

/// Every class parameter that the backend reads.
pub const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "clusterID",
        values: "the name of a configured cluster",
        default: "the cluster that monitors names",
        effect: "The cluster on which images are made. Its monitors may change without any PV being touched.",
    },
    Parameter {
        name: "monitors",
        values: "addresses or host names, separated by commas",
        default: "those of clusterID",
        effect: "The monitors of the cluster, where it is not configured. One of a configured cluster means that cluster.",
    },
    Parameter {
        name: "adminId",
        values: "a Ceph user, without \"client.\"",
        default: "admin, or as the cluster is configured",
        effect: "The user that makes and removes images: mon \"profile rbd\", osd \"profile rbd pool=...\".",
    },
    Parameter {
        name: "adminSecretName",
        values: "the name of a Secret",
        default: "as the cluster is configured",
        effect: "The Secret with the key of adminId, as its value \"key\" or its only value.",
    },
    Parameter {
        name: "adminSecretNamespace",
        values: "a namespace",
        default: "default",
        effect: "Where adminSecretName is.",
    },
    Parameter {
        name: "pool",
        values: "the name of a pool",
        default: "rbd",
        effect: "The pool in which images are made.",
    },
    Parameter {
        name: "dataPool",
        values: "the name of a pool",
        default: "pool",
        effect: "The pool in which the images' data is kept, erasure-coded for example.",
    },
    Parameter {
        name: "radosNamespace",
        values: "the name of a RADOS namespace",
        default: "none",
        effect: "The namespace of the pool in which images are made. Not with pvSource: in-tree, which cannot say it.",
    },
    Parameter {
        name: "userId",
        values: "a Ceph user, without \"client.\"",
        default: "adminId",
        effect: "The user that nodes map images as.",
    },
    Parameter {
        name: "userSecretName",
        values: "the name of a Secret",
        default: "none; it is required",
        effect: "The Secret with the key of userId.",
    },
    Parameter {
        name: "userSecretNamespace",
        values: "a namespace",
        default: "the claim's namespace",
        effect: "Where userSecretName is.",
    },
    Parameter {
        name: "imageFormat",
        values: "2",
        default: "2",
        effect: "The format of images. Ceph makes no images of format 1 any more.",
    },
    Parameter {
        name: "imageFeatures",
        values: "layering, exclusive-lock, object-map, fast-diff, deep-flatten, journaling; separated by commas",
        default: "none of them",
        effect: "The features of images; what a feature needs is added. The kernel of a node must know all of them.",
    },
    Parameter {
        name: "fsType",
        values: "a file system, such as ext4 or xfs",
        default: "as the node decides, usually ext4",
        effect: "The file system that a node makes in a new image; without effect for raw devices.",
    },
    Parameter {
        name: "csi.storage.k8s.io/fstype",
        values: "as fsType",
        default: "fsType",
        effect: "Another way to say fsType, as classes of CSI drivers do.",
    },
    Parameter {
        name: "keyring",
        values: "a path on the nodes",
        default: "none",
        effect: "Accepted beside userSecretName, which always won over it; refused without.",
    },
    Parameter {
        name: "pvSource",
        values: "csi, in-tree",
        default: "csi",
        effect: "How PVs name the image: for a CSI driver, or exactly as rbd-provisioner did, for nodes before Kubernetes 1.31.",
    },
    Parameter {
        name: "archiveExpiry",
        values: "never, or a duration such as 720h or 30d",
        default: "never",
        effect: "How long an archived image stays in the trash of its pool before it is purged.",
    },
];

/// How a PV names the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Csi,
    InTree,
}

/// Until when an archived image is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    Never,
    After(Duration),
}

/// On which cluster, as whom, and where in it: what every operation must know.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) cluster: Cluster,
    /// As the class wrote them.
    pub(super) monitors: Option<Monitors>,
    pub(super) admin: Admin,
    /// Whether the class itself named the admin.
    pub(super) admin_named: bool,
    pub(super) spot: Spot,
}

/// What a class asks for, for one claim.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) ground: Ground,
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
    pub(super) fn place(&self) -> Place {
        self.ground.spot.place(self.ground.cluster.name(), &self.image)
    }
}

type Parameters = BTreeMap<String, String>;

/// Reads the parameters of `request`.
pub(super) fn plan(clusters: &Clusters, settings: &Settings, request: &VolumeRequest) -> Result<Plan, Error> {
    let parameters = &request.parameters;
    let ground = ground(clusters, settings, parameters)?;
    usable(&request.access, request.mode)?;
    format(parameters)?;
    let form = form(parameters)?;
    if form == Form::InTree && ground.spot.namespace.is_some() {
        return invalid(
            "radosNamespace",
            "cannot be written in an in-tree PV; leave it out, or use pvSource: csi",
        );
    }
    let (user, user_secret) = user(parameters, &ground.admin)?;
    // What the removal will need must be right from the beginning.
    expiry(parameters)?;
    Ok(Plan {
        image: names::image_of(&request.name)?,
        data_pool: named(parameters, "dataPool", "pool name")?,
        features: features(parameters)?,
        size: size(request.capacity)?,
        fs_type: fs_type(parameters, request.mode)?,
        user,
        user_secret,
        form,
        ground,
    })
}

/// Reads the parameters that say where images are made.
pub(super) fn ground(
    clusters: &Clusters,
    settings: &Settings,
    parameters: &Parameters,
) -> Result<Ground, Error> {
    let (cluster, monitors) = cluster(clusters, parameters)?;
    let (admin, admin_named) = admin(settings, &cluster, parameters)?;
    let pool = named(parameters, "pool", "pool name")?.unwrap_or_else(|| "rbd".to_owned());
    let spot = Spot { pool, namespace: named(parameters, "radosNamespace", "RADOS namespace")? };
    Ok(Ground { cluster, monitors, admin, admin_named, spot })
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

/// The value of a parameter whose name may be spelt in any case, since the class of an older volume comes as it was written.
pub(super) fn get<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
    parameters
        .get(name)
        .or_else(|| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
        .map(String::as_str)
}

/// The same, where an empty value means as much as none: charts render it so.
pub(super) fn set<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
    get(parameters, name).map(str::trim).filter(|value| !value.is_empty())
}

fn invalid<T>(name: &str, why: impl std::fmt::Display) -> Result<T, Error> {
    Err(Error::new(Kind::Invalid, format!("parameter {name}: {why}")))
}

fn of<T>(name: &str, result: Result<T, Invalid>) -> Result<T, Error> {
    result.or_else(|error| invalid(name, error))
}

fn named(parameters: &Parameters, name: &str, what: &'static str) -> Result<Option<String>, Error> {
    of(name, set(parameters, name).map(|text| names::checked(what, text)).transpose())
}

fn cluster(clusters: &Clusters, parameters: &Parameters) -> Result<(Cluster, Option<Monitors>), Error> {
    let there = || {
        let names: Vec<String> = clusters.all().iter().map(|cluster| cluster.name().to_owned()).collect();
        if names.is_empty() {
            "no cluster is configured".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        }
    };
    let named = set(parameters, "clusterID").map(|name| {
        // One that another class described is gone with that class.
        let configured = clusters.named(name).filter(|_| !name.starts_with("mon-"));
        configured.ok_or_else(|| {
            let message = format!(
                "parameter clusterID: cluster {name:?} is not configured; {}. Configure it, or write its monitors",
                there()
            );
            Error::new(Kind::Invalid, message)
        })
    });
    let named = named.transpose()?;
    let monitors = match (get(parameters, "monitors"), &named) {
        (None, None) => {
            return invalid(
                "monitors",
                format!(
                    "is missing; write the addresses of the cluster's monitors, separated by commas, or name a configured \
                     cluster by clusterID ({})",
                    there()
                ),
            );
        }
        (Some(text), None) if text.trim().is_empty() => {
            return invalid("monitors", "is empty; write the addresses of the cluster's monitors");
        }
        (None, Some(_)) => None,
        (Some(text), Some(_)) if text.trim().is_empty() => None,
        (Some(text), _) => Some(of("monitors", text.parse::<Monitors>())?),
    };
    match (named, monitors) {
        (Some(cluster), None) => Ok((cluster, None)),
        (None, Some(monitors)) => Ok((of("monitors", clusters.reached_by(&monitors))?, Some(monitors))),
        (Some(cluster), Some(monitors)) => {
            if cluster.monitors().share_one(&monitors) {
                return Ok((cluster, Some(monitors)));
            }
            invalid(
                "monitors",
                format!(
                    "{monitors} has no monitor of cluster {:?}, which clusterID names; set one of both",
                    cluster.name()
                ),
            )
        }
        (None, None) => invalid("monitors", "is missing"),
    }
}

/// The user that makes images, and whether the class names it.
fn admin(settings: &Settings, cluster: &Cluster, parameters: &Parameters) -> Result<(Admin, bool), Error> {
    let configured = settings.admins.get(cluster.name());
    let id = set(parameters, "adminId").map(names::without_client);
    let secret = set(parameters, "adminSecretName");
    match (secret, configured) {
        (Some(name), _) => {
            let namespace = set(parameters, "adminSecretNamespace").unwrap_or("default");
            let user = id.unwrap_or("admin").to_owned();
            let secret = SecretName { namespace: namespace.to_owned(), name: name.to_owned() };
            Ok((Admin { user, secret }, true))
        }
        (None, Some(configured)) if id.is_none_or(|id| id == configured.user) => {
            Ok((configured.clone(), false))
        }
        (None, Some(_)) => {
            let id = id.unwrap_or_default();
            invalid("adminSecretName", format!("is missing; name the Secret with the key of user {id:?}"))
        }
        (None, None) => invalid(
            "adminSecretName",
            "is missing; name the Secret with the key of adminId, or configure the cluster with one",
        ),
    }
}

/// The user that maps images, and where its key is.
fn user(parameters: &Parameters, admin: &Admin) -> Result<(String, SecretName), Error> {
    let user = set(parameters, "userId").map_or(admin.user.as_str(), names::without_client).to_owned();
    let Some(secret) = set(parameters, "userSecretName") else {
        return match set(parameters, "keyring") {
            Some(path) => invalid(
                "keyring",
                format!(
                    "{path:?} names a file on the nodes, which nothing reads there any more; put the key of user {user:?} \
                     into a Secret and name it by userSecretName"
                ),
            ),
            None => invalid(
                "userSecretName",
                format!("is missing; name the Secret with the key of user {user:?}"),
            ),
        };
    };
    let namespace = set(parameters, "userSecretNamespace").unwrap_or_default().to_owned();
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

fn format(parameters: &Parameters) -> Result<(), Error> {
    match set(parameters, "imageFormat") {
        None | Some("2") => Ok(()),
        Some("1") => invalid(
            "imageFormat",
            "Ceph makes no images of format 1 any more (\"Format 1 image creation unsupported\"); leave it out, or write \"2\"",
        ),
        Some(other) => invalid("imageFormat", format!("{other:?} must be \"2\"")),
    }
}

fn features(parameters: &Parameters) -> Result<Features, Error> {
    let Some(text) = get(parameters, "imageFeatures") else { return Ok(Features::NONE) };
    if text.trim().is_empty() {
        return invalid("imageFeatures", "is empty; leave it out for images without features");
    }
    of("imageFeatures", Features::parse(text))
}

fn form(parameters: &Parameters) -> Result<Form, Error> {
    match set(parameters, "pvSource") {
        None | Some("csi") => Ok(Form::Csi),
        Some("in-tree") => Ok(Form::InTree),
        Some(other) => invalid("pvSource", format!("{other:?} must be csi or in-tree")),
    }
}

fn fs_type(parameters: &Parameters, mode: Mode) -> Result<Option<String>, Error> {
    let csi = "csi.storage.k8s.io/fstype";
    let (name, text) = match (set(parameters, "fsType"), set(parameters, csi)) {
        (None, None) => return Ok(None),
        (Some(one), Some(other)) if one != other => {
            return invalid("fsType", format!("names {one:?}, but {csi} names {other:?}; set one of both"));
        }
        (Some(text), _) => ("fsType", text),
        (None, Some(text)) => (csi, text),
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if text.len() > 16 || !text.bytes().all(plain) {
        return invalid(name, format!("{text:?} must be the name of a file system, such as ext4 or xfs"));
    }
    Ok((mode == Mode::Filesystem).then(|| text.to_owned()))
}

/// Until when an archived image is kept, as a class says it.
pub(super) fn expiry(parameters: &Parameters) -> Result<Expiry, Error> {
    /// Less would be a deletion that calls itself an archive.
    const LEAST: Duration = Duration::from_mins(1);
    /// Ceph counts the seconds since 1970 in 32 bits.
    const MOST: Duration = Duration::from_hours(24 * 366 * 50);
    let text = match set(parameters, "archiveExpiry") {
        None => return Ok(Expiry::Never),
        Some(text) if text.eq_ignore_ascii_case("never") => return Ok(Expiry::Never),
        Some(text) => text,
    };
    match duration(text) {
        Some(duration) if (LEAST..=MOST).contains(&duration) => Ok(Expiry::After(duration)),
        Some(_) => {
            invalid("archiveExpiry", format!("{text:?} must be from 1m to 18300d; never keeps it for good"))
        }
        None => invalid(
            "archiveExpiry",
            format!("{text:?} must be never, or a duration in s, m, h, d or w, such as 720h or 30d"),
        ),
    }
}

/// Whole numbers, each with a unit: `1h30m`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let mut chars = behind.chars();
        let unit: u64 = match chars.next()? {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = chars.as_str();
    }
    (!text.is_empty()).then(|| Duration::from_secs(total))
}

#[cfg(test)]
mod tests;
