//! What the classes of RBD and `CephFS` say alike: which cluster, as whom, and how long an archive is kept. Pure.
//!
//! [`Parameters`] is the entry point. What only one of the two backends reads, is read there.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use super::{
    admin::Admin,
    cluster::{Cluster, Clusters},
    monitors::Monitors,
};
use crate::{
    backend::{Error, Finding, Inspection, Kind},
    volume::{Invalid, SecretName},
};

/// How the names of clusters begin that only a class describes.
const DESCRIBED: &str = "mon-";

/// How a PV names its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For a CSI driver.
    Csi,
    /// As the older provisioners did, for the plugins that Kubernetes had before 1.31.
    InTree,
}

/// The parameters of a class, or what a PV recorded of them.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a>(pub &'a BTreeMap<String, String>);

impl<'a> Parameters<'a> {
    /// The value as it is written. The name may be spelt in any case: the class of an older volume comes as it was written.
    pub fn written(self, name: &str) -> Option<&'a str> {
        let exact = self.0.get(name);
        exact
            .or_else(|| self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
            .map(String::as_str)
    }

    /// The value without the space around it. An empty one counts as none: charts render such.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.written(name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// The cluster that `clusterID` or `monitors` names, and the monitors where they are written.
    pub fn cluster(self, clusters: &Clusters) -> Result<(Cluster, Option<Monitors>), Error> {
        let named = |name: &str| {
            // One that another class described is gone with that class.
            clusters.named(name).filter(|cluster| !is_described(cluster)).ok_or_else(|| {
                let there = configured(clusters);
                let why = format!("is not configured; {there}. Configure it, or write its monitors");
                wrong("clusterID", name, why)
            })
        };
        let named = self.get("clusterID").map(named).transpose()?;
        let monitors =
            self.get("monitors").map(|text| of("monitors", text.parse::<Monitors>())).transpose()?;
        match (named, monitors) {
            (Some(cluster), None) => Ok((cluster, None)),
            (None, Some(monitors)) => Ok((of("monitors", clusters.reached_by(&monitors))?, Some(monitors))),
            (Some(cluster), Some(monitors)) if cluster.monitors().share_one(&monitors) => {
                Ok((cluster, Some(monitors)))
            }
            (Some(cluster), Some(monitors)) => Err(invalid(
                "monitors",
                format_args!(
                    "clusterID and monitors mean two clusters: {monitors} has no monitor of {:?}, which has {}; write one of both",
                    cluster.name(),
                    cluster.monitors()
                ),
            )),
            (None, None) => {
                let state = if self.written("monitors").is_some() { "is empty" } else { "is missing" };
                Err(invalid(
                    "monitors",
                    format_args!(
                        "{state}; write the addresses of the cluster's monitors, separated by commas, such as \
                         10.0.0.1:6789,10.0.0.2:6789, or name a configured cluster by clusterID ({})",
                        configured(clusters)
                    ),
                ))
            }
        }
    }

    /// The user that makes volumes on `cluster`, and whether the class itself names it: then the PV must remember it.
    /// `configured` holds the users of the configured clusters, by the clusters' names.
    pub fn admin(
        self,
        configured: &BTreeMap<String, Admin>,
        cluster: &Cluster,
    ) -> Result<(Admin, bool), Error> {
        if let Some(admin) = self.own_admin() {
            return Ok((admin, true));
        }
        let user = self.get("adminId").map(without_client);
        let why = match (user, configured.get(cluster.name())) {
            (user, Some(admin)) if user.is_none_or(|user| user == admin.user) => {
                return Ok((admin.clone(), false));
            }
            (_, Some(admin)) => format!(
                "; adminId may stand alone only where it is the user of cluster {}, {:?}",
                cluster.name(),
                admin.user
            ),
            (_, None) if is_described(cluster) => {
                format!(", or configure the cluster at {} with one", cluster.monitors())
            }
            (_, None) => format!(", or configure one for cluster {}", cluster.name()),
        };
        let user = user.unwrap_or(ADMIN);
        Err(invalid(
            "adminSecretName",
            format_args!("is missing; name the Secret with the key of user {user:?}{why}"),
        ))
    }

    /// The user that is named here together with its Secret.
    pub fn own_admin(self) -> Option<Admin> {
        let name = self.get("adminSecretName")?.to_owned();
        let namespace = self.get("adminSecretNamespace").unwrap_or("default").to_owned();
        let user = self.get("adminId").map_or(ADMIN, without_client).to_owned();
        Some(Admin { user, secret: SecretName { namespace, name } })
    }

    /// How PVs shall name the volume.
    pub fn form(self) -> Result<Form, Error> {
        match self.get("pvSource") {
            None | Some("csi") => Ok(Form::Csi),
            Some("in-tree") => Ok(Form::InTree),
            Some(other) => Err(wrong("pvSource", other, "must be csi or in-tree")),
        }
    }

