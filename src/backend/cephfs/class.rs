//! The class parameters of the `CephFS` backend: [`PARAMETERS`], and [`plan`], which reads them for one claim. Pure.
//!
//! Whose key it is and which file system a cluster has is not known here.

use std::{collections::BTreeMap, time::Duration};

use super::{
    names::{self, Names},
    settings::Settings,
};
use crate::{
    backend::{
        Error, Kind, Parameter,
        ceph::{
            Admin, Cluster, Clusters, Monitors,
            class::{Form, Parameters, without_client, wrong},
            parameters,
        },
        parameter_table,
    },
    volume::{Location, Mode, SecretName, VolumeRequest, parse_bool},
};

/// Every class parameter that the backend reads.
pub const PARAMETERS: &[Parameter] = parameter_table! {
    use parameters::CLUSTER_ID;
    use parameters::MONITORS;
    "adminId": "a Ceph user, without \"client.\"" = "admin; without adminSecretName as the cluster is configured";
        "The user that makes and removes subvolumes: mon \"allow r\", mgr as deploy/examples/ceph/caps.sh prints it.";
    use parameters::ADMIN_SECRET_NAME;
    use parameters::ADMIN_SECRET_NAMESPACE;
    "fsName": "the name of a file system" = "the only file system of the cluster";
        "The file system in which subvolumes are made.";
    "group": "1 to 64 letters, digits, '.', '_', '-'" = "as claimRoot says, else berth";
        "The subvolume group; made where there is none.";
    "claimRoot": "/volumes/GROUP" = "as group says";
        "The subvolume group, as cephfs-provisioner wrote it.";
    "pool": "the name of a data pool of the file system" = "the pool of the group";
        "The pool for the data of new subvolumes.";
    "deterministicNames": "true, false" = "false";
        "Names a subvolume NAMESPACE.CLAIM rather than berth-UID.";
    "perVolumeUser": "true, false" = "true, unless userSecretName is given";
        "Makes a Ceph user for each volume, which can reach nothing else, and a Secret with its key.";
    "userId": "a Ceph user, without \"client.\"" = "the user of adminId";
        "With userSecretName: the user that nodes mount every volume as.";
    "userSecretName": "the name of a Secret" = "none: each volume has a user of its own";
        "The Secret with the key of the user that nodes mount every volume as.";
    "userSecretNamespace": "a namespace" = "the claim's; for users of the volumes' own --secret-namespace, if set";
        "Where that Secret is, or where the Secrets of the volumes' own users are kept.";
    use parameters::PV_SOURCE;
    use parameters::ARCHIVE_EXPIRY;
    "mode": "octal, 0 to 7777" = "0777";
        "Mode of a new subvolume's directory.";
    "uid": "0 to 4294967294" = "the owner of the group's directory";
        "Owner of a new subvolume's directory.";
    "gid": "0 to 4294967294" = "the group of the group's directory";
        "Group of a new subvolume's directory.";
    "cluster": "any" = "ceph";
        "None: it named a configuration file of cephfs-provisioner's. Accepted, so that its classes stay valid.";
};

/// The group of a class that names none.
const GROUP: &str = "berth";
/// Quotas are whole numbers of these: clients show them in blocks of this size.
const QUOTA_STEP: u64 = 4 << 20;
/// 1 EiB; a larger request is a slip.
const LARGEST: u64 = 1 << 60;

/// What a class asks for, for one claim.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) cluster: Cluster,
    /// The monitors, where the class writes them.
    pub(super) monitors: Option<Monitors>,
    pub(super) admin: Admin,
    /// Whether the class, not the configuration, names the admin: then the PV must remember it.
    pub(super) own_admin: bool,
    /// The file system, where the class names one.
    pub(super) fs: Option<String>,
    pub(super) names: Names,
    /// In bytes, a whole number of quota steps.
    pub(super) quota: u64,
    pub(super) pool: Option<String>,
    pub(super) mode: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) node: Node,
    pub(super) form: Form,
    pub(super) expiry: Option<Duration>,
    pub(super) place: Location,
}

