//! Tests of programs that behave, hang, crash, write too much and leave children behind.
//!
//! Nothing here measures time: a deadline is either far away, or is what ends a program that never would.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::*;
use crate::system::secret::SecretFile;

const FAR: Duration = Duration::from_mins(2);
/// Long enough for a shell to start, short enough to wait for.
const NEAR: Duration = Duration::from_millis(700);

fn shell(script: &str, args: &[&str]) -> Command {
    let mut all = vec!["-c".to_owned(), script.to_owned(), "sh".to_owned()];
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    Command { program: "sh".into(), args: all, env: Vec::new(), stdin: None, deadline: FAR, cap: 1 << 20 }
}

fn text(captured: &Captured) -> &str {
    std::str::from_utf8(&captured.bytes).unwrap()
}

/// Waits for something that will happen by itself.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < FAR, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn pid_in(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.strip_suffix('\n')?.parse().ok()
}

/// A zombie has ended too: whoever reaps it is not us.
fn ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z') || rest.starts_with('X'))
    })
}

#[tokio::test]
async fn arguments_arrive_as_they_are_and_the_environment_is_what_was_named() {
    let mut command = shell("printf '%s|' \"$@\"; env", &["a b", "$HOME", "", "'\"*"]);
    command.env = vec![("NAMED".into(), "x".into())];
    let output = run(&command).await.unwrap();
    let (args, env) = text(&output.stdout).rsplit_once('|').unwrap();
    assert_eq!(args, "a b|$HOME||'\"*");
    let mut names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    // A shell adds the last three by itself.
    names.retain(|name| !["PWD", "_", "SHLVL"].contains(name));
    assert_eq!(names, ["NAMED", "PATH"]);
    assert!(env.contains(&format!("PATH={PATH}\n")));
}

#[tokio::test]
async fn outputs_and_exit_code_are_kept_apart() {
    let output = run(&shell("echo out; echo err >&2; exit 17", &[])).await.unwrap();
    assert_eq!((output.code, text(&output.stdout), text(&output.stderr)), (17, "out\n", "err\n"));
    let output = run(&shell("kill -TERM $$", &[])).await.unwrap();
    assert_eq!(output.code, 128 + 15);
}

#[tokio::test]
async fn input_is_written_while_outputs_are_read() {
    let mut command = shell("cat", &[]);
    let bytes = vec![b'x'; 3 << 20];
    command.stdin = Some(bytes.clone());
    command.cap = 4 << 20;
    assert_eq!(run(&command).await.unwrap().stdout.bytes, bytes);
    command.args = shell("exec <&-; echo deaf", &[]).args;
    assert_eq!(text(&run(&command).await.unwrap().stdout), "deaf\n", "input that nobody reads is no failure");
    assert_eq!(run(&shell("cat", &[])).await.unwrap().code, 0, "no input is an empty input");
}

#[tokio::test]
async fn what_is_above_the_cap_is_counted_and_dropped() {
    let mut command = shell("head -c 1000000 /dev/zero; head -c 300 /dev/zero >&2", &[]);
    command.cap = 1000;
    let output = run(&command).await.unwrap();
    assert_eq!((output.stdout.bytes.len(), output.stdout.dropped), (1000, 999_000));
    assert_eq!((output.stderr.bytes.len(), output.stderr.dropped), (300, 0));
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let mut command = shell("", &[]);
    command.program = "no-such-program-anywhere".into();
    let failure = run(&command).await.unwrap_err();
    assert!(matches!(&failure, Failure::Missing(name) if name == "no-such-program-anywhere"), "{failure:?}");
    assert!(Session::start(&command).is_err());
}