    /// What the class says before any claim uses it. `driver`: the name of the CSI driver in the PVs.
    pub fn inspect(self, driver: &str) -> Inspection {
        let finding = match self.form() {
            Ok(Form::Csi) => Some(Finding::NotMountable {
                from_minor: 0,
                why: format!(
                    "gives volumes of the CSI driver {driver}, which no node can mount until its node plugin is there; up to \
                     Kubernetes 1.30 nodes mount those of pvSource: in-tree"
                ),
            }),
            Ok(Form::InTree) => Some(Finding::NotMountable {
                from_minor: WITHOUT_IN_TREE,
                why: format!(
                    "gives in-tree volumes, which nodes from Kubernetes 1.{WITHOUT_IN_TREE} on cannot mount; keep nodes at 1.{} for \
                     them",
                    WITHOUT_IN_TREE - 1
                ),
            }),
            Err(_wrong) => None,
        };
        Inspection { findings: finding.into_iter().collect(), ..Inspection::default() }
    }

    /// How long an archived volume is kept; `None` for good.
    pub fn expiry(self) -> Result<Option<Duration>, Error> {
        /// Less would be a deletion that calls itself an archive.
        const LEAST: Duration = Duration::from_mins(1);
        /// The trash of RBD counts the seconds since 1970 in 32 bits.
        const MOST: Duration = Duration::from_hours(24 * 366 * 50);
        let text = match self.get("archiveExpiry") {
            None => return Ok(None),
            Some(text) if text.eq_ignore_ascii_case("never") => return Ok(None),
            Some(text) => text,
        };
        let why = match duration(text) {
            Some(duration) if (LEAST..=MOST).contains(&duration) => return Ok(Some(duration)),
            Some(_) => "must be from 1m to 18300d; never keeps it for good",
            None => "must be never, or a duration in s, m, h, d or w, such as 720h or 30d",
        };
        Err(wrong("archiveExpiry", text, why))
    }
}

/// The minor version of Kubernetes 1 whose nodes have no plugin for in-tree volumes of Ceph any more.
const WITHOUT_IN_TREE: u32 = 31;

/// The user that makes volumes where the class names none.
const ADMIN: &str = "admin";

/// A user's name as the tools take it.
pub fn without_client(user: &str) -> &str {
    user.strip_prefix("client.").unwrap_or(user)
}

/// Whether the cluster is not configured: a class describes it by its monitors.
pub fn is_described(cluster: &Cluster) -> bool {
    cluster.name().starts_with(DESCRIBED)
}

fn configured(clusters: &Clusters) -> String {
    let all = clusters.all();
    let names: Vec<&str> = all.iter().filter(|cluster| !is_described(cluster)).map(Cluster::name).collect();
    if names.is_empty() {
        "no cluster is configured".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    }
}

/// A parameter is wrong, or missing.
pub fn invalid(name: &str, why: impl Display) -> Error {
    Error::new(Kind::Invalid, format!("parameter {name}: {why}"))
}

/// The value of a parameter is wrong.
pub fn wrong(name: &str, value: &str, why: impl Display) -> Error {
    let shown: String = value.chars().take(80).collect();
    invalid(name, format_args!("{shown:?} {why}"))
}

/// What was read of a parameter.
pub fn of<T>(name: &str, read: Result<T, Invalid>) -> Result<T, Error> {
    read.map_err(|error| invalid(name, error))
}

/// Whole numbers, each with a unit: `30d`, `720h`, `1h30m`.
pub fn duration(text: &str) -> Option<Duration> {
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
pub(crate) mod tests {
    use super::*;
    use crate::backend::Parameter;

    /// That every parameter of `table` is read by `code` or here, and that whatever is read is in the table.
    pub(crate) fn check_declared(table: &[Parameter], code: &str) {
        let shared = include_str!("class.rs").split("#[cfg(test)]").next().unwrap();
        let code = format!("{}{shared}", code.split_once("\n};\n").unwrap().1);
        for parameter in table.iter().filter(|parameter| !parameter.effect.starts_with("None: ")) {
            let quoted = format!("\"{}\"", parameter.name);
            assert!(code.contains(&quoted), "{} is declared and never read", parameter.name);
        }
        for read in [".get(\"", ".written(\"", "(parameters, \""] {
            for call in code.split(read).skip(1) {
                let name = call.split('"').next().unwrap();
                assert!(table.iter().any(|parameter| parameter.name == name), "{name} is read, not declared");
            }
        }
    }

    #[test]
    fn an_expiry_is_a_duration_or_never() {
        let expiry = |text: &str| {
            Parameters(&BTreeMap::from([("archiveexpiry".to_owned(), text.to_owned())])).expiry()
        };
        let minutes = |minutes| Some(Duration::from_mins(minutes));
        for (text, expected) in [
            ("", None),
            ("never", None),
            ("Never", None),
            ("720h", minutes(43_200)),
            ("30d", minutes(43_200)),
            ("2w", minutes(20_160)),
            ("1d12h", minutes(2_160)),
            ("1h30m", minutes(90)),
            ("3600s", minutes(60)),
        ] {
            assert_eq!(expiry(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "0s",
            "59s",
            "0",
            "30",
            "d",
            "-1d",
            "1.5h",
            "1y",
            "99999d",
            "99999999999999999999d",
            "1000d1",
            "1ä",
        ] {
            let error = expiry(bad).unwrap_err().to_string();
            assert!(error.contains("archiveExpiry") && error.contains(&format!("{bad:?}")), "{error}");
            assert!(error.contains("30d") || error.contains("never keeps it"), "{error}");
        }
    }
}
