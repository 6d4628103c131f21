//! Directories on NFS exports that are mounted here: [`Nfs`], made from [`Export`]s.
//!
//! Volumes are plain directories, named as nfs-subdir-external-provisioner names them. Our records lie beside them in
//! `.berth` at the export's root. This code mounts nothing and speaks no NFS: it needs a mounted directory.

mod class;
mod export;

pub use class::PARAMETERS;
pub use export::Export;

use crate::backend::Error;

/// The backend's name in volume ids and metrics.
pub const NAME: &str = "nfs";

/// The backend. Opens nothing until it is asked for something.
#[derive(Debug)]
pub struct Nfs {
    exports: Vec<Export>,
}

impl Nfs {
    /// A backend over these exports; the first is used where a class names none. Checks what can be checked without
    /// touching them: names, servers, paths, and that no two overlap.
    pub fn new(exports: Vec<Export>) -> Result<Self, Error> {
        export::check(&exports)?;
        Ok(Self { exports })
    }
}
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    pub(super) fn export(name: &str, server: &str, path: &str) -> Export {
        Export {
            name: name.into(),
            server: server.into(),
            aliases: Vec::new(),
            path: path.into(),
            former_paths: Vec::new(),
            root: format!("/mnt/{name}").into(),
            require_mount: false,
            deadline: Duration::from_secs(30),
            threads: 4,
        }
    }
}
