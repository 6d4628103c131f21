//! Which users of a cluster can be used ([`Users`]), and who asks while that is not known ([`Cluster::watch`]).
//!
//! A cluster serves as long as one of its users does: what is wrong with one class keeps no other class from it. Where none of
//! them can be used, be it that a Secret does not exist or that a key was refused, nothing can be done there. What is wrong is told in
//! the log when it begins and when it is over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::Notify;

use super::{Admin, Cluster, client, cluster::Shared};
use crate::backend::{Error, Host, Kind};

/// The longest pause between two looks at users that cannot be used.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What is known of the users of one cluster.
#[derive(Debug, Default)]
pub(super) struct Users {
    known: BTreeMap<Admin, User>,
    watched: bool,
    /// How often it was looked in vain since all was well.
    in_vain: u32,
    /// Tells that there is somebody to look at.
    met: Arc<Notify>,
}

/// Whether a user can be used; `None` while that is not known.
type User = Option<Result<(), String>>;

impl Users {
    /// Notes whether a user can be used; whether that is news.
    fn note(&mut self, admin: &Admin, state: Result<(), String>) -> bool {
        let known = self.known.entry(admin.clone()).or_default();
        let news = match (&known, &state) {
            (None | Some(Ok(())), Ok(())) | (Some(Err(_)), Err(_)) => false,
            (None | Some(Ok(())), Err(_)) | (Some(Err(_)), Ok(())) => true,
        };
        *known = Some(state);
        news
    }

    /// Forgets what is wrong with those that nobody names any more.
    pub(super) fn retain(&mut self, named: impl Fn(&Admin) -> bool) {
        self.known.retain(|admin, user| matches!(user, Some(Ok(()))) || named(admin));
    }

    /// Why none of them can be used; `None` where one can, or may.
    pub(super) fn none_serves(&self) -> Option<String> {
        let all_fail = self.known.values().all(|user| matches!(user, Some(Err(_))));
        self.problems().into_iter().next().filter(|_| all_fail)
    }

    /// What is wrong with those that cannot be used.
    pub(super) fn problems(&self) -> Vec<String> {
        self.known.values().filter_map(|user| user.as_ref()?.as_ref().err().cloned()).collect()
    }

    /// Those to be looked at: whom it is not known of whether they can be used, or who could not; where the cluster is `lost`,
    /// somebody in any case.
    fn to_look_at(&self, lost: bool) -> Vec<Admin> {
        let doubtful = self.known.iter().filter(|(_, user)| !matches!(user, Some(Ok(()))));
        let mut all: Vec<Admin> = doubtful.map(|(admin, _)| admin.clone()).collect();
        if lost && all.is_empty() {
            all.extend(self.known.keys().next().cloned());
        }
        all
    }

    /// How long to wait for the next look: longer, the more often it was in vain.
    fn pause(&mut self, first: Duration) -> Duration {
        let well = self.known.values().all(|user| matches!(user, Some(Ok(()))));
        self.in_vain = if well { 0 } else { (self.in_vain + 1).min(16) };
        let factor = 1_u32 << self.in_vain.saturating_sub(1);
        first.saturating_mul(factor).min(LONGEST_PAUSE.max(first))
    }
}

