//! Tests of the calls against programs that stand in for Ceph's.

pub(crate) mod fake;
mod real;
mod table;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fake::{Answer, FSID, Fake, KEY, Recorded};
use table::MEANINGS;

use tokio::time::sleep;

use super::*;
use crate::{backend::Kind, volume::Permit};

const FAR: Duration = Duration::from_mins(2);

fn one_each() -> Tools {
    Tools { sessions: 0, ..Tools::default() }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < FAR, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Proves: rbd 16
#[tokio::test]
async fn a_failure_names_operation_object_reason_and_remedy() {
    let fake = Fake::with(one_each());
    fake.expect(Tool::Rbd, &["create", "nopool/one"], Answer::recorded("rbd-create-no-pool"));
    let call = Call::reads("create image one in pool nopool", ["create", "nopool/one"]);
    let failed = fake.ceph().call(Tool::Rbd, call).await.unwrap_err();
    assert_eq!((failed.reason, failed.kind(), failed.code), (Reason::NoPool, Kind::NotFound, Some(2)));
    assert_eq!(
        failed.to_string(),
        "create image one in pool nopool: there is no such pool (rbd said: rbd: error opening pool 'nopool': (2) No such \
         file or directory); create the pool (ceph osd pool create, rbd pool init), or name another one in the class"
    );
}

/// Proves: cephfs 12
#[tokio::test]
async fn an_answer_is_standard_output_alone() {
    let fake = Fake::with(one_each());
    let noise = "2026-01-02T03:04:05.678+0000 7f0123456789 -1 monclient: noise\n\n";
    fake.expect(Tool::Rbd, &["ls", "*"], Answer::Text(0, "[\"one\"]\n".into(), noise.into()));
    fake.expect(Tool::Rbd, &["image-meta", "*", "*"], Answer::recorded("rbd-meta-list-empty"));
    fake.expect(Tool::Rbd, &["import", "-", "*"], Answer::ok("not json"));
    let ceph = fake.ceph();
    let names: Option<Vec<String>> =
        ceph.call(Tool::Rbd, Call::reads("list", ["ls", "rbd"])).await.unwrap().json().unwrap();
    assert_eq!(names.unwrap(), ["one"]);
    let reply = ceph.call(Tool::Rbd, Call::reads("list", ["image-meta", "list", "x"])).await.unwrap();
    assert_eq!(reply.json::<BTreeMap<String, String>>().unwrap(), None, "nothing is not a mistake");
    let call = Call::changes("import", ["import", "-", "rbd/x"], &Permit::unlimited()).stdin(*b"a\0b");
    let reply = ceph.call(Tool::Rbd, call).await.unwrap();
    assert_eq!(reply.json::<Vec<String>>().unwrap_err().kind(), Kind::Internal);
    assert_eq!(fake.calls()[2].stdin, b"a\0b");
}

/// Proves: rbd 17
#[tokio::test]
async fn a_hung_program_ends_at_the_deadline_and_is_unavailable() {
    let tools = Tools { deadline: Duration::from_millis(900), sessions: 0, ..Tools::default() };
    let fake = Fake::with(tools);
    fake.always(Tool::Rbd, &["*"], Answer::Hangs);
    let failed = fake.ceph().call(Tool::Rbd, Call::reads("list", ["ls"])).await.unwrap_err();
    assert_eq!((failed.reason, failed.kind()), (Reason::Deadline, Kind::Unavailable));
    assert!(failed.to_string().contains("cluster fake (127.0.0.1:6789)"), "{failed}");
    assert!(fake.cluster().health().ready.unwrap_err().contains("in time"));
}

#[tokio::test]
async fn a_missing_program_is_named_with_what_to_install() {
    let tools = Tools { rbd: "no-such-rbd".into(), ..Tools::default() };
    let cluster = Cluster::new("c", "127.0.0.1".parse().unwrap(), tools).unwrap();
    let failed =
        cluster.with(Fake::credentials()).call(Tool::Rbd, Call::reads("list", ["ls"])).await.unwrap_err();
    assert_eq!((failed.reason, failed.kind()), (Reason::ProgramMissing, Kind::Invalid));
    assert!(
        failed.to_string().contains("no-such-rbd") && failed.to_string().contains("ceph-common"),
        "{failed}"
    );
}

#[tokio::test]
async fn a_monitor_whose_name_is_unknown_costs_no_program() {
    let cluster = Cluster::new("c", "no-such-host.invalid".parse().unwrap(), Tools::default()).unwrap();
    let failed =
        cluster.with(Fake::credentials()).call(Tool::Rbd, Call::reads("list", ["ls"])).await.unwrap_err();
    assert_eq!((failed.reason, failed.kind()), (Reason::Unresolved, Kind::Unavailable));
    assert!(failed.to_string().contains("no-such-host.invalid"), "{failed}");
}

/// Proves: rbd 11
#[tokio::test]
async fn a_monitors_name_is_resolved_at_each_call() {
    let fake = Fake::with(one_each());
    let tools = fake.cluster().tools().clone();
    let cluster = Cluster::new("c", "v1:localhost:6789".parse().unwrap(), tools).unwrap();
    cluster.with(Fake::credentials()).fsid().await.unwrap();
    let given = fs::read_to_string(fake.path().join("monitors")).unwrap();
    assert!(given.contains("v1:127.0.0.1:6789") || given.contains("v1:[::1]:6789"), "{given}");
    assert!(!given.contains("localhost"));
}

#[tokio::test]
async fn a_call_that_changes_something_needs_a_permit_when_it_starts_and_while_it_runs() {
    let fake = Fake::with(one_each());
    let ceph = fake.ceph();
    let permit = Permit::unlimited();
    permit.revoke();
    let failed = ceph.call(Tool::Rbd, Call::changes("create", ["create", "x"], &permit)).await.unwrap_err();
    assert_eq!((failed.reason, failed.kind()), (Reason::Stopped, Kind::Unavailable));
    assert_eq!(fake.calls(), []);

    fake.expect(Tool::Rbd, &["create", "x"], Answer::Waits);
    let permit = Permit::unlimited();
    let call = ceph.call(Tool::Rbd, Call::changes("create", ["create", "x"], &permit));
    let (outcome, ()) = tokio::join!(call, async {
        until("the start of the program", || !fake.calls().is_empty()).await;
        permit.revoke();
    });
    assert_eq!(outcome.unwrap_err().reason, Reason::Stopped, "the program never ended by itself");
}

#[tokio::test]
async fn no_more_programs_run_than_the_cluster_may_have() {
    let tools = Tools { concurrency: 2, sessions: 0, ..Tools::default() };
    let fake = Fake::with(tools);
    fake.always(Tool::Rbd, &["ls", "*"], Answer::Waits);
    let (ceph, other) = (fake.ceph(), fake.ceph());
    let calls = (0..5).map(|i| {
        let ceph = if i % 2 == 0 { &ceph } else { &other };
        ceph.call(Tool::Rbd, Call::reads(format!("list {i}"), ["ls".to_owned(), i.to_string()]))
    });
    let calls = futures::future::join_all(calls);
    let (outcomes, ()) = tokio::join!(calls, async {
        until("two programs", || fake.calls().len() == 2).await;
        for _ in 0..20 {
            sleep(Duration::from_millis(5)).await;
            assert_eq!(fake.calls().len(), 2);
        }
        let health = fake.cluster().health();
        assert_eq!((health.running, health.oldest.unwrap().0.as_str()), (5, "list 0"));
        fake.release();
    });
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(fake.calls().len(), 5);
    assert_eq!(fake.cluster().health().running, 0);
}

#[tokio::test]
async fn a_call_that_waits_too_long_for_a_slot_names_the_call_that_holds_it() {
    let tools = Tools { concurrency: 1, sessions: 0, ..Tools::default() };
    let fake = Fake::with(tools);
    fake.always(Tool::Rbd, &["*"], Answer::Waits);
    let ceph = fake.ceph();
    let holder = ceph.call(Tool::Rbd, Call::reads("list the images", ["ls"]));
    let (_, ()) = tokio::join!(holder, async {
        until("the first program", || !fake.calls().is_empty()).await;
        let call = Call::reads("read", ["info"]).within(Duration::from_millis(50));
        let failed = ceph.call(Tool::Rbd, call).await.unwrap_err();
        assert!(failed.to_string().contains("list the images"), "{failed}");
        fake.release();
    });
}

fn sessions(fake: &Fake) -> Vec<u32> {
    let pids = fs::read_to_string(fake.path().join("sessions")).unwrap_or_default();
    pids.lines().map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test]
async fn one_ceph_serves_many_commands_with_the_replies_of_many() {
    let fake = Fake::new();
    let ceph = fake.ceph();
    let cases = Recorded::all()
        .into_iter()
        .filter(|case| case.tool == Tool::Ceph && !case.name.starts_with("ceph-fsid"));
    let (mut count, mut started, mut refused) = (0, 1, false);
    for case in cases {
        // One that was refused is not asked again.
        started += usize::from(refused);
        refused = [1, 13].contains(&case.code);
        fake.expect(Tool::Ceph, &["do", &case.name], Answer::recorded(&case.name));
        let reply = ceph.call(Tool::Ceph, Call::reads("do it", ["do", case.name.as_str()])).await;
        match MEANINGS.iter().find(|(name, _)| *name == case.name) {
            None => assert_eq!(reply.unwrap().text().unwrap(), case.stdout.trim(), "{}", case.name),
            Some((_, reason)) => {
                let failed = reply.unwrap_err();
                assert_eq!((failed.reason, failed.code), (*reason, Some(case.code)), "{}", case.name);
                assert!(!failed.stderr.contains("error handling"), "{failed}");
            }
        }
        count += 1;
    }
    assert!(count > 40 && started < 10);
    assert_eq!(sessions(&fake).len(), started);
}

#[tokio::test]
async fn words_reach_a_ceph_that_stays_as_they_are() {
    let fake = Fake::new();
    let owner = r#"{"name":"it's $HOME `x` \"q\"","list":[1, 2]}"#;
    fake.always(Tool::Ceph, &["set", "*", "*"], Answer::ok(""));
    let ceph = fake.ceph();
    for word in [owner, "", "a b", "*", "ü"] {
        ceph.call(Tool::Ceph, Call::reads("set", ["set", "key", word])).await.unwrap();
        assert_eq!(fake.calls().last().unwrap().args, ["set", "key", word]);
    }
    // What is no line has a program of its own.
    ceph.call(Tool::Ceph, Call::reads("set", ["set", "key", "a\nset x y"])).await.unwrap();
    assert_eq!(fake.calls().len(), 6);
    assert_eq!(sessions(&fake).len(), 1);
}

#[tokio::test]
async fn a_ceph_that_crashes_is_replaced_and_its_command_given_to_one_of_its_own() {
    let fake = Fake::new();
    let ceph = fake.ceph();
    ceph.fsid().await.unwrap();
    fake.expect(Tool::Ceph, &["create"], Answer::Crashes);
    fake.expect(Tool::Ceph, &["create"], Answer::ok("made"));
    let reply =
        ceph.call(Tool::Ceph, Call::changes("create", ["create"], &Permit::unlimited())).await.unwrap();
    assert_eq!(reply.text().unwrap(), "made");
    fake.expect(Tool::Ceph, &["create"], Answer::ok("more"));
    ceph.call(Tool::Ceph, Call::changes("create", ["create"], &Permit::unlimited())).await.unwrap();
    let pids = sessions(&fake);
    assert_eq!(pids.len(), 2, "the crashed one, and a new one for the next command: {pids:?}");
}

#[tokio::test]
async fn a_dead_idle_ceph_session_fails_no_call() {
    let fake = Fake::new();
    let ceph = fake.ceph();
    ceph.fsid().await.unwrap();
    let pid = sessions(&fake)[0];
    let status = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    assert!(status.success());
    fake.expect(Tool::Ceph, &["fs", "ls"], Answer::ok("[]"));
    ceph.call(Tool::Ceph, Call::reads("list", ["fs", "ls"])).await.unwrap();
}

#[tokio::test]
async fn a_ceph_that_hangs_ends_at_the_deadline_and_the_next_command_has_a_new_one() {
    let fake = Fake::new();
    let ceph = fake.ceph();
    ceph.fsid().await.unwrap();
    fake.always(Tool::Ceph, &["create"], Answer::Hangs);
    let call = Call::changes("create", ["create"], &Permit::unlimited()).within(Duration::from_millis(900));
    let failed = ceph.call(Tool::Ceph, call).await.unwrap_err();
    assert_eq!((failed.reason, failed.kind()), (Reason::Deadline, Kind::Unavailable));
    fake.expect(Tool::Ceph, &["fs", "ls"], Answer::ok("[]"));
    ceph.call(Tool::Ceph, Call::reads("list", ["fs", "ls"])).await.unwrap();
    assert_eq!(sessions(&fake).len(), 2);
    assert!(!Path::new(&format!("/proc/{}", sessions(&fake)[0])).exists());
}

#[tokio::test]
async fn a_ceph_that_lost_the_cluster_or_was_refused_is_not_asked_again() {
    let rows = [
        (110, "Error ETIMEDOUT: timed out\n", Reason::Deadline),
        (13, "Error EACCES: access denied\n", Reason::NotPermitted),
    ];
    for (code, said, reason) in rows {
        let fake = Fake::new();
        fake.expect(Tool::Ceph, &["fs", "ls"], Answer::fails(code, said));
        let failed = fake.ceph().call(Tool::Ceph, Call::reads("list", ["fs", "ls"])).await.unwrap_err();
        assert_eq!(failed.reason, reason, "{said}");
        fake.ceph().fsid().await.unwrap();
        assert_eq!(sessions(&fake).len(), 2, "{said}");
    }
}

#[tokio::test]
async fn an_idle_ceph_session_ends() {
    let fake = Fake::new();
    fake.ceph().fsid().await.unwrap();
    let pid = sessions(&fake)[0];
    tokio::time::pause();
    sleep(Duration::from_mins(2)).await;
    tokio::time::resume();
    until("its end", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn a_ceph_that_is_not_let_in_says_why_once() {
    let fake = Fake::new();
    let Answer::Text(_, _, refusal) = Answer::recorded("ceph-fsid-wrong-key") else { panic!() };
    fs::write(fake.path().join("refuses"), refusal).unwrap();
    let failed = fake.ceph().call(Tool::Ceph, Call::reads("ask", ["fs", "ls"])).await.unwrap_err();
    assert_eq!((failed.reason, failed.code), (Reason::WrongKey, Some(13)));
    assert_eq!(fake.calls(), []);
    assert_eq!(sessions(&fake).len(), 1);
}

#[tokio::test]
async fn a_ceph_that_does_not_stay_is_called_for_each_command() {
    let fake = Fake::new();
    fs::write(fake.path().join("mute"), "").unwrap();
    fake.always(Tool::Ceph, &["fs", "ls"], Answer::ok("[]"));
    for _ in 0..3 {
        fake.ceph().call(Tool::Ceph, Call::reads("ask", ["fs", "ls"])).await.unwrap();
    }
    assert_eq!(sessions(&fake).len(), 1, "it was tried once");
    assert_eq!(fake.calls().len(), 3);
}

#[tokio::test]
async fn no_more_cephs_stay_than_the_cluster_may_have() {
    let fake = Fake::new();
    fake.always(Tool::Ceph, &["wait"], Answer::Waits);
    let ceph = fake.ceph();
    let calls =
        futures::future::join_all((0..6).map(|_| ceph.call(Tool::Ceph, Call::reads("wait", ["wait"]))));
    let (outcomes, ()) = tokio::join!(calls, async {
        until("two programs", || fake.calls().len() == 2).await;
        for _ in 0..20 {
            sleep(Duration::from_millis(5)).await;
            assert_eq!((fake.calls().len(), sessions(&fake).len()), (2, 2));
        }
        fake.release();
    });
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(sessions(&fake).len(), 2);
}

#[tokio::test]
async fn the_cluster_is_asked_once_who_it_is_and_again_after_it_was_away() {
    let fake = Fake::with(one_each());
    let ceph = fake.ceph();
    for _ in 0..3 {
        assert_eq!(ceph.fsid().await.unwrap(), FSID);
    }
    assert_eq!(fake.lines(), ["ceph fsid"]);
    fake.expect(Tool::Rbd, &["ls"], Answer::recorded("rbd-info-unreachable"));
    ceph.call(Tool::Rbd, Call::reads("list", ["ls"])).await.unwrap_err();
    assert!(fake.cluster().health().ready.is_err());
    assert_eq!(ceph.fsid().await.unwrap(), FSID);
    assert_eq!(fake.lines(), ["ceph fsid", "rbd ls", "ceph fsid"]);
    assert_eq!(fake.cluster().health().ready, Ok(()));
}

/// Greets whoever connects as a monitor does, until it is dropped.
struct Monitor(tokio::task::JoinHandle<()>);

impl Monitor {
    fn at(listener: tokio::net::TcpListener, banner: &'static [u8]) -> Self {
        Self(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, banner).await;
            }
        }))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_costs_one_program_and_is_found_again_when_a_monitor_listens() {
    let pause = Duration::from_millis(100);
    let fake = Fake::with(Tools { pause, ..one_each() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let monitors = format!("v1:{address}").parse().unwrap();
    let cluster = Cluster::new("dead", monitors, fake.cluster().tools().clone()).unwrap();
    let ceph = cluster.with(Fake::credentials());
    fake.expect(Tool::Rbd, &["ls"], Answer::recorded("rbd-info-unreachable"));
    let list = || ceph.call(Tool::Rbd, Call::reads("list", ["ls"]));
    let failed = list().await.unwrap_err();
    let refused = format!("v1:{address}: connection refused");
    assert!(failed.reason == Reason::Unreachable && failed.to_string().contains(&refused), "{failed}");
    let until = Instant::now() + pause * 4;
    while Instant::now() < until {
        let failed = list().await.unwrap_err();
        assert_eq!((failed.reason, failed.kind()), (Reason::Unreachable, Kind::Unavailable));
        assert!(failed.to_string().contains(&refused), "{failed}");
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fake.lines(), ["rbd ls"], "whatever is asked of it, no program is started");
    assert!(cluster.health().ready.unwrap_err().contains(&refused));

    let _monitor = Monitor::at(tokio::net::TcpListener::bind(address).await.unwrap(), b"ceph v027");
    fake.always(Tool::Rbd, &["ls"], Answer::ok("[]"));
    let since = Instant::now();
    while list().await.is_err() {
        assert!(since.elapsed() < FAR, "it was never asked again");
        sleep(Duration::from_millis(5)).await;
    }
    list().await.unwrap();
    assert_eq!((fake.lines().len(), cluster.health().ready), (3, Ok(())));
}

#[tokio::test]
async fn a_refused_key_is_not_taken_for_a_monitor_that_does_not_answer_where_no_protocol_is_written() {
    let fake = Fake::with(one_each());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _monitor = Monitor::at(listener, b"ceph v027");
    let monitors = address.to_string().parse().unwrap();
    let cluster = Cluster::new("odd", monitors, fake.cluster().tools().clone()).unwrap();
    // The programs wait for the other protocol until their time is over.
    fake.expect(Tool::Rbd, &["ls"], Answer::recorded("rbd-info-unreachable"));
    fake.expect(Tool::Rbd, &["ls"], Answer::recorded("rbd-info-wrong-key"));
    let failed =
        cluster.with(Fake::credentials()).call(Tool::Rbd, Call::reads("list", ["ls"])).await.unwrap_err();
    assert_eq!(failed.reason, Reason::WrongKey, "{failed}");
    let asked = fs::read_to_string(fake.path().join("monitors")).unwrap();
    assert_eq!(asked.lines().collect::<Vec<_>>(), [address.to_string(), format!("v1:{address}")]);
}

#[tokio::test]
async fn of_all_clusters_together_no_more_programs_run_than_there_are_places() {
    let programs = Programs::new(0);
    let fake = Fake::with(Tools { concurrency: 100, programs: programs.clone(), ..one_each() });
    fake.always(Tool::Rbd, &["ls", "*"], Answer::Waits);
    let clusters: Vec<Ceph> = (0..4)
        .map(|i| {
            let name = format!("c{i}");
            let monitors = "127.0.0.1:6789".parse().unwrap();
            Cluster::new(&name, monitors, fake.cluster().tools().clone()).unwrap().with(Fake::credentials())
        })
        .collect();
    let calls = (0..programs.size() + 8).map(|i| {
        let ceph = &clusters[i % clusters.len()];
        ceph.call(Tool::Rbd, Call::reads("list", ["ls".to_owned(), i.to_string()]))
    });
    let calls = futures::future::join_all(calls);
    let (outcomes, ()) = tokio::join!(calls, async {
        until("as many as may", || fake.calls().len() == programs.size()).await;
        for _ in 0..20 {
            sleep(Duration::from_millis(5)).await;
            assert_eq!(fake.calls().len(), programs.size());
        }
        fake.release();
    });
    assert!(outcomes.iter().all(Result::is_ok));
}

#[test]
fn what_an_administrator_is_told_to_do_fits_the_tool() {
    let rows = [
        (Reason::NoDataPool, Tool::Rbd, "rbd pool init"),
        (Reason::NoDataPool, Tool::Ceph, "add_data_pool"),
        (Reason::NotPermitted, Tool::Rbd, "osd caps"),
        (Reason::NotPermitted, Tool::Rados, "osd caps"),
        (Reason::NotPermitted, Tool::Ceph, "mgr caps"),
        (Reason::WrongKey, Tool::Ceph, "no mon caps"),
    ];
    for (reason, tool, advice) in rows {
        let told = reason.advice(tool).unwrap();
        assert!(told.contains(advice), "{reason:?} {tool}: {told}");
        assert!(tool != Tool::Ceph || !told.contains("rbd"), "{reason:?} {tool}: {told}");
    }
}

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Proves: rbd 15
#[tokio::test]
async fn the_key_is_in_no_argument_environment_log_error_or_debug_text() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // With a single dispatcher, a thread of another test that has none would switch off what it logs first for all threads.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    // Arguments and environment of every call are looked at by the tools themselves.
    let fake = Fake::new();
    let ceph = fake.ceph();
    let leaky = format!(
        "2026-01-02T03:04:05.678+0000 7f0123456789 -1 auth: failed to decode key '{KEY}'\n\nrbd: key {KEY} is bad\n"
    );
    fake.expect(Tool::Rbd, &["ls"], Answer::fails(22, leaky.clone()));
    fake.expect(Tool::Ceph, &["fs", "ls"], Answer::fails(22, format!("Error EINVAL: {KEY}\n")));
    fake.expect(Tool::Ceph, &["auth", "get-key", "client.x"], Answer::ok(format!("{{\"key\":\"{KEY}\"}}")));
    fake.expect(Tool::Rbd, &["crash"], Answer::Crashes);
    let mut texts = Vec::new();
    for call in [Call::reads("list", ["ls"]), Call::reads("crash", ["crash"])] {
        let failed = ceph.call(Tool::Rbd, call).await.unwrap_err();
        texts.push(format!("{failed} {failed:?} {:?}", crate::backend::Error::from(failed.clone())));
    }
    let failed = ceph.call(Tool::Ceph, Call::reads("list", ["fs", "ls"])).await.unwrap_err();
    texts.push(format!("{failed} {failed:?}"));
    let reply = ceph.call(Tool::Ceph, Call::reads("get", ["auth", "get-key", "client.x"])).await.unwrap();
    texts.push(format!("{reply:?} {ceph:?} {:?}", reply.json::<Vec<String>>()));
    texts.push(format!("{:?}", fake.cluster().health()));
    texts.push(String::from_utf8(log.0.lock().unwrap().clone()).unwrap());
    assert!(texts.last().unwrap().contains("failed"), "the log was looked at");
    for text in texts {
        assert!(!text.contains(KEY) && !text.contains(&KEY[..20]), "{text}");
    }
}

#[test]
fn monitors_in_common_mean_a_configured_cluster_and_others_one_of_their_own() {
    let cluster =
        |name: &str, monitors: &str| Cluster::new(name, monitors.parse().unwrap(), Tools::default()).unwrap();
    let clusters =
        Clusters::new(vec![cluster("a", "10.0.0.1,10.0.0.2"), cluster("b", "10.0.1.1")], Tools::default());
    let held = |monitors: &str| clusters.reached_by(&monitors.parse().unwrap()).unwrap();
    let reached = |monitors: &str| held(monitors).name().to_owned();
    assert_eq!(reached("10.0.0.2:6789,10.0.0.9:6789"), "a");
    assert_eq!(reached("10.0.1.1"), "b");
    let described = held("10.0.2.1:6789");
    let name = described.name().to_owned();
    assert!(name.starts_with("mon-"));
    assert_eq!(clusters.named(&name).unwrap().monitors().as_str(), "10.0.2.1:6789");
    assert!(Arc::ptr_eq(&held("10.0.2.1:6789").shared, &described.shared), "there is one of it");
    assert_eq!(clusters.all().len(), 3);
    drop(described);
    assert!(clusters.named(&name).is_none(), "nobody holds it any more");
    assert_eq!(clusters.all().len(), 2);
    assert!(clusters.named("c").is_none());
    for bad in ["", "A", "a_b", "a/b", &"a".repeat(41)] {
        assert!(Cluster::new(bad, "h".parse().unwrap(), Tools::default()).is_err(), "{bad}");
    }
}
