//! The class parameters of the `CephFS` backend: [`PARAMETERS`], and [`plan`], which reads them for one claim. Pure.
//!
//! Whose key it is and which file system a cluster has is not known here.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Admin, Settings,
    names::{self, Names},
};
use crate::{
    backend::{
        Error, Kind, Parameter,
        ceph::{Cluster, Clusters, Monitors},
    },
    volume::{Mode, Place, SecretName, VolumeRequest},
};

/// Every class parameter that the backend reads.
pub const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "clusterID",
        values: "the name of a configured cluster",
        default: "the cluster that monitors name",
        effect: "The cluster on which subvolumes are made. Its monitors may change without any PV being touched.",
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
        effect: "The user that makes and removes subvolumes: mgr \"allow rw\", mon \"allow r\".",
    },
    Parameter {
        name: "adminSecretName",
        values: "the name of a Secret",
        default: "as the cluster is configured",
        effect: "The Secret with that user's key, under \"key\", or as its only value.",
    },
    Parameter {
        name: "adminSecretNamespace",
        values: "a namespace",
        default: "default",
        effect: "Where that Secret is.",
    },
    Parameter {
        name: "fsName",
        values: "the name of a file system",
        default: "the only file system of the cluster",
        effect: "The file system in which subvolumes are made.",
    },
    Parameter {
        name: "group",
        values: "1 to 64 letters, digits, '.', '_', '-'",
        default: "as claimRoot says, else berth",
        effect: "The subvolume group; made where there is none.",
    },
    Parameter {
        name: "claimRoot",
        values: "/volumes/GROUP",
        default: "as group says",
        effect: "The subvolume group, as cephfs-provisioner wrote it.",
    },
    Parameter {
        name: "pool",
        values: "the name of a data pool of the file system",
        default: "the pool of the group",
        effect: "The pool for the data of new subvolumes.",
    },
    Parameter {
        name: "deterministicNames",
        values: "true, false",
        default: "false",
        effect: "Names a subvolume NAMESPACE.CLAIM rather than berth-UID.",
    },
    Parameter {
        name: "perVolumeUser",
        values: "true, false",
        default: "true, unless userSecretName is given",
        effect: "Makes a Ceph user for each volume, which can reach nothing else, and a Secret with its key.",
    },
    Parameter {
        name: "userId",
        values: "a Ceph user, without \"client.\"",
        default: "the user of adminId",
        effect: "With userSecretName: the user that nodes mount every volume as.",
    },
    Parameter {
        name: "userSecretName",
        values: "the name of a Secret",
        default: "none: each volume has a user of its own",
        effect: "The Secret with the key of the user that nodes mount every volume as.",
    },
    Parameter {
        name: "userSecretNamespace",
        values: "a namespace",
        default: "as the provisioner is set up, else the claim's",
        effect: "Where that Secret is, or where the Secrets of the volumes' own users are kept.",
    },
    Parameter {
        name: "pvSource",
        values: "csi, in-tree",
        default: "csi",
        effect: "What the PV says of the volume: for the node plugin of a CSI driver, or for the one that Kubernetes had \
                 before 1.31.",
    },
    Parameter {
        name: "archiveExpiry",
        values: "never, or a duration such as 720h or 30d",
        default: "never",
        effect: "When an archived volume is deleted for good.",
    },
    Parameter {
        name: "mode",
        values: "octal, 0 to 7777",
        default: "0777",
        effect: "Mode of a new subvolume's directory.",
    },
    Parameter {
        name: "uid",
        values: "0 to 4294967294",
        default: "the owner of the group's directory",
        effect: "Owner of a new subvolume's directory.",
    },
    Parameter {
        name: "gid",
        values: "0 to 4294967294",
        default: "the group of the group's directory",
        effect: "Group of a new subvolume's directory.",
    },
    Parameter {
        name: "cluster",
        values: "any",
        default: "ceph",
        effect: "None: it named a configuration file of cephfs-provisioner's. Accepted, so that its classes stay valid.",
    },
];

/// How the names of clusters begin that a class describes; they are met, not configured.
const DESCRIBED: &str = "mon-";
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
    pub(super) monitors: Option<String>,
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
    pub(super) source: Shape,
    pub(super) expiry: Option<Duration>,
    pub(super) place: Place,
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

/// How the PV describes the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Csi,
    InTree,
}