/// Whom nodes mount a volume as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A user of the volume's own, whose key is kept in this Secret.
    Own { user: String, secret: SecretName },
    /// A user of all volumes. The namespace of the Secret is empty where that is the claim's.
    Shared { user: String, secret: SecretName },
    /// The node plugin knows by itself.
    Configured,
}

/// Reads the parameters of `request`.
pub(super) fn plan(clusters: &Clusters, settings: &Settings, request: &VolumeRequest) -> Result<Plan, Error> {
    if request.mode == Mode::Block {
        let message =
            "CephFS has directories, not raw devices; set volumeMode to Filesystem, or use an RBD class";
        return Err(Error::new(Kind::Unsupported, message));
    }
    let parameters = Parameters(&request.parameters);
    let (cluster, monitors) = parameters.cluster(clusters)?;
    let (admin, own_admin) = parameters.admin(&settings.admins, &cluster)?;
    let group = group(parameters)?;
    let names = if truth(parameters, "deterministicNames")?.unwrap_or(false) {
        Names::deterministic(group, &request.claim, &request.name)?
    } else {
        Names::unique(group, &request.name)?
    };
    let form = parameters.form()?;
    let place =
        Location { store: cluster.name().to_owned(), path: names::path(&names.group, &names.subvolume) };
    Ok(Plan {
        node: node(settings, parameters, request, &admin, form)?,
        cluster,
        monitors,
        admin,
        own_admin,
        fs: parameters.get("fsName").map(|name| names::plain("fsName", name)).transpose()?,
        names,
        quota: quota(request.capacity.bytes())?,
        pool: parameters.get("pool").map(|name| names::plain("pool", name)).transpose()?,
        mode: mode(parameters)?,
        uid: number(parameters, "uid")?,
        gid: number(parameters, "gid")?,
        form,
        expiry: parameters.expiry()?,
        place,
    })
}

/// What a class tells before any claim uses it.
pub(super) struct ClassTarget {
    pub(super) cluster: Cluster,
    pub(super) admin: Admin,
    pub(super) group: String,
    pub(super) fs: Option<String>,
}

/// Reads what a class tells before any claim uses it.
pub(super) fn class_target(
    clusters: &Clusters,
    settings: &Settings,
    parameters: &BTreeMap<String, String>,
) -> Result<ClassTarget, Error> {
    let parameters = Parameters(parameters);
    let (cluster, _) = parameters.cluster(clusters)?;
    Ok(ClassTarget {
        admin: parameters.admin(&settings.admins, &cluster)?.0,
        group: group(parameters)?,
        fs: parameters.get("fsName").map(|name| names::plain("fsName", name)).transpose()?,
        cluster,
    })
}

/// A truth value in Go's words. The older provisioner silently took what it could not read for false.
fn truth(parameters: Parameters<'_>, name: &str) -> Result<Option<bool>, Error> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    parse_bool(text).map(Some).ok_or_else(|| wrong(name, text, "must be true or false"))
}

/// A user or a group that owns files.
fn number(parameters: Parameters<'_>, name: &str) -> Result<Option<u32>, Error> {
    let Some(value) = parameters.get(name) else { return Ok(None) };
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    // The highest number means "unchanged" to chown(2).
    let number = digits.then(|| value.parse().ok()).flatten().filter(|number| *number != u32::MAX);
    let why = format!("must be a number from 0 to {}", u32::MAX - 1);
    number.map(Some).ok_or_else(|| wrong(name, value, why))
}

fn group(parameters: Parameters<'_>) -> Result<String, Error> {
    let named = parameters.get("group").map(names::group).transpose()?;
    let rooted = parameters.get("claimRoot").map(group_of_root).transpose()?;
    match (named, rooted) {
        (Some(named), Some(rooted)) if named != rooted => Err(Error::new(
            Kind::Invalid,
            format!("parameter group says {named:?}, but claimRoot says {rooted:?}; write one of both"),
        )),
        (Some(group), _) | (None, Some(group)) => Ok(group),
        (None, None) => Ok(GROUP.to_owned()),
    }
}

