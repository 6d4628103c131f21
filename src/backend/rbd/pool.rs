//! What the programs are asked about a pool, or a RADOS namespace in one: its images, its trash, whether it is full. Methods of
//! [`PoolClient`].

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{
    entry::{self, TrashEntry},
    error::{OpError, fail},
    image::MOVE_TO_TRASH_ON_REMOVE,
    names::{self, PoolNamespace},
    work::PoolClient,
};
use crate::{
    backend::{
        Error, Kind,
        ceph::{Call, Reason, Reply},
        quoted,
    },
    volume::Permit,
};

/// A list of many thousands takes its time.
const LONG_READ: Duration = Duration::from_mins(10);

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// A pool, as the monitors describe it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Pool {
    #[serde(rename = "pool_name")]
    name: String,
    #[serde(default)]
    application_metadata: BTreeMap<String, serde_json::Value>,
    /// What holds for it, with commas.
    #[serde(default)]
    flags_names: String,
}

/// Why a pool takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Its own quota is reached.
    Quota,
    /// So are the disks that it lies on.
    Space,
}

impl Pool {
    fn full(&self) -> Option<Full> {
        let has = |flag: &str| self.flags_names.split(',').any(|name| name == flag);
        if has("full_quota") { Some(Full::Quota) } else { has("full").then_some(Full::Space) }
    }
}

fn for_images(pools: Vec<Pool>) -> Vec<String> {
    let pools = pools.into_iter().filter(|pool| pool.application_metadata.contains_key("rbd"));
    pools.map(|pool| pool.name).filter(|pool| names::checked("pool name", pool).is_ok()).collect()
}

impl Full {
    /// Why a pool takes no more, with what to do.
    pub(super) fn describe(self, pool: &str) -> String {
        match self {
            Self::Quota => {
                format!(
                    "pool {pool} is full: its quota is reached (ceph osd pool get-quota {}); raise it, or free space",
                    quoted(pool)
                )
            }
            Self::Space => {
                format!("pool {pool} is full: its disks are (ceph osd df); add some, or free space")
            }
        }
    }
}

impl PoolClient {
    /// The arguments of `rados` that say where.
    fn within(&self, command: &[&str]) -> Vec<String> {
        let PoolNamespace { pool, namespace } = &self.pool_namespace;
        let mut args = vec!["-p", pool.as_str()];
        if let Some(namespace) = namespace {
            args.extend(["-N", namespace]);
        }
        args.extend(command);
        args.into_iter().map(str::to_owned).collect()
    }