impl Cluster {
    /// Passes on what came of reading the key of `admin`, and notes where it was in vain.
    pub(super) fn opened<T>(&self, admin: &Admin, outcome: Result<T, Error>) -> Result<T, Error> {
        match &outcome {
            // Whether there is a key is not known.
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Busy) => {}
            Err(error) => self.note_user(admin, Err(error.chain())),
            Ok(_) => {}
        }
        outcome
    }

    /// Notes whether a user can be used.
    pub(super) fn note_user(&self, admin: &Admin, state: Result<(), String>) {
        let (cluster, user, secret) = (self.name(), admin.user.as_str(), &admin.secret);
        let why = state.as_ref().err().cloned();
        if self.users().note(admin, state) {
            if let Some(why) = why {
                tracing::warn!(cluster, user, %secret, why, "a user of the cluster cannot be used");
            } else {
                tracing::info!(cluster, user, %secret, "a user of the cluster can be used again");
            }
        }
    }

    /// Looks after a user that a class or the configuration names, as long as anybody holds the cluster: it is asked until it is known
    /// whether the user can be used, and again while that is not so, or while the cluster does not answer.
    pub fn watch(&self, host: &Arc<dyn Host>, admin: &Admin) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut users = self.users();
        users.known.entry(admin.clone()).or_default();
        users.met.notify_one();
        if !std::mem::replace(&mut users.watched, true) {
            runtime.spawn(watch(Arc::downgrade(&self.shared), Arc::clone(&users.met), Arc::clone(host)));
        }
    }

    /// Whether somebody looks after its users.
    pub(super) fn is_watched(&self) -> bool {
        self.users().watched
    }

    /// Forgets what is wrong with users that are not `named`.
    pub fn retain_users(&self, named: impl Fn(&Admin) -> bool) {
        self.users().retain(named);
    }

    /// Asks as those users of whom it is not known that they can be used; how long to wait for the next look.
    async fn look(&self, host: &Arc<dyn Host>) -> Duration {
        let lost = self.in_trouble() || self.identity().is_none();
        // One that is left alone for a while is not asked by all of them one after the other.
        if !lost || self.silence().left().is_zero() {
            let all = self.users().to_look_at(lost);
            for admin in all {
                // The key may have been corrected.
                if let Ok(ceph) = client::open(self, &**host, &admin, true).await {
                    // Whatever is known of the cluster, it must let this user in.
                    let _ = ceph.ask_identity().await;
                }
            }
        }
        let pause = self.users().pause(self.tools().recheck);
        pause.max(self.silence().left().min(LONGEST_PAUSE))
    }
}

async fn watch(cluster: Weak<Shared>, met: Arc<Notify>, host: Arc<dyn Host>) {
    loop {
        let Some(shared) = cluster.upgrade() else { return };
        let pause = Cluster { shared }.look(&host).await;
        // The cluster is not held meanwhile: one that nobody holds is gone.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = met.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::SecretName;

    fn admin(user: &str) -> Admin {
        let secret = SecretName { namespace: "berth".into(), name: format!("{user}-key") };
        Admin { user: user.into(), secret }
    }

    #[test]
    fn a_cluster_serves_as_long_as_one_of_its_users_does() {
        let (good, bad, other) = (admin("good"), admin("bad"), admin("other"));
        let mut users = Users::default();
        assert_eq!(users.none_serves(), None, "nobody was met");
        assert!(users.note(&bad, Err("no such Secret".into())), "news");
        assert!(!users.note(&bad, Err("still none".into())), "told once");
        assert_eq!(users.none_serves().as_deref(), Some("still none"));
        users.known.insert(good.clone(), None);
        assert_eq!(users.none_serves(), None, "one may serve");
        assert!(!users.note(&good, Ok(())));
        assert_eq!((users.none_serves(), users.problems()), (None, vec!["still none".to_owned()]));
        assert!(users.note(&good, Err("refused".into())) && users.note(&good, Ok(())), "news both times");
        users.note(&other, Err("refused".into()));
        users.retain(|admin| *admin == other);
        assert_eq!(users.problems(), ["refused"], "nobody names the bad one any more");
    }

    #[test]
    fn who_can_be_used_is_looked_at_only_where_the_cluster_is_lost() {
        let mut users = Users::default();
        for (user, state) in [("a", Some(Ok(()))), ("b", Some(Ok(())))] {
            users.known.insert(admin(user), state);
        }
        assert_eq!((users.to_look_at(false), users.to_look_at(true)), (vec![], vec![admin("a")]));
        users.known.insert(admin("c"), None);
        users.known.insert(admin("d"), Some(Err("refused".into())));
        assert_eq!(users.to_look_at(true), [admin("c"), admin("d")]);
    }

    #[test]
    fn the_pause_grows_while_it_is_looked_in_vain() {
        let first = Duration::from_secs(10);
        let mut users = Users::default();
        users.known.insert(admin("a"), Some(Err("refused".into())));
        let pauses: Vec<u64> = (0..6).map(|_| users.pause(first).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 60, 60, 60]);
        users.note(&admin("a"), Ok(()));
        assert_eq!(users.pause(first), first);
    }
}
