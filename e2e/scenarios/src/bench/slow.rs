//! Slow file operations for one program: a small C library that is loaded before the C library (`LD_PRELOAD`).
//!
//! [`Slow::build`] compiles it with the machine's C compiler into a directory of the caller; a program started with
//! [`Slow::environment`] then waits before each file operation for as long as [`Slow::delay`] said last, and
//! [`Slow::calls`] tells how many operations waited, which proves that the program did not get past it.

use std::{
    ffi::OsString,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::preload;

const SOURCE: &str = include_str!("slow.c");

/// The delay and the six counts.
const CONTROL_BYTES: usize = 7 * 8;

/// The compiled library, and the file by which it is told what to do.
#[derive(Debug)]
pub struct Slow {
    library: PathBuf,
    path: PathBuf,
    control: File,
}

/// How many operations were delayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Files and directories opened.
    pub open: u64,
    /// Attributes read.
    pub stat: u64,
    /// Lots of directory entries fetched.
    pub entries: u64,
    /// Files and directories removed.
    pub remove: u64,
    /// Renames.
    pub rename: u64,
    /// Directories made.
    pub make: u64,
}

impl Slow {
    /// Compiles the library into `dir`. `CC` names the compiler, else it is `cc`.
    pub async fn build(dir: &Path) -> Result<Self> {
        let library = preload::compile(dir, "slow", SOURCE).await?;
        Self::control(dir, library)
    }

    fn control(dir: &Path, library: PathBuf) -> Result<Self> {
        let path = dir.join(format!("slow-control-{:08x}", rand::random::<u32>()));
        let control = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("make {}", path.display()))?;
        control.write_all_at(&[0; CONTROL_BYTES], 0).context("clear the counts")?;
        Ok(Self { library, path, control })
    }

    /// The same library with a delay and counts of its own, for another program.
    pub fn another(&self) -> Result<Self> {
        let dir = self.path.parent().context("the control file lies nowhere")?;
        Self::control(dir, self.library.clone())
    }

    /// What the environment of the program must hold.
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("LD_PRELOAD", self.library.clone().into_os_string()),
            ("BERTH_SLOW_CONTROL", self.path.clone().into_os_string()),
        ]
    }

    /// How long each operation waits from now on; with zero nothing waits and nothing is counted.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        let nanoseconds = u64::try_from(delay.as_nanos()).context("the delay is too long")?;
        self.control.write_all_at(&nanoseconds.to_ne_bytes(), 0).context("set the delay")
    }

    /// The operations that have waited so far.
    pub fn calls(&self) -> Result<Calls> {
        let mut counts = [0; 6];
        for (count, at) in counts.iter_mut().zip((8_u64..).step_by(8)) {
            let mut word = [0; 8];
            self.control.read_exact_at(&mut word, at).context("read the counts")?;
            *count = u64::from_ne_bytes(word);
        }
        let [open, stat, entries, remove, rename, make] = counts;
        Ok(Calls { open, stat, entries, remove, rename, make })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_program_waits_once_for_each_file_that_it_removes() {
        let dir = tempfile::tempdir().unwrap();
        let slow = Slow::build(dir.path()).await.unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        for name in 0..30 {
            std::fs::write(tree.join(name.to_string()), "").unwrap();
        }
        let rm = async |slow: &Slow, name: &str| {
            let began = Instant::now();
            let mut command = Command::new("rm");
            command.arg(name).current_dir(&tree).envs(slow.environment());
            assert!(command.status().await.unwrap().success());
            began.elapsed()
        };
        rm(&slow, "0").await;
        assert_eq!(slow.calls().unwrap(), Calls::default(), "without a delay nothing is counted");

        slow.delay(Duration::from_millis(5)).unwrap();
        let mut command = Command::new("rm");
        command.arg("-r").arg(&tree).envs(slow.environment());
        let began = Instant::now();
        assert!(command.status().await.unwrap().success());
        let calls = slow.calls().unwrap();
        assert_eq!(calls.remove, 30, "29 files and their directory");
        assert!(calls.entries >= 1);
        assert!(began.elapsed() >= Duration::from_millis(5) * 30);

        let other = slow.another().unwrap();
        assert_eq!(other.calls().unwrap(), Calls::default());
    }
}