    /// The keys and values of an object; `None` where there is none.
    pub(super) async fn object(&self, what: String, object: &str) -> Result<Option<Reply>, OpError> {
        let call = Call::reads(what, self.within(&["listomapvals", object])).within(LONG_READ);
        match self.ceph.rados(call).await {
            Ok(reply) => Ok(Some(reply)),
            Err(failed) if failed.reason == Reason::NoObject => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Writes one key of an object, which is made where there is none.
    pub(super) async fn set_key(
        &self,
        what: String,
        object: &str,
        (key, value): (&str, &str),
        permit: &Permit,
    ) -> Result<(), OpError> {
        let call = Call::changes(what, self.within(&["setomapval", object, key, value]), permit);
        Ok(self.ceph.rados(call).await.map(drop)?)
    }

    /// What was moved to the trash, without opening anything; `None` where nothing ever was.
    pub(super) async fn trash_list(&self) -> Result<Option<Vec<TrashEntry>>, OpError> {
        let what = format!("list the trash of {}", self.pool_namespace);
        let Some(reply) = self.object(what.clone(), entry::OBJECT).await? else { return Ok(None) };
        match entry::read(reply.text()?) {
            Some(entries) => Ok(Some(entries)),
            None => fail(Kind::Internal, format!("{what}: the answer of Ceph is not understood")),
        }
    }

    /// What was moved to the trash.
    pub(super) async fn in_trash(&self) -> Result<Vec<TrashEntry>, OpError> {
        Ok(self.trash_list().await?.unwrap_or_default())
    }

    /// Makes the object that lists the trash, as the first move to the trash would. A pool that is full has no room for it, and
    /// without it nothing can be moved there.
    pub(super) async fn make_trash(&self, permit: &Permit) -> Result<(), OpError> {
        let what = format!("prepare the trash of {}", self.pool_namespace);
        match self.ceph.rados(Call::changes(what, self.within(&["create", entry::OBJECT]), permit)).await {
            Ok(_) => Ok(()),
            Err(failed) if failed.reason == Reason::Exists => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// The names of all images. Fails where there is no such pool or namespace.
    pub(super) async fn images(&self) -> Result<Vec<String>, OpError> {
        let args = ["ls", "--format", "json", &self.pool_namespace.to_string()];
        let call = Call::reads(format!("list the images of {}", self.pool_namespace), args);
        Ok(self.ceph.rbd(call).await?.require_json()?)
    }

    /// The RADOS namespaces of the pool.
    pub(super) async fn namespaces(&self) -> Result<Vec<String>, OpError> {
        let args = ["namespace", "ls", "--format", "json", &self.pool_namespace.pool];
        let call = Call::reads(format!("list the namespaces of pool {}", self.pool_namespace.pool), args);
        let found: Vec<Named> = self.ceph.rbd(call).await?.require_json()?;
        Ok(found.into_iter().map(|namespace| namespace.name).collect())
    }

    async fn all_pools(&self) -> Result<Vec<Pool>, OpError> {
        let call = Call::reads("list the pools", ["osd", "pool", "ls", "detail"]);
        Ok(self.ceph.ceph(call).await?.require_json()?)
    }

    /// The pools of the cluster that are meant for images.
    pub(super) async fn pools(&self) -> Result<Vec<String>, OpError> {
        Ok(for_images(self.all_pools().await?))
    }

    /// Whether the pool takes no more, and why.
    pub(super) async fn full(&self) -> Result<Option<Full>, OpError> {
        let pools = self.all_pools().await?;
        Ok(pools.iter().find(|pool| pool.name == self.pool_namespace.pool).and_then(Pool::full))
    }

    /// What `error` is where it comes of a full pool: programs that write there wait for room until they give up, as
    /// if the cluster did not answer.
    pub(super) async fn though_full(&self, error: OpError) -> OpError {
        let OpError::Call(failed) = &error else { return error };
        if !matches!(failed.reason, Reason::Deadline | Reason::Full) {
            return error;
        }
        match self.full().await {
            Ok(Some(full)) => {
                let message = format!("{}: {}", failed.what, full.describe(&self.pool_namespace.pool));
                OpError::Other(Error::new(Kind::Exhausted, message))
            }
            Ok(None) | Err(_) => error,
        }
    }

    /// Whether `rbd rm` keeps what it removes when it is told so: what is configured for a pool counts for more than what a
    /// program is told.
    pub(super) async fn rm_keeps(&self) -> Result<bool, OpError> {
        #[derive(Deserialize)]
        struct Setting {
            name: String,
            value: String,
        }
        let (option, value) = MOVE_TO_TRASH_ON_REMOVE;
        let args = ["config", "pool", "ls", "--format", "json", option, value, &self.pool_namespace.pool];
        let call = Call::reads(format!("read the configuration of pool {}", self.pool_namespace.pool), args);
        let settings: Vec<Setting> = self.ceph.rbd(call).await?.require_json()?;
        let name = option.trim_start_matches("--").replace('-', "_");
        Ok(settings.iter().any(|setting| setting.name == name && setting.value == value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ceph::{
        Tool,
        fake::{Answer, Fake},
    };

    /// A cluster that was only full was called lost.
    #[test]
    fn a_pool_says_itself_that_it_is_full() {
        let pool = |flags: &str| Pool {
            name: "kube".into(),
            application_metadata: BTreeMap::new(),
            flags_names: flags.into(),
        };
        for (flags, expected) in [
            ("hashpspool,selfmanaged_snaps", None),
            ("hashpspool,full,full_quota,selfmanaged_snaps", Some(Full::Quota)),
            ("hashpspool,full", Some(Full::Space)),
            ("hashpspool,nearfull,backfillfull", None),
            ("", None),
        ] {
            assert_eq!(pool(flags).full(), expected, "{flags}");
        }
        assert!(Full::Quota.describe("kube").contains("pool kube is full"));
    }

    #[test]
    fn a_real_cluster_says_which_pool_is_full() {
        let Answer::Text(0, text, _) = Answer::recorded("ceph-pool-ls-full") else { panic!() };
        let pools: Vec<Pool> = serde_json::from_str(text.trim()).unwrap();
        let full = pools.iter().filter_map(|pool| Some((pool.name.as_str(), pool.full()?)));
        assert_eq!(full.collect::<Vec<_>>(), [("small", Full::Quota)]);
    }

    #[tokio::test]
    async fn pools_are_found_also_where_ceph_writes_numbers_that_json_does_not_have() {
        let fake = Fake::new();
        let detail = Answer::documented("ceph-osd-pool-ls-detail-v18");
        fake.expect(Tool::Ceph, &["osd", "pool", "ls", "detail"], detail);
        let reply =
            fake.ceph().call(Tool::Ceph, Call::reads("list", ["osd", "pool", "ls", "detail"])).await.unwrap();
        assert_eq!(for_images(reply.require_json().unwrap()), ["rbd"]);
    }
}
