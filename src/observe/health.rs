//! The verdicts of `/livez` and `/readyz`: pure functions of what is known, and their text.
//!
//! A store that is not ready is named with its reason in every answer of `/readyz`, but it takes the process out of
//! service only when no other store is left: one dead export must not stop the others.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::state::Leadership;
use crate::backend::StoreStatus;

/// A loop that was silent for so long has stopped. Far above what a loaded machine delays a task that beats every few
/// seconds; restarting a process that merely is slow would make things worse.
pub(super) const SILENCE: Duration = Duration::from_mins(1);

/// One thing that a probe looks at.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: String,
    /// Why it is not as it should be.
    problem: Option<String>,
    /// Whether the problem fails the probe, or is only told.
    fatal: bool,
}

impl Check {
    fn new(name: impl Into<String>, problem: Option<String>) -> Self {
        Self { name: name.into(), problem, fatal: true }
    }

    fn told(name: impl Into<String>, problem: Option<String>) -> Self {
        Self { name: name.into(), problem, fatal: false }
    }
}

/// The answer of a probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict(Vec<Check>);

impl Verdict {
    /// Whether the probe succeeds.
    pub(super) fn passed(&self) -> bool {
        self.0.iter().all(|check| check.problem.is_none() || !check.fatal)
    }

    /// One line per problem, or per check where everything is wanted; the last line is the result.
    pub(super) fn text(&self, verbose: bool) -> String {
        let mut text = String::new();
        for check in &self.0 {
            match &check.problem {
                Some(problem) => {
                    let mark = if check.fatal { '-' } else { '!' };
                    let _ = writeln!(text, "[{mark}]{}: {problem}", check.name);
                }
                None if verbose => {
                    let _ = writeln!(text, "[+]{}", check.name);
                }
                None => {}
            }
        }
        text.push_str(if self.passed() { "ok\n" } else { "not ok\n" });
        text
    }
}

/// Whether the process should be left alone: that this is answered shows that the runtime lives; the loop must beat too.
pub(super) fn live(heartbeat: Option<Instant>, now: Instant) -> Verdict {
    let silent = heartbeat.map(|beat| now.saturating_duration_since(beat)).filter(|silent| *silent > SILENCE);
    Verdict(vec![
        Check::new("runtime", None),
        Check::new("loop", silent.map(|silent| format!("no sign of life for {} s", silent.as_secs()))),
    ])
}

/// Whether the process serves: it has seen the cluster, knows who leads, and at least one store can be used.
pub(super) fn ready(
    synced: bool,
    leadership: Option<Leadership>,
    stores: &[(&'static str, StoreStatus)],
    rights_missing: &[String],
) -> Verdict {
    let mut checks = vec![
        Check::new(
            "synced",
            (!synced).then(|| "the first lists of claims, volumes and classes are not complete".into()),
        ),
        match leadership {
            None => Check::new("leadership", Some("not yet known who leads".into())),
            Some(Leadership::Leading) => Check::new("leadership: leading", None),
            Some(Leadership::Standby) => Check::new("leadership: standby", None),
        },
    ];
    let none_serves = !stores.is_empty() && stores.iter().all(|(_, store)| store.ready.is_err());
    for (backend, store) in stores {
        let problem = store.ready.as_ref().err().cloned();
        let name = format!("store {backend}/{}", store.name);
        checks.push(if none_serves { Check::new(&name, problem) } else { Check::told(&name, problem) });
        checks.extend(store.problems.iter().map(|problem| Check::told(&name, Some(problem.clone()))));
    }
    for right in rights_missing {
        checks.push(Check::told("rights", Some(format!("the service account may not {right}"))));
    }
    Verdict(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str, ready: Result<(), &str>) -> (&'static str, StoreStatus) {
        let status = StoreStatus {
            name: name.into(),
            ready: ready.map_err(String::from),
            problems: Vec::new(),
            running: 0,
            oldest: None,
            trash: 0,
            stuck: Vec::new(),
            purged: 0,
        };
        ("nfs", status)
    }

    #[test]
    fn a_process_is_alive_while_its_loop_beats() {
        let start = Instant::now();
        let rows = [
            ("a loop that has not begun to beat is left alone", None, start, true),
            ("a fresh beat", Some(start), start, true),
            ("a beat a minute ago", Some(start), start + SILENCE, true),
            ("a beat longer ago", Some(start), start + SILENCE + Duration::from_millis(1), false),
        ];
        for (row, beat, now, alive) in rows {
            assert_eq!(live(beat, now).passed(), alive, "{row}");
        }
        let text = live(Some(start), start + Duration::from_mins(2)).text(false);
        assert_eq!(text, "[-]loop: no sign of life for 120 s\nnot ok\n");
    }

    #[test]
    fn a_process_is_ready_once_it_knows_the_cluster_the_leader_and_one_store() {
        let good = || store("a", Ok(()));
        let bad = || store("b", Err("/exports/b is not mounted"));
        let rows = [
            ("everything is well", true, Some(Leadership::Leading), vec![good()], true),
            ("a standby is ready to take over", true, Some(Leadership::Standby), vec![good()], true),
            ("lists are not complete", false, Some(Leadership::Leading), vec![good()], false),
            ("nobody knows who leads", true, None, vec![good()], false),
            ("one of two stores serves", true, Some(Leadership::Leading), vec![good(), bad()], true),
            ("the only store does not serve", true, Some(Leadership::Leading), vec![bad()], false),
            ("no store serves", true, Some(Leadership::Leading), vec![bad(), bad()], false),
        ];
        for (row, synced, leadership, stores, expected) in rows {
            assert_eq!(ready(synced, leadership, &stores, &[]).passed(), expected, "{row}");
        }
    }

    /// Proves: statement 18
    #[test]
    fn the_answer_names_the_store_that_does_not_serve_and_the_missing_right() {
        let stores = [store("a", Ok(())), store("b", Err("/exports/b is not mounted"))];
        let missing = ["patch persistentvolumes".to_owned()];
        let verdict = ready(true, Some(Leadership::Leading), &stores, &missing);
        assert_eq!(
            verdict.text(false),
            "[!]store nfs/b: /exports/b is not mounted\n\
             [!]rights: the service account may not patch persistentvolumes\n\
             ok\n"
        );
        assert_eq!(
            verdict.text(true),
            "[+]synced\n[+]leadership: leading\n[+]store nfs/a\n\
             [!]store nfs/b: /exports/b is not mounted\n\
             [!]rights: the service account may not patch persistentvolumes\n\
             ok\n"
        );
    }

    #[test]
    fn what_is_wrong_with_one_class_is_reported_and_fails_nothing() {
        let (backend, mut status) = store("a", Ok(()));
        status.problems.push("Secret berth/gone does not exist".into());
        let verdict = ready(true, Some(Leadership::Leading), &[(backend, status)], &[]);
        assert!(verdict.passed());
        assert_eq!(verdict.text(false), "[!]store nfs/a: Secret berth/gone does not exist\nok\n");
    }
}
