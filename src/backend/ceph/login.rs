//! Becomes a user of a cluster with the key that its Secret holds: [`open`].
//!
//! Keys come from the host at each time, and are kept in no handle for longer than the work for which it was opened.

use super::{
    admin::Admin,
    client::Ceph,
    cluster::Cluster,
    credentials::{Credentials, Key},
};
use crate::{
    backend::{Error, Kind, Kubernetes},
    volume::Secrets,
};

/// The names under which Secrets hold a key, the first that is there counts.
const NAMES: [&str; 3] = ["key", "adminKey", "userKey"];

/// A handle on `cluster` for `admin`. `fresh`: reads the key again, because Ceph refused the cached one.
pub async fn open(
    cluster: &Cluster,
    host: &dyn Kubernetes,
    admin: &Admin,
    fresh: bool,
) -> Result<Ceph, Error> {
    let opening = async {
        let secrets = host.get(&admin.secret, fresh).await.map_err(|error| {
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
