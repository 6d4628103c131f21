//! A call of one program that its file server does not carry out yet: [`Held`].

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::preload;

const SOURCE: &str = include_str!("held.c");

/// The compiled library, and the directory by which it is told what to do.
#[derive(Debug)]
pub struct Held {
    library: PathBuf,
    directory: PathBuf,
}

impl Held {
    /// Compiles the library into `dir`, for one program.
    pub async fn build(dir: &Path) -> Result<Self> {
        let library = preload::compile(dir, "held", SOURCE).await?;
        let directory = dir.join("held");
        std::fs::create_dir(&directory).context("make the directory of the held call")?;
        Ok(Self { library, directory })
    }

    /// What the environment of the program must hold.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("LD_PRELOAD", self.library.clone().into_os_string()),
            ("BERTH_HELD", self.directory.clone().into_os_string()),
        ]
    }

    /// Holds the next move of what is called `name`, and no other one.
    pub fn hold(&self, name: &str) -> Result<()> {
        let aside = self.directory.join("aside");
        std::fs::write(&aside, name).context("write what is to be held")?;
        std::fs::rename(&aside, self.directory.join("wanted")).context("say what is to be held")
    }

    /// Succeeds once the move is held.
    pub fn reached(&self) -> Result<()> {
        ensure!(self.directory.join("reached").exists(), "nothing is held");
        Ok(())
    }

    /// Lets the move be carried out.
    pub fn release(&self) -> Result<()> {
        std::fs::remove_file(self.directory.join("wanted")).context("release what is held")
    }
}
