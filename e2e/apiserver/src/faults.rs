//! Faults: what goes wrong, for whom, how often.
//!
//! Entry point: [`Faults`], reached by `ApiServer::faults`; rules can be added and removed while the server runs.
//! A request is matched by its attributes as authorization sees them. Deliberately not here: cutting watches,
//! stopping the listener, stale lists, which are methods of the server.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::status::Status;

/// Which requests a fault hits; every field is a glob (`*` matches any run of characters).
///
/// ```
/// use berth_apiserver::Match;
/// let creates = Match::verb("create").resource("persistentvolumes");
/// let by_one_user = creates.user("system:serviceaccount:berth:*");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    user: String,
    verb: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

impl Default for Match {
    fn default() -> Self {
        let any = || "*".to_owned();
        Self { user: any(), verb: any(), resource: any(), subresource: any(), namespace: any(), name: any() }
    }
}

impl Match {
    /// Every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests with this verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    #[must_use]
    pub fn verb(verb: &str) -> Self {
        Self { verb: verb.to_owned(), ..Self::default() }
    }

    /// Only of this user.
    #[must_use]
    pub fn user(mut self, glob: &str) -> Self {
        glob.clone_into(&mut self.user);
        self
    }

    /// Only for this resource, in the plural: `persistentvolumes`.
    #[must_use]
    pub fn resource(mut self, glob: &str) -> Self {
        glob.clone_into(&mut self.resource);
        self
    }

    /// Only for this subresource; `""` for the main resource only.
    #[must_use]
    pub fn subresource(mut self, glob: &str) -> Self {
        glob.clone_into(&mut self.subresource);
        self
    }

    /// Only in this namespace.
    #[must_use]
    pub fn namespace(mut self, glob: &str) -> Self {
        glob.clone_into(&mut self.namespace);
        self
    }

    /// Only for the object of this name (for a creation, the name in the body).
    #[must_use]
    pub fn name(mut self, glob: &str) -> Self {
        glob.clone_into(&mut self.name);
        self
    }

    fn hits(&self, request: &Attributes<'_>) -> bool {
        glob(&self.user, request.user)
            && glob(&self.verb, request.verb)
            && glob(&self.resource, request.resource)
            && glob(&self.subresource, request.subresource)
            && glob(&self.namespace, request.namespace)
            && glob(&self.name, request.name)
    }
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The request is handled after this time.
    Delay(Duration),
    /// The request is refused with this code, and with a `Retry-After` in seconds if there is one.
    Code(u16, Option<u32>),
    /// The request is refused with this Status.
    Refuse(Status),
    /// The connection breaks before anything is done.
    DropBefore,
    /// The request is carried out, then the connection breaks instead of an answer.
    DropAfter,
    /// Nothing happens until the rule is removed; then the request goes on.
    Hang,
}

/// How often a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// To this many requests.
    Count(u64),
    /// Until it is removed.
    Always,
}

/// Names a rule that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultId(u64);

struct Rule {
    id: FaultId,
    matches: Match,
    fault: Fault,
    left: Option<u64>,
    hits: u64,
}

/// The attributes of a request by which it is matched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) user: &'a str,
    pub(crate) verb: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// What the rules decided for one request.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) delay: Duration,
    pub(crate) fault: Option<(FaultId, Fault)>,
}

struct Shared {
    rules: Mutex<Vec<Rule>>,
    next: AtomicU64,
    changed: watch::Sender<()>,
}

/// The rules in force.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

impl Faults {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            rules: Mutex::new(Vec::new()),
            next: AtomicU64::new(1),
            changed: watch::Sender::new(()),
        }))
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Vec<Rule>> {
        self.0.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule. Delays of all matching rules add up; of the other faults the first that matches is taken.
    #[allow(clippy::must_use_candidate, reason = "most rules are never named again")]
    pub fn inject(&self, matches: Match, fault: Fault, times: Times) -> FaultId {
        let id = FaultId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let left = match times {
            Times::Count(count) => Some(count),
            Times::Always => None,
        };
        self.rules().push(Rule { id, matches, fault, left, hits: 0 });
        id
    }

    /// Removes a rule; requests that hang by it go on. Answers how many requests it hit.
    #[allow(clippy::must_use_candidate, reason = "it is called to remove")]
    pub fn remove(&self, id: FaultId) -> u64 {
        let mut rules = self.rules();
        let hits = rules.iter().find(|rule| rule.id == id).map_or(0, |rule| rule.hits);
        rules.retain(|rule| rule.id != id);
        drop(rules);
        self.0.changed.send_replace(());
        hits
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.rules().clear();
        self.0.changed.send_replace(());
    }

    /// How many requests a rule has hit so far.
    #[must_use]
    pub fn hits(&self, id: FaultId) -> u64 {
        self.rules().iter().find(|rule| rule.id == id).map_or(0, |rule| rule.hits)
    }

    pub(crate) fn judge(&self, request: &Attributes<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        for rule in self.rules().iter_mut() {
            let is_delay = matches!(rule.fault, Fault::Delay(_));
            if rule.left == Some(0) || (!is_delay && verdict.fault.is_some()) || !rule.matches.hits(request) {
                continue;
            }
            rule.left = rule.left.map(|left| left - 1);
            rule.hits += 1;
            match &rule.fault {
                Fault::Delay(time) => verdict.delay += *time,
                other => verdict.fault = Some((rule.id, other.clone())),
            }
        }
        verdict
    }

    /// Waits until a rule is no longer there.
    pub(crate) async fn until_removed(&self, id: FaultId) {
        let mut changed = self.0.changed.subscribe();
        while self.rules().iter().any(|rule| rule.id == id) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Whether a text matches a pattern in which `*` stands for any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    while let Some((middle, next)) = rest.split_once('*') {
        match text.find(middle) {
            Some(at) => text = text.get(at + middle.len()..).unwrap_or_default(),
            None => return false,
        }
        rest = next;
    }
    text.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_runs_of_characters() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "abc", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("", "", true),
            ("", "a", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "ace", true),
            ("a*x*e", "abcde", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_counted_rule_ends_and_delays_add_up() {
        let faults = Faults::new();
        let request = Attributes {
            user: "u",
            verb: "create",
            resource: "persistentvolumes",
            subresource: "",
            namespace: "",
            name: "pv",
        };
        faults.inject(Match::any(), Fault::Delay(Duration::from_millis(1)), Times::Always);
        faults.inject(Match::verb("create"), Fault::Delay(Duration::from_millis(2)), Times::Always);
        let code = faults.inject(Match::any().name("p*"), Fault::Code(500, None), Times::Count(1));
        let first = faults.judge(&request);
        assert_eq!((first.delay, first.fault.is_some()), (Duration::from_millis(3), true));
        assert!(faults.judge(&request).fault.is_none());
        assert_eq!(faults.remove(code), 1);
    }
}
