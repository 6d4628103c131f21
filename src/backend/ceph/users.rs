//! Which users of a cluster can be used: [`Users`]. Pure but for the notice that there is one to look at.
//!
//! A cluster serves as long as one of its users does: what is wrong with one class keeps no other class from it. Where none of
//! them can be used, be it that a Secret does not exist or that a key was refused, nothing can be done there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::admin::Admin;

/// The longest pause between two looks at users that cannot be used.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What is known of the users of one cluster.
#[derive(Debug, Default)]
pub(super) struct Users {
    known: BTreeMap<Admin, User>,
    watched: bool,
    /// How often it was looked in vain since all was well.
    in_vain: u32,
    /// Tells that there is a user to look at.
    met: Arc<Notify>,
}

/// Whether a user can be used; `None` while that is not known.
type User = Option<Result<(), String>>;

impl Users {
    /// Notes that a user is to be looked at; what tells the loop so, where there is no loop yet.
    pub(super) fn watch(&mut self, admin: &Admin) -> Option<Arc<Notify>> {
        self.known.entry(admin.clone()).or_default();
        self.met.notify_one();
        (!std::mem::replace(&mut self.watched, true)).then(|| Arc::clone(&self.met))
    }

    /// Whether its users are looked at.
    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Notes whether a user can be used; whether that is news.
    pub(super) fn note(&mut self, admin: &Admin, state: Result<(), String>) -> bool {
        let known = self.known.entry(admin.clone()).or_default();
        let news = match (&known, &state) {
            (None | Some(Ok(())), Ok(())) | (Some(Err(_)), Err(_)) => false,
            (None | Some(Ok(())), Err(_)) | (Some(Err(_)), Ok(())) => true,
        };
        *known = Some(state);
        news
    }

    /// Forgets what is wrong with those that are no longer named.
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
    pub(super) fn to_look_at(&self, lost: bool) -> Vec<Admin> {
        let doubtful = self.known.iter().filter(|(_, user)| !matches!(user, Some(Ok(()))));
        let mut all: Vec<Admin> = doubtful.map(|(admin, _)| admin.clone()).collect();
        if lost && all.is_empty() {
            all.extend(self.known.keys().next().cloned());
        }
        all
    }

    /// How long to wait for the next look: longer, the more often it was in vain.
    pub(super) fn pause(&mut self, first: Duration) -> Duration {
        let well = self.known.values().all(|user| matches!(user, Some(Ok(()))));
        self.in_vain = if well { 0 } else { (self.in_vain + 1).min(16) };
        let factor = 1_u32 << self.in_vain.saturating_sub(1);
        first.saturating_mul(factor).min(LONGEST_PAUSE.max(first))
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
