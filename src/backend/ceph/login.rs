//! Becomes a user of a cluster with the key that its Secret holds: [`open`], and [`Login`], which reads a key again that was not
//! accepted, since a rotated key must not need a restart.
//!
//! Keys come from the host at each time, and are kept in no handle for longer than the work for which it was opened.

use std::sync::Arc;

use super::{
    admin::Admin,
    call::{Call, Failed, Reply},
    client::Ceph,
    cluster::Cluster,
    credentials::{Credentials, Key},
    reason::Reason,
    tool::Tool,
};
use crate::{
    backend::{Error, Kind, Kubernetes},
    volume::Secrets,
};
use parking_lot::Mutex;

/// The names under which Secrets hold a key, the first that is there counts.
const NAMES: [&str; 3] = ["key", "adminKey", "userKey"];

/// A user of a cluster at work.
pub struct Login {
    kube: Arc<dyn Kubernetes>,
    cluster: Cluster,
    admin: Admin,
    ceph: Mutex<Ceph>,
}

impl Login {
    /// Reads the key of `admin`. Asks nothing of the cluster yet.
    pub async fn open(kube: &Arc<dyn Kubernetes>, cluster: &Cluster, admin: &Admin) -> Result<Self, Error> {
        let ceph = Mutex::new(open(cluster, &**kube, admin, false).await?);
        Ok(Self { kube: Arc::clone(kube), cluster: cluster.clone(), admin: admin.clone(), ceph })
    }

    /// Calls `rbd`. `--format json` is the caller's to add, where the command knows it.
    pub async fn rbd(&self, call: Call) -> Result<Reply, Failed> {
        self.call(Tool::Rbd, call).await
    }

    /// Calls `ceph`. The answer is in JSON wherever the command has such.
    pub async fn ceph(&self, call: Call) -> Result<Reply, Failed> {
        self.call(Tool::Ceph, call).await
    }

    /// Calls `rados`.
    pub async fn rados(&self, call: Call) -> Result<Reply, Failed> {
        self.call(Tool::Rados, call).await
    }

    /// Calls a program, and once more where the key was not accepted and is another one by now.
    async fn call(&self, tool: Tool, call: Call) -> Result<Reply, Failed> {
        let ceph = self.current();
        match ceph.call(tool, call.clone()).await {
            Err(failed) => match self.outdated(&failed, &ceph).await {
                Ok(true) => self.current().call(tool, call).await,
                Ok(false) | Err(_) => Err(failed),
            },
            reply => reply,
        }
    }

    /// The identity that the cluster gave itself.
    pub async fn fsid(&self) -> Result<String, Error> {
        let ceph = self.current();
        match ceph.fsid().await {
            Err(failed) if self.outdated(&failed, &ceph).await? => Ok(self.current().fsid().await?),
            answer => Ok(answer?),
        }
    }

    fn current(&self) -> Ceph {
        self.ceph.lock().clone()
    }

    /// Whether the key was changed since it was read. A call that was not let in has changed nothing.
    async fn outdated(&self, failed: &Failed, used: &Ceph) -> Result<bool, Error> {
        if !matches!(failed.reason, Reason::WrongKey | Reason::BadKey) {
            return Ok(false);
        }
        let fresh = open(&self.cluster, &*self.kube, &self.admin, true).await?;
        let differs = fresh.credentials() != used.credentials();
        *self.ceph.lock() = fresh;
        Ok(differs)
    }
}

/// A handle on `cluster` for `admin`. `fresh`: reads the key again, because Ceph refused the cached one.
pub(super) async fn open(
    cluster: &Cluster,
    kube: &dyn Kubernetes,
    admin: &Admin,
    fresh: bool,
) -> Result<Ceph, Error> {
    let opening = async {
        let secrets = kube.get(&admin.secret, fresh).await.map_err(|error| {
            let message = format!("cannot read the key of Ceph user {:?}: {}", admin.user, error.chain());
            Error::new(error.kind(), message)
        })?;
        Ok(Credentials::new(&admin.user, key(&secrets, admin)?)?)
    };
    let credentials: Credentials = cluster.opened(admin, opening.await)?;
    Ok(cluster.with(credentials).of(admin))
}

/// The key in a Secret: under one of the names that are in use, or the only value that there is. It is never guessed.
fn key(secrets: &Secrets, admin: &Admin) -> Result<Key, Error> {
    let named = NAMES.iter().find_map(|name| secrets.get(name));
    let Some(value) = named.or_else(|| secrets.only().map(|(_, value)| value)) else {
        let there: Vec<_> = secrets.iter().map(|(name, _)| format!("{name:?}")).collect();
        let message = format!(
            "Secret {} has no value \"key\" with the key of Ceph user {:?}; it has {}",
            admin.secret,
            admin.user,
            if there.is_empty() { "none at all".to_owned() } else { there.join(", ") }
        );
        return Err(Error::new(Kind::Invalid, message));
    };
    Key::parse(value).map_err(|error| Error::new(Kind::Invalid, format!("Secret {}: {error}", admin.secret)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::SecretName;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    /// Proves: rbd 7
    #[test]
    fn a_key_is_found_in_a_secret_and_never_guessed() {
        let admin = Admin {
            user: "admin".into(),
            secret: SecretName { namespace: "default".into(), name: "ceph".into() },
        };
        let text = "AQBkzUZpAAAAABAAHhTQzUYbXB8rhRXLXSpMEQ==";
        let rows: [(&str, Pairs<'_>, bool); 6] = [
            ("its value key", &[("key", text)], true),
            ("its value key beside others", &[("key", text), ("other", "x")], true),
            ("as classes of CSI drivers have it", &[("userID", "admin"), ("userKey", text)], true),
            ("its only value", &[("ceph-key", text)], true),
            ("one of several", &[("a", text), ("b", text)], false),
            ("none", &[], false),
        ];
        for (row, pairs, found) in rows {
            let secrets: Secrets =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
            match key(&secrets, &admin) {
                Ok(key) => assert!(found && key.reveal() == text, "{row}"),
                Err(error) => {
                    assert!(!found && error.to_string().contains("default/ceph"), "{row}: {error}");
                }
            }
        }
    }
}