/// `/volumes/kube` is the group `kube`.
fn group_of_root(root: &str) -> Result<String, Error> {
    let segments: Vec<&str> = root.split('/').filter(|segment| !segment.is_empty()).collect();
    if !root.starts_with('/') || segments.iter().any(|segment| matches!(*segment, "." | "..")) {
        return Err(wrong(
            "claimRoot",
            root,
            "must be an absolute path without \".\" and \"..\", such as /volumes/kubernetes",
        ));
    }
    if let ["volumes", group] = segments.as_slice() {
        return names::group(group)
            .map_err(|error| wrong("claimRoot", root, format_args!("does not end in a group: {error}")));
    }
    let last = segments.last().filter(|last| **last != "volumes" && names::group(last).is_ok());
    let why = format!(
        "cannot be mapped: Ceph keeps subvolumes in /volumes/GROUP/SUBVOLUME and nowhere else; write {:?}. Volumes that \
                 the old provisioner made below the old path are not moved by that",
        format!("/volumes/{}", last.unwrap_or(&"kubernetes"))
    );
    Err(wrong("claimRoot", root, why))
}

fn node(
    settings: &Settings,
    parameters: Parameters<'_>,
    request: &VolumeRequest,
    admin: &Admin,
    form: Form,
) -> Result<Node, Error> {
    let invalid = |message: &str| Err(Error::new(Kind::Invalid, message));
    let namespace = parameters.get("userSecretNamespace").map(str::to_owned);
    let shared = parameters.get("userSecretName");
    match (shared, truth(parameters, "perVolumeUser")?) {
        (Some(_), Some(true)) => invalid(
            "parameters perVolumeUser and userSecretName contradict each other: either each volume has a user of its own, or all \
             are mounted as one; write one of both",
        ),
        (Some(name), Some(false) | None) => {
            let user = parameters.get("userId").unwrap_or(&admin.user);
            let user = without_client(user).to_owned();
            let namespace = match (namespace, form) {
                (Some(namespace), _) => namespace,
                // The claim's, as in-tree PVs say it.
                (None, Form::InTree) => String::new(),
                (None, Form::Csi) => request.claim.namespace.clone(),
            };
            Ok(Node::Shared { user, secret: SecretName { namespace, name: name.to_owned() } })
        }
        (None, Some(true) | None) => {
            if parameters.get("userId").is_some() {
                return invalid(
                    "parameter userId stands without userSecretName; write the Secret with that user's key too, or leave userId \
                     out, so that each volume has a user of its own",
                );
            }
            let user = names::user(&request.name)?;
            let namespace = namespace
                .or_else(|| settings.secret_namespace.clone())
                .unwrap_or_else(|| request.claim.namespace.clone());
            let secret = SecretName { namespace, name: names::secret(&user) };
            Ok(Node::Own { user, secret })
        }
        (None, Some(false)) => match form {
            Form::Csi => Ok(Node::Configured),
            Form::InTree => invalid(
                "an in-tree PV names the user to mount as; write userSecretName and userId, or leave perVolumeUser out",
            ),
        },
    }
}

/// The quota for so many bytes.
pub(super) fn quota(bytes: u64) -> Result<u64, Error> {
    if bytes == 0 {
        return Err(Error::new(
            Kind::Invalid,
            "a volume of 0 bytes cannot be limited; request at least 1 byte",
        ));
    }
    if bytes > LARGEST {
        let message = format!("{bytes} bytes are more than any volume may have; request at most 1Ei");
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(bytes.div_ceil(QUOTA_STEP) * QUOTA_STEP)
}

fn mode(parameters: Parameters<'_>) -> Result<String, Error> {
    let Some(value) = parameters.get("mode") else { return Ok("0777".into()) };
    let octal = value.len() <= 5 && value.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let number = octal.then(|| u32::from_str_radix(value, 8).ok()).flatten().filter(|mode| *mode <= 0o7777);
    let why = "must be an octal number from 0 to 7777, such as \"0770\"";
    number.map(|mode| format!("{mode:04o}")).ok_or_else(|| wrong("mode", value, why))
}

#[cfg(test)]
mod tests;
