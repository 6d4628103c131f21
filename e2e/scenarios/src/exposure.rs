//! Looks for a secret where every user of a machine can read: in the arguments of processes, and in their environment.
//!
//! [`Lookout::start`] begins to look at every process of the machine, again and again, until [`Lookout::found`] ends it. A
//! process that lives for less than a look is missed: what must be seen for certain is written down by the program itself,
//! as [`crate::ceph::steps`] does.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

/// Between two looks. A program of Ceph lives for fifty times as long.
const PAUSE: Duration = Duration::from_millis(1);

/// A thread that looks.
#[derive(Debug)]
pub struct Lookout {
    over: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    thread: Option<JoinHandle<BTreeSet<String>>>,
}

impl Lookout {
    /// Begins to look for any of `secrets`.
    pub fn start(secrets: Vec<String>) -> Result<Self> {
        let (over, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ended, counted) = (Arc::clone(&over), Arc::clone(&looks));
        let look = move || {
            let mut found = BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                look(&secrets, &mut found);
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            found
        };
        let thread =
            std::thread::Builder::new().name("lookout".into()).spawn(look).context("start a thread")?;
        Ok(Self { over, looks, thread: Some(thread) })
    }

    /// How often all processes were looked at.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Ends it and tells which processes showed a secret, and where. The secret itself is not told.
    pub fn found(mut self) -> Result<BTreeSet<String>> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended already")?;
        thread.join().map_err(|_| anyhow!("the thread that looks at processes panicked"))
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn look(secrets: &[String], found: &mut BTreeSet<String>) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let name = process.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        for place in ["cmdline", "environ"] {
            // It has ended meanwhile, or is not ours to look at.
            let Ok(bytes) = std::fs::read(process.path().join(place)) else { continue };
            if secrets.iter().any(|secret| holds(&bytes, secret.as_bytes())) {
                let program = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found.insert(format!("{place} of {}", program.trim()));
            }
        }
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs_with(argument: &str, environment: &str) -> BTreeSet<String> {
        let secret = format!("c2VjcmV0{}", std::process::id());
        let lookout = Lookout::start(vec![secret.clone()]).unwrap();
        let mut sleeper = std::process::Command::new("sh")
            .args(["-c", "read -r line", &argument.replace("SECRET", &secret)])
            .env("BERTH_TEST", environment.replace("SECRET", &secret))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let before = lookout.looks();
        while lookout.looks() < before + 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(sleeper.stdin.take());
        sleeper.wait().unwrap();
        lookout.found().unwrap()
    }

    #[test]
    fn a_secret_in_an_argument_or_in_the_environment_is_found_and_nothing_else() {
        assert_eq!(runs_with("--key=SECRET", "x"), BTreeSet::from(["cmdline of sh".to_owned()]));
        assert_eq!(runs_with("x", "a SECRET b"), BTreeSet::from(["environ of sh".to_owned()]));
        assert_eq!(runs_with("--keyfile=/x", "x"), BTreeSet::new());
    }
}
