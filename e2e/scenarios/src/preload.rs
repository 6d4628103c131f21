//! Small C libraries that are loaded into a program before the C library (`LD_PRELOAD`), and stand in for a slow or a hanging
//! NFS server.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// Compiles the library `name` from `source` into `dir`. `CC` names the compiler, else it is `cc`.
pub(crate) async fn compile(dir: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let file = dir.join(format!("{name}.c"));
    let library = dir.join(format!("{name}.so"));
    std::fs::write(&file, source).with_context(|| format!("write {}", file.display()))?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(&compiler)
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&file)
        .arg("-ldl")
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("run the C compiler {}", compiler.display()))?;
    if !output.status.success() {
        bail!("the C compiler ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(library)
}
