//! The NFS exports: those of the file, and the one called `default` of the flags and the environment.
//!
//! Flags and environment describe the export `default`: they win, field by field, over an entry of that name in the file
//! and leave the other entries alone. What only all exports together can show (two that overlap) is checked by the backend
//! that gets them.

use std::{path::PathBuf, time::Duration};

use super::{
    file::ExportInFile,
    server,
    settings::{self, MOST_WORKERS, MOUNT_POINT, SettingSpec},
    sources::Sources,
    value::{ConfigError, Origin, Setting},
};
use crate::{backend::nfs::Export, volume::StoreName};

/// The export that the flags and the environment describe.
pub(super) const DEFAULT: &str = "default";

/// What holds for every export that does not say otherwise.
pub(super) struct Common {
    pub(super) deadline: Duration,
    pub(super) threads: usize,
}

/// One export as far as it was described.
struct Described {
    name: String,
    server: Option<Setting>,
    path: Option<Setting>,
    root: Option<Setting>,
    /// The entry's place in the file, for messages.
    place: Option<usize>,
    file: ExportInFile,
}

/// Makes the exports of the flags, the environment and the file; names what is missing. `needed`: there must be one.
pub(super) fn exports(
    sources: &Sources<'_>,
    needed: bool,
    common: &Common,
    missing: &mut Vec<String>,
) -> Result<Vec<Export>, ConfigError> {
    let mut described = Vec::new();
    for (index, entry) in sources.file.exports.iter().cloned().enumerate() {
        described.push(in_file(sources, index, entry)?);
    }
    let server = sources.given(&settings::NFS_SERVER)?;
    let path = sources.given(&settings::NFS_PATH)?;
    let root = sources.given(&settings::EXPORT_ROOT)?;
    let wanted = server.is_some() || path.is_some() || needed && described.is_empty();
    if let Some(entry) = described.iter_mut().find(|entry| entry.name == DEFAULT) {
        entry.server = server.or(entry.server.take());
        entry.path = path.or(entry.path.take());
        entry.root = root.or(entry.root.take());
    } else if wanted {
        let entry = Described {
            name: DEFAULT.into(),
            server,
            path,
            root,
            place: None,
            file: ExportInFile::default(),
        };
        described.insert(0, entry);
    } else if let Some(root) = root.filter(|_| needed) {
        return Err(root.reject(format_args!(
            "says where the export {DEFAULT:?} is mounted, but there is no such export: write the root of each export \
             into the file, or name the server and the path by {} and {}",
            settings::NFS_SERVER.flag, settings::NFS_PATH.flag
        )));
    }
    let mut exports = Vec::new();
    for entry in described {
        exports.extend(ready(sources, entry, common, missing)?);
    }
    Ok(exports)
}

fn in_file(sources: &Sources<'_>, index: usize, mut entry: ExportInFile) -> Result<Described, ConfigError> {
    let given = |key: &str, text: Option<String>| {
        text.map(|text| Setting::new(text, sources.in_file(format!("exports[{index}].{key}"))))
    };
    let (server, path, root) = (entry.server.take(), entry.path.take(), entry.root.take());
    let name = match given("name", entry.name.take()) {
        None => DEFAULT.to_owned(),
        Some(name) => {
            name.text.parse::<StoreName>().map_err(|error| name.invalid(&error))?;
            name.text
        }
    };
    Ok(Described {
        name,
        server: given("server", server),
        path: given("path", path),
        root: given("root", root),
        place: Some(index),
        file: entry,
    })
}

/// The export, or `None` where something is missing, which is then named in `missing`.
fn ready(
    sources: &Sources<'_>,
    described: Described,
    common: &Common,
    missing: &mut Vec<String>,
) -> Result<Option<Export>, ConfigError> {
    let Described { name, server, path, root, place, file } = described;
    let ExportInFile {
        name: _,
        server: _,
        path: _,
        root: _,
        aliases,
        former_paths,
        require_mount,
        operation_timeout,
        threads,
    } = file;
    let key = |key: &str| match place {
        Some(index) => sources.in_file(format!("exports[{index}].{key}")),
        None => Origin::Default(""),
    };
    let mut absent = |name_of: &SettingSpec, what: &str| {
        missing.push(match place {
            Some(index) if name != DEFAULT => format!("exports[{index}].{what} in the file"),
            Some(index) => {
                format!("exports[{index}].{what} in the file, {} or {}", name_of.flag, name_of.env)
            }
            None => format!("{} or {}", name_of.flag, name_of.env),
        });
    };
    if server.is_none() {
        absent(&settings::NFS_SERVER, "server");
    }
    if path.is_none() {
        absent(&settings::NFS_PATH, "path");
    }
    let (Some(server), Some(path)) = (server, path) else { return Ok(None) };
    let (server, path) = (host(&server)?, exported(&path)?);
    let root = match root {
        Some(root) => mounted(&root)?,
        None if name == DEFAULT => PathBuf::from(MOUNT_POINT),
        None => PathBuf::from(MOUNT_POINT).join(&name),
    };
    let list = |texts: Option<Vec<String>>, name: &str| -> Vec<Setting> {
        let texts = texts.unwrap_or_default().into_iter().enumerate();
        texts.map(|(index, text)| Setting::new(text, key(&format!("{name}[{index}]")))).collect()
    };
    let aliases = list(aliases, "aliases").iter().map(host).collect::<Result<_, _>>()?;
    let former_paths = list(former_paths, "formerPaths").iter().map(exported).collect::<Result<_, _>>()?;
    let require_mount = match require_mount {
        Some(text) => Setting::new(text, key("requireMount")).bool()?,
        // Whoever moved the root elsewhere may mean a plain directory; at the images' mount point nobody does.
        None => root.starts_with(MOUNT_POINT),
    };
    let deadline = match operation_timeout {
        Some(text) => Setting::new(text, key("operationTimeout")).duration(Duration::from_millis(1))?,
        None => common.deadline,
    };
    let threads = match threads {
        Some(text) => Setting::new(text, key("threads")).count(MOST_WORKERS)?,
        None => common.threads,
    };
    Ok(Some(Export { name, server, aliases, path, former_paths, root, require_mount, deadline, threads }))
}

/// The name or address of a server. It is copied to PVs as it is.
fn host(given: &Setting) -> Result<String, ConfigError> {
    server::check(&given.text).map_err(|why| given.reject(why))?;
    Ok(given.text.clone())
}

/// A path on the server, without slashes that mean nothing.
fn exported(given: &Setting) -> Result<String, ConfigError> {
    let trimmed = given.text.trim();
    if trimmed != given.text && trimmed.starts_with('/') {
        return Err(given.reject(format_args!("has blanks around it: write {trimmed}")));
    }
    let segments: Vec<&str> = given.text.split('/').filter(|segment| !segment.is_empty()).collect();
    let bad = |segment: &&str| matches!(*segment, "." | "..") || segment.contains(char::is_control);
    if !given.text.starts_with('/') || segments.iter().any(bad) {
        return Err(
            given.reject("must be an absolute path on the server, such as /export, without '.' and '..'")
        );
    }
    Ok(format!("/{}", segments.join("/")))
}

/// A path in this file system.
fn mounted(given: &Setting) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(&given.text);
    let dots = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
    if !path.is_absolute() || dots || given.text.contains(char::is_control) {
        return Err(given.reject("must be the absolute path where the export is mounted, without '..'"));
    }
    Ok(path)
}