/// Reads the parameters of `request`.
pub(super) fn plan(clusters: &Clusters, settings: &Settings, request: &VolumeRequest) -> Result<Plan, Error> {
    if request.mode == Mode::Block {
        let message =
            "CephFS has directories, not raw devices; set volumeMode to Filesystem, or use an RBD class";
        return Err(Error::new(Kind::Unsupported, message));
    }
    let parameters = Parameters(&request.parameters);
    let (cluster, monitors) = cluster(clusters, parameters)?;
    let (admin, own_admin) = admin(settings, &cluster, parameters)?;
    let group = group(parameters)?;
    let names = if parameters.truth("deterministicNames")?.unwrap_or(false) {
        Names::deterministic(group, &request.claim, &request.name)?
    } else {
        Names::unique(group, &request.name)?
    };
    let source = match parameters.get("pvSource") {
        None | Some("csi") => Shape::Csi,
        Some("in-tree") => Shape::InTree,
        Some(other) => return Err(wrong("pvSource", other, "must be csi or in-tree")),
    };
    let place =
        Place { store: cluster.name().to_owned(), segments: names::segments(&names.group, &names.subvolume) };
    Ok(Plan {
        node: node(settings, parameters, request, &admin, source)?,
        cluster,
        monitors,
        admin,
        own_admin,
        fs: parameters.get("fsName").map(|name| names::plain("fsName", name)).transpose()?,
        names,
        quota: quota(request.capacity.bytes())?,
        pool: parameters.get("pool").map(|name| names::plain("pool", name)).transpose()?,
        mode: mode(parameters)?,
        uid: parameters.number("uid")?,
        gid: parameters.number("gid")?,
        source,
        expiry: expiry(parameters.get("archiveExpiry"))?,
        place,
    })
}

/// What a class tells before any claim uses it.
pub(super) struct Acquaintance {
    pub(super) cluster: Cluster,
    pub(super) admin: Admin,
    pub(super) group: String,
    pub(super) fs: Option<String>,
    /// Whether its archived volumes expire.
    pub(super) expires: bool,
}

/// Reads what a class tells before any claim uses it.
pub(super) fn acquaintance(
    clusters: &Clusters,
    settings: &Settings,
    parameters: &BTreeMap<String, String>,
) -> Result<Acquaintance, Error> {
    let parameters = Parameters(parameters);
    let (cluster, _) = cluster(clusters, parameters)?;
    Ok(Acquaintance {
        admin: admin(settings, &cluster, parameters)?.0,
        group: group(parameters)?,
        fs: parameters.get("fsName").map(|name| names::plain("fsName", name)).transpose()?,
        expires: expiry(parameters.get("archiveExpiry"))?.is_some(),
        cluster,
    })
}

/// The parameters of a class. An empty value counts as none: charts render them.
#[derive(Clone, Copy)]
pub(super) struct Parameters<'a>(pub(super) &'a BTreeMap<String, String>);

impl<'a> Parameters<'a> {
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A truth value in Go's words. The older provisioner silently took what it could not read for false.
    fn truth(self, name: &str) -> Result<Option<bool>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(Some(false)),
            Some(other) => Err(wrong(name, other, "must be true or false")),
        }
    }

    fn number(self, name: &str) -> Result<Option<u32>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let digits = value.bytes().all(|b| b.is_ascii_digit());
        // The highest number means "unchanged" to chown(2).
        let number = digits.then(|| value.parse().ok()).flatten().filter(|number| *number != u32::MAX);
        let why = format!("must be a number from 0 to {}", u32::MAX - 1);
        number.map(Some).ok_or_else(|| wrong(name, value, &why))
    }
}

fn wrong(name: &str, value: &str, why: &str) -> Error {
    let shown: String = value.chars().take(80).collect();
    Error::new(Kind::Invalid, format!("parameter {name}: {shown:?} {why}"))
}

fn cluster(clusters: &Clusters, parameters: Parameters) -> Result<(Cluster, Option<String>), Error> {
    let named = match parameters.get("clusterID") {
        None => None,
        Some(name) => {
            let Some(cluster) = clusters.named(name).filter(|_| !name.starts_with(DESCRIBED)) else {
                let there: Vec<_> = clusters.all().iter().map(|c| c.name().to_owned()).collect();
                let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
                let why =
                    format!("is not configured; there are: {there}. Configure it, or write monitors instead");
                return Err(wrong("clusterID", name, &why));
            };
            Some(cluster)
        }
    };
    let addressed = match (parameters.get("monitors"), parameters.0.contains_key("monitors")) {
        (Some(text), _) => {
            let monitors: Monitors = text.parse().map_err(|error: crate::volume::Invalid| {
                Error::new(Kind::Invalid, format!("parameter monitors: {error}"))
            })?;
            Some((clusters.reached_by(&monitors)?, text.to_owned()))
        }
        (None, true) if named.is_none() => {
            let why = "must name at least one monitor, such as \"10.0.0.1:6789,10.0.0.2:6789\"";
            return Err(wrong("monitors", "", why));
        }
        (None, _) => None,
    };
    match (named, addressed) {
        (Some(named), Some((addressed, _))) if named.name() != addressed.name() => Err(Error::new(
            Kind::Invalid,
            format!(
                "parameters clusterID and monitors mean two clusters: {} has the monitors {}; write one of both",
                named.name(),
                named.monitors()
            ),
        )),
        (Some(named), _) => Ok((named, None)),
        (None, Some((addressed, text))) => Ok((addressed, Some(text))),
        (None, None) => Err(Error::new(
            Kind::Invalid,
            "the class names no cluster; write clusterID (a configured cluster) or monitors (addresses, separated by commas)",
        )),
    }
}

