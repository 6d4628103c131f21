//! What a PV of ours says of its volume: [`ControllerContext`], written by [`ControllerContext::written`] and read by [`ControllerContext::read`]. Pure.
//!
//! It holds no secrets, and nothing that the configuration of the provisioner can say better.

use std::{collections::BTreeMap, time::Duration};

use super::names;
use crate::{
    backend::{
        Error, Kind,
        ceph::{Admin, class::duration},
    },
    volume::SecretName,
};

/// What must be known to grow or remove a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ControllerContext {
    /// As the class wrote them, where it named no configured cluster.
    pub(super) monitors: Option<String>,
    /// As the class named it, where it did.
    pub(super) admin: Option<Admin>,
    pub(super) fs: String,
    pub(super) group: String,
    pub(super) subvolume: String,
    /// The volume's own user and the Secret with its key.
    pub(super) own: Option<(String, SecretName)>,
    pub(super) expiry: Option<Duration>,
}

impl ControllerContext {
    pub(super) fn written(&self) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        let mut put = |key: &str, value: &str| map.insert(key.to_owned(), value.to_owned());
        put("fsName", &self.fs);
        put("group", &self.group);
        put("subvolume", &self.subvolume);
        if let Some(monitors) = &self.monitors {
            put("monitors", monitors);
        }
        if let Some(admin) = &self.admin {
            put("adminId", &admin.user);
            put("adminSecretName", &admin.secret.name);
            put("adminSecretNamespace", &admin.secret.namespace);
        }
        if let Some((user, secret)) = &self.own {
            put("user", user);
            put("secretName", &secret.name);
            put("secretNamespace", &secret.namespace);
        }
        if let Some(expiry) = self.expiry {
            put("archiveExpiry", &format!("{}s", expiry.as_secs()));
        }
        map
    }

    /// Reads what [`written`](Self::written) wrote, and refuses what it cannot have written.
    pub(super) fn read(map: &BTreeMap<String, String>) -> Result<Self, Error> {
        let get = |key: &str| map.get(key).filter(|value| !value.is_empty()).cloned();
        let refuse = |what: &str| {
            let message = format!(
                "the PersistentVolume's record of where its volume lies {what}; nothing was touched. Restore the annotation \
                 berth.storage/record from a backup, or remove subvolume and PersistentVolume by hand"
            );
            Error::new(Kind::Refused, message)
        };
        let needed = |key: &str| get(key).ok_or_else(|| refuse(&format!("lacks {key:?}")));
        let fs = names::plain("fsName", &needed("fsName")?)
            .map_err(|error| refuse(&format!("is wrong ({error})")))?;
        let group =
            names::group(&needed("group")?).map_err(|error| refuse(&format!("is wrong ({error})")))?;
        let subvolume = needed("subvolume")?;
        if names::subvolume(&subvolume).is_none() {
            return Err(refuse(&format!("names the subvolume {subvolume:?}, which none of ours is called")));
        }
        let secret = |user: &str, name: &str, namespace: &str| match (get(user), get(name), get(namespace)) {
            (Some(user), Some(name), Some(namespace)) => Ok(Some((user, SecretName { namespace, name }))),
            (None, None, None) => Ok(None),
            _ => Err(refuse(&format!("has only some of {user:?}, {name:?} and {namespace:?}"))),
        };
        let admin = secret("adminId", "adminSecretName", "adminSecretNamespace")?;
        let expiry = match get("archiveExpiry") {
            None => None,
            Some(text) => Some(
                duration(&text)
                    .ok_or_else(|| refuse(&format!("has an archiveExpiry that is no duration, {text:?}")))?,
            ),
        };
        Ok(Self {
            monitors: get("monitors"),
            admin: admin.map(|(user, secret)| Admin { user, secret }),
            fs,
            group,
            subvolume,
            own: secret("user", "secretName", "secretNamespace")?,
            expiry,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str) -> SecretName {
        SecretName { namespace: "ns".into(), name: name.into() }
    }

    fn full() -> ControllerContext {
        ControllerContext {
            monitors: Some("10.0.0.1:6789,mon.example".into()),
            admin: Some(Admin { user: "prov".into(), secret: secret("admin") }),
            fs: "cephfs".into(),
            group: "berth".into(),
            subvolume: "berth-u-1".into(),
            own: Some(("berth-u-1".into(), secret("own"))),
            expiry: Some(Duration::from_hours(720)),
        }
    }

    #[test]
    fn a_record_reads_back_as_what_was_written() {
        let bare = ControllerContext { monitors: None, admin: None, own: None, expiry: None, ..full() };
        for record in [full(), bare] {
            assert_eq!(ControllerContext::read(&record.written()).unwrap(), record);
        }
    }

    #[test]
    fn a_record_that_cannot_be_ours_is_refused_and_says_what_to_do() {
        let with = |key: &str, value: &str| {
            let mut map = full().written();
            map.insert(key.into(), value.into());
            map
        };
        let rows = [
            ("no record at all", BTreeMap::new(), "lacks \"fsName\""),
            ("a group that leads out", with("group", "../x"), "\"../x\""),
            ("a group of the module", with("group", "_nogroup"), "_nogroup"),
            ("a subvolume that leads out", with("subvolume", ".."), "\"..\""),
            ("a file system that is an option", with("fsName", "--force"), "--force"),
            ("half a user", with("secretName", ""), "only some of"),
            ("an expiry that is none", with("archiveExpiry", "soon"), "archiveExpiry"),
        ];
        for (why, map, said) in rows {
            let error = ControllerContext::read(&map).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{why}");
            assert!(
                error.to_string().contains(said) && error.to_string().contains("backup"),
                "{why}: {error}"
            );
        }
    }
}