#[tokio::test]
async fn a_hung_program_is_killed_at_its_deadline_with_what_it_started() {
    let dir = TempDir::new().unwrap();
    let (child, grandchild) = (dir.path().join("child"), dir.path().join("grandchild"));
    let script = "sh -c 'echo $$ >\"$1\"; sleep 600; :' sh \"$2\" & echo $$ >\"$1\"; sleep 600; :";
    let mut command = shell(script, &[child.to_str().unwrap(), grandchild.to_str().unwrap()]);
    // A deadline that comes before both have begun proves nothing; then it is tried with a longer one.
    for deadline in [1, 4, 16, 64] {
        command.deadline = Duration::from_secs(deadline);
        let failure = run(&command).await.unwrap_err();
        assert!(matches!(failure, Failure::Deadline(after) if after == command.deadline), "{failure:?}");
        if pid_in(&child).is_some() && pid_in(&grandchild).is_some() {
            break;
        }
    }
    let (child, grandchild) = (pid_in(&child).unwrap(), pid_in(&grandchild).unwrap());
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "killed and reaped before the failure is told");
    until("the end of the grandchild", || ended(grandchild)).await;
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_is_killed_with_what_it_started() {
    let dir = TempDir::new().unwrap();
    let (child, grandchild) = (dir.path().join("child"), dir.path().join("grandchild"));
    let script = "sh -c 'echo $$ >\"$1\"; sleep 600; :' sh \"$2\" & echo $$ >\"$1\"; sleep 600; :";
    let command = shell(script, &[child.to_str().unwrap(), grandchild.to_str().unwrap()]);
    tokio::select! {
        output = run(&command) => panic!("ended by itself: {output:?}"),
        () = until("the start of both", || pid_in(&child).is_some() && pid_in(&grandchild).is_some()) => {}
    }
    let (child, grandchild) = (pid_in(&child).unwrap(), pid_in(&grandchild).unwrap());
    until("the end of both", || ended(child) && ended(grandchild)).await;
}

#[tokio::test]
async fn a_child_left_behind_that_holds_the_outputs_does_not_hold_the_answer() {
    let dir = TempDir::new().unwrap();
    let left = dir.path().join("left");
    let script = "sh -c 'echo $$ >\"$1\"; sleep 600; :' sh \"$1\" & while [ ! -s \"$1\" ]; do sleep 0.01; done; echo done";
    let output = run(&shell(script, &[left.to_str().unwrap()])).await.unwrap();
    assert_eq!((output.code, text(&output.stdout)), (0, "done\n"));
    let left = pid_in(&left).unwrap();
    until("the end of what was left behind", || ended(left)).await;
}

/// Proves: cephfs 14
#[tokio::test]
async fn a_secret_is_read_by_children_alone_and_gone_with_its_value() {
    let secret = SecretFile::new(b"hush").unwrap();
    let output = run(&shell("cat \"$1\"; echo; cat \"$1\"", &[&secret.path()])).await.unwrap();
    assert_eq!(text(&output.stdout), "hush\nhush", "each reader reads it from its beginning");
    let output = run(&shell("echo more >>\"$1\"", &[&secret.path()])).await.unwrap();
    assert_ne!(output.code, 0, "nobody can change it");
    let path = secret.path();
    let inode = fs::metadata(&path).map(|data| std::os::unix::fs::MetadataExt::ino(&data)).unwrap();
    let output = run(&shell("ls -Li /proc/self/fd/ 2>/dev/null", &[])).await.unwrap();
    let inherited = text(&output.stdout).lines().any(|line| line.trim().starts_with(&format!("{inode} ")));
    assert!(!inherited, "no child inherits it: {}", text(&output.stdout));
    assert!(!format!("{secret:?}").contains("hush"));
    drop(secret);
    let same = fs::metadata(&path).is_ok_and(|data| std::os::unix::fs::MetadataExt::ino(&data) == inode);
    assert!(!same, "closed, it is gone");
}

#[tokio::test]
async fn children_leave_no_core_dump() {
    let _secret = SecretFile::new(b"hush").unwrap();
    let output = run(&shell("grep '^Max core file size' /proc/self/limits", &[])).await.unwrap();
    let limits: Vec<&str> = text(&output.stdout).split_whitespace().skip(4).take(2).collect();
    assert!(limits == ["1", "1"] || limits == ["0", "0"], "{limits:?}");
}