/// Whether the cluster is one that nobody configured.
pub(super) fn is_described(cluster: &Cluster) -> bool {
    cluster.name().starts_with(DESCRIBED)
}

/// The user that makes subvolumes, and whether the class says so.
pub(super) fn admin(
    settings: &Settings,
    cluster: &Cluster,
    parameters: Parameters,
) -> Result<(Admin, bool), Error> {
    let configured = settings.admins.get(cluster.name());
    match (parameters.get("adminSecretName"), configured) {
        (Some(name), _) => {
            let namespace = parameters.get("adminSecretNamespace").unwrap_or("default").to_owned();
            let user = match (parameters.get("adminId"), configured) {
                (Some(user), _) => user.strip_prefix("client.").unwrap_or(user).to_owned(),
                (None, Some(_) | None) => "admin".to_owned(),
            };
            Ok((Admin { user, secret: SecretName { namespace, name: name.to_owned() } }, true))
        }
        (None, Some(_)) if parameters.get("adminId").is_some() => Err(Error::new(
            Kind::Invalid,
            "parameter adminId stands without adminSecretName; write both, or leave both out for the cluster's configured user",
        )),
        (None, Some(admin)) => Ok((admin.clone(), false)),
        (None, None) => Err(Error::new(
            Kind::Invalid,
            format!(
                "parameter adminSecretName is missing, and no user is configured for cluster {}; write the name of the Secret \
                 with the key of user {:?}",
                cluster.name(),
                parameters.get("adminId").unwrap_or("admin")
            ),
        )),
    }
}

fn group(parameters: Parameters) -> Result<String, Error> {
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

/// `/volumes/kubernetes` is the group `kubernetes`.
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
            .map_err(|error| wrong("claimRoot", root, &format!("does not end in a group: {error}")));
    }
    let last = segments.last().filter(|last| **last != "volumes" && names::group(last).is_ok());
    let why = format!(
        "cannot be mapped: Ceph keeps subvolumes in /volumes/GROUP/SUBVOLUME and nowhere else; write {:?}. Volumes that \
                 the old provisioner made below the old path are not moved by that",
        format!("/volumes/{}", last.unwrap_or(&"kubernetes"))
    );
    Err(wrong("claimRoot", root, &why))
}

fn node(
    settings: &Settings,
    parameters: Parameters,
    request: &VolumeRequest,
    admin: &Admin,
    source: Shape,
) -> Result<Node, Error> {
    let invalid = |message: &str| Err(Error::new(Kind::Invalid, message));
    let namespace = parameters.get("userSecretNamespace").map(str::to_owned);
    let shared = parameters.get("userSecretName");
    match (shared, parameters.truth("perVolumeUser")?) {
        (Some(_), Some(true)) => invalid(
            "parameters perVolumeUser and userSecretName contradict each other: either each volume has a user of its own, or all \
             are mounted as one; write one of both",
        ),
        (Some(name), Some(false) | None) => {
            let user = parameters.get("userId").unwrap_or(&admin.user);
            let user = user.strip_prefix("client.").unwrap_or(user).to_owned();
            let namespace = match (namespace, source) {
                (Some(namespace), _) => namespace,
                // The claim's, as in-tree PVs say it.
                (None, Shape::InTree) => String::new(),
                (None, Shape::Csi) => request.claim.namespace.clone(),
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
        (None, Some(false)) => match source {
            Shape::Csi => Ok(Node::Configured),
            Shape::InTree => invalid(
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

fn mode(parameters: Parameters) -> Result<String, Error> {
    let Some(value) = parameters.get("mode") else { return Ok("0777".into()) };
    let octal = value.len() <= 5 && value.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let number = octal.then(|| u32::from_str_radix(value, 8).ok()).flatten().filter(|mode| *mode <= 0o7777);
    let why = "must be an octal number from 0 to 7777, such as \"0770\"";
    number.map(|mode| format!("{mode:04o}")).ok_or_else(|| wrong("mode", value, why))
}

/// How long an archived volume is kept; `None` for ever.
pub(super) fn expiry(value: Option<&str>) -> Result<Option<Duration>, Error> {
    let Some(text) = value else { return Ok(None) };
    if text == "never" {
        return Ok(None);
    }
    duration(text).map(Some).ok_or_else(|| {
        wrong(
            "archiveExpiry",
            text,
            "must be never, or whole days, hours, minutes or seconds, such as 30d or 720h",
        )
    })
}

/// `30d`, `720h`, `1d12h`; more than nothing, and at most a thousand years.
fn duration(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at_checked(digits)?;
        let unit = behind.chars().next()?;
        let seconds: u64 = match unit {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(seconds)?)?;
        rest = behind.get(unit.len_utf8()..)?;
    }
    (1..=1_000 * 366 * 86_400).contains(&total).then(|| Duration::from_secs(total))
}

#[cfg(test)]
mod tests;