/// Answers each line with itself, `big` with a megabyte; ends at `end`, hangs at `hang`.
const ECHO: &str = r#"
while read -r line; do
  case $line in
    end) echo last words >&2; exit 3 ;;
    hang) sleep 600 ;;
    big) head -c 1000000 /dev/zero ;;
    mark*) printf 'noise %s\n' "$line" >&2 ;;
    *) printf '%s\n' "$line" ;;
  esac
done
"#;

async fn asked(session: &mut Session, line: &str) -> (String, String) {
    match session.ask(format!("{line}\nmark1\n").as_bytes(), b"mark1\n", FAR).await.unwrap() {
        Exchange::Answer { stdout, stderr } => (text(&stdout).to_owned(), text(&stderr).to_owned()),
        Exchange::Ended(output) => panic!("ended: {output:?}"),
    }
}

#[tokio::test]
async fn a_session_answers_one_question_after_another() {
    let mut session = Session::start(&shell(ECHO, &[])).unwrap();
    for question in ["one", "two words", "three"] {
        assert_eq!(asked(&mut session, question).await, (format!("{question}\n"), "noise ".to_owned()));
    }
    assert_eq!(asked(&mut session, "big").await.0.len(), 1_000_000);
    assert_eq!(asked(&mut session, "four").await.0, "four\n", "nothing of the last answer is left");
    assert!(session.usable());
}

#[tokio::test]
async fn a_session_that_ends_says_how_and_is_not_asked_again() {
    let mut session = Session::start(&shell(ECHO, &[])).unwrap();
    let exchange = session.ask(b"before\nend\nmark1\n", b"mark1\n", FAR).await.unwrap();
    let Exchange::Ended(output) = exchange else { panic!("{exchange:?}") };
    assert_eq!((output.code, text(&output.stdout), text(&output.stderr)), (3, "before\n", "last words\n"));
    assert!(!session.usable());
    assert!(session.ask(b"again\nmark1\n", b"mark1\n", FAR).await.is_err());
}

#[tokio::test]
async fn a_session_that_hangs_is_killed_at_the_deadline() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("pid");
    let script = format!("echo $$ >\"$1\"\n{ECHO}");
    let mut session = Session::start(&shell(&script, &[file.to_str().unwrap()])).unwrap();
    asked(&mut session, "begun").await;
    let failure = session.ask(b"hang\nmark1\n", b"mark1\n", NEAR).await.unwrap_err();
    assert!(matches!(failure, Failure::Deadline(_)), "{failure:?}");
    assert!(!session.usable());
    assert!(ended(pid_in(&file).unwrap()));
}

#[tokio::test]
async fn a_session_whose_asker_goes_away_is_killed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("pid");
    let script = format!("echo $$ >\"$1\"\n{ECHO}");
    let mut session = Session::start(&shell(&script, &[file.to_str().unwrap()])).unwrap();
    asked(&mut session, "begun").await;
    tokio::select! {
        answer = session.ask(b"hang\nmark1\n", b"mark1\n", FAR) => panic!("answered: {answer:?}"),
        () = tokio::task::yield_now() => {}
    }
    assert!(!session.usable(), "half an answer is never read as the next one");
    let pid = pid_in(&file).unwrap();
    until("its end", || ended(pid)).await;
}

#[tokio::test]
async fn a_session_that_is_dropped_is_killed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("pid");
    let script = format!("echo $$ >\"$1\"\n{ECHO}");
    let mut session = Session::start(&shell(&script, &[file.to_str().unwrap()])).unwrap();
    asked(&mut session, "begun").await;
    drop(session);
    let pid = pid_in(&file).unwrap();
    until("its end", || ended(pid)).await;
}
