//! One configured export: [`Export`], and where a PV's server and path lie in it. Pure; opens nothing.

use std::{
    net::IpAddr,
    path::{Component, PathBuf},
    time::Duration,
};

use super::path_pattern;
use crate::{
    backend::{Error, Kind},
    volume::{Location, RelativePath, Source, VolumeId, VolumeName},
};

/// The backend's name in volume ids and metrics.
pub const NAME: &str = "nfs";

/// An NFS export as configured: what PVs call it, and where it is mounted in this process's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name for ever, a part of volume ids: lower case letters, digits, `-`.
    pub name: String,
    /// Host name or address of the server, copied to new PVs as it is.
    pub server: String,
    /// Other names and addresses of the same server, as older PVs may spell it.
    pub aliases: Vec<String>,
    /// The exported path on the server; the prefix of the paths of PVs.
    pub path: String,
    /// Paths under which older PVs name the same directory.
    pub former_paths: Vec<String>,
    /// Where the export is mounted here.
    pub root: PathBuf,
    /// Whether `root` must be a mount point.
    pub require_mount: bool,
    /// After how long a file operation is given up with [`Kind::Unavailable`].
    pub deadline: Duration,
    /// How many file operations run at a time.
    pub threads: usize,
}

impl Export {
    /// The path of the volume on the server, as its PV says it.
    pub(super) fn path_of(&self, path: &RelativePath) -> String {
        split(&self.path).chain(path.iter().map(String::as_str)).flat_map(|name| ["/", name]).collect()
    }

    /// Where `source` lies in this export, and strictly below its root.
    pub(super) fn locate(&self, source: &Source) -> Option<Location> {
        let Source::Nfs { server, path } = source else { return None };
        if !self.is_server(server) {
            return None;
        }
        // The longest of the paths decides: a former path may lie below another one.
        let bases = std::iter::once(&self.path).chain(&self.former_paths);
        let rest = bases.filter_map(|base| beneath(base, path)).min_by_key(Vec::len)?;
        let path = path_pattern::checked(&rest.join("/")).ok()?;
        // `checked` drops what is empty, and nothing else: no other path may come out than went in.
        (*path == *rest).then(|| Location { store: self.name.clone(), path })
    }

    /// Whether this is the server, by its name, its address or an alias.
    pub(super) fn is_server(&self, server: &str) -> bool {
        std::iter::once(&self.server).chain(&self.aliases).any(|own| same_server(own, server))
    }

    /// Whether `share` is the exported path or a former one.
    pub(super) fn is_share(&self, share: &str) -> bool {
        std::iter::once(&self.path).chain(&self.former_paths).any(|own| split(own).eq(split(share)))
    }

    fn check(&self) -> Result<(), Error> {
        let name = &self.name;
        let wrong = |why: String| Err(Error::new(Kind::Invalid, format!("export {name:?}: {why}")));
        let longest = VolumeName::for_claim(&"0".repeat(36))?;
        if let Err(error) = VolumeId::new(NAME, name, longest) {
            return wrong(format!(
                "the name must be lower case letters, digits and '-', and short enough for a volume id: {error}"
            ));
        }
        for server in std::iter::once(&self.server).chain(&self.aliases) {
            if server.is_empty() || server.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
            {
                return wrong(format!("the server {server:?} must be a host name or an address"));
            }
        }
        for path in std::iter::once(&self.path).chain(&self.former_paths) {
            let bad = |s: &str| s == "." || s == ".." || s.contains(char::is_control);
            if !path.starts_with('/') || split(path).any(bad) || path.len() > path_pattern::MAX_PATH_BYTES {
                return wrong(format!(
                    "the path {path:?} must be absolute, without '.', '..' or control characters"
                ));
            }
        }
        if !self.root.is_absolute() || self.root.components().any(|c| c == Component::ParentDir) {
            return wrong(format!("the root {} must be an absolute path without '..'", self.root.display()));
        }
        if self.deadline.is_zero() {
            return wrong("the operation timeout must be longer than zero".into());
        }
        if self.threads == 0 {
            return wrong("there must be at least one thread".into());
        }
        Ok(())
    }

    fn overlaps(&self, other: &Self) -> Option<String> {
        let own = || std::iter::once(&self.path).chain(&self.former_paths);
        let others = || std::iter::once(&other.path).chain(&other.former_paths);
        let servers = std::iter::once(&other.server).chain(&other.aliases);
        if let Some(server) = servers.into_iter().find(|server| self.is_server(server)) {
            for a in own() {
                for b in others() {
                    if beneath(a, b).is_some() || beneath(b, a).is_some() {
                        return Some(format!(
                            "{server}:{a} and {server}:{b} are the same or within one another"
                        ));
                    }
                }
            }
        }
        if self.root.starts_with(&other.root) || other.root.starts_with(&self.root) {
            let (a, b) = (self.root.display(), other.root.display());
            return Some(format!("the roots {a} and {b} are the same or within one another"));
        }
        None
    }
}

/// Checks every export and that no two of them could claim the same volume.
pub fn check(exports: &[Export]) -> Result<(), Error> {
    if exports.is_empty() {
        return Err(Error::new(Kind::Invalid, "no export is configured"));
    }
    for (index, export) in exports.iter().enumerate() {
        export.check()?;
        for earlier in exports.iter().take(index) {
            if earlier.name == export.name {
                let message = format!("two exports have the name {:?}", export.name);
                return Err(Error::new(Kind::Invalid, message));
            }
            if let Some(why) = earlier.overlaps(export) {
                let message = format!("exports {:?} and {:?} overlap: {why}", earlier.name, export.name);
                return Err(Error::new(Kind::Invalid, message));
            }
        }
    }
    Ok(())
}

/// The exports in words, for an error that should say what there is.
pub(super) fn listed(exports: &[Export]) -> String {
    let one = |e: &Export| format!("{} ({}:{})", e.name, e.server, e.path);
    exports.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn split(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The path of `path` below `base`; `None` where it does not lie there.
fn beneath(base: &str, path: &str) -> Option<Vec<String>> {
    if !path.starts_with('/') {
        return None;
    }
    let mut rest = split(path);
    for segment in split(base) {
        if rest.next() != Some(segment) {
            return None;
        }
    }
    Some(rest.map(String::from).collect())
}

/// Whether two texts name one server: equal addresses, or equal host names without regard to case and a final dot.
fn same_server(a: &str, b: &str) -> bool {
    let bare = |text: &str| -> String {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        inner.strip_suffix('.').unwrap_or(inner).to_ascii_lowercase()
    };
    let (a, b) = (bare(a), bare(b));
    match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        (Err(_), Err(_)) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nfs::tests::export;

    fn source(server: &str, path: &str) -> Source {
        Source::Nfs { server: server.into(), path: path.into() }
    }

    /// Proves: row 2.2, statement 7
    #[test]
    fn an_export_path_with_and_without_slashes_gives_the_same_volume_path_and_is_found_again() {
        let rows: &[(&str, &str)] = &[
            ("/", "/ns-c-pvc-1"),
            ("//", "/ns-c-pvc-1"),
            ("/export", "/export/ns-c-pvc-1"),
            ("/export/", "/export/ns-c-pvc-1"),
            ("//export//", "/export/ns-c-pvc-1"),
        ];
        for (base, path) in rows {
            let export = export("default", "server", base);
            let below: RelativePath = "ns-c-pvc-1".parse().unwrap();
            assert_eq!(&export.path_of(&below), path, "{base}");
            for spelt in [path.to_string(), format!("{path}/"), path.replace('/', "//")] {
                let found = export.locate(&source("server", &spelt)).unwrap();
                assert_eq!(found.path, below, "{base} {spelt}");
            }
        }
    }

    /// Proves: row 2.1, statement 8
    #[test]
    fn a_volume_is_found_by_server_alias_and_former_path_and_nowhere_else() {
        let export = Export {
            aliases: vec!["10.0.0.1".into(), "fd00::1".into()],
            former_paths: vec!["/old/exports".into()],
            ..export("default", "NFS.example.org", "/export")
        };
        let rows: &[(&str, &str, &str, Option<&str>)] = &[
            ("the server itself", "NFS.example.org", "/export/a", Some("a")),
            ("host names have no case", "nfs.example.org.", "/export/a/b", Some("a/b")),
            ("an address as alias", "10.0.0.1", "/export/a", Some("a")),
            ("an IPv6 address in another spelling", "[FD00:0::1]", "/export/a", Some("a")),
            ("a former path", "10.0.0.1", "/old/exports/a", Some("a")),
            ("another server", "10.0.0.2", "/export/a", None),
            ("another path", "10.0.0.1", "/other/a", None),
            ("a path that only begins alike", "10.0.0.1", "/exported/a", None),
            ("the export itself", "10.0.0.1", "/export/", None),
            ("above the export", "10.0.0.1", "/", None),
            ("a way up", "10.0.0.1", "/export/../etc", None),
            ("a dot", "10.0.0.1", "/export/./a", None),
            ("no absolute path", "10.0.0.1", "export/a", None),
            ("our own records", "10.0.0.1", "/export/.berth/trash/x", None),
        ];
        for (why, server, path, expected) in rows {
            let found = export.locate(&source(server, path)).map(|p| p.path.to_string());
            assert_eq!(found.as_deref(), *expected, "{why}");
        }
    }

    type Change = fn(&mut Export);

    #[test]
    fn exports_that_could_claim_the_same_volume_are_refused() {
        let base = || export("one", "server", "/export");
        let other = || export("two", "other", "/export");
        let rows: &[(&str, Change, &str)] = &[
            ("the same name", |e| e.name = "one".into(), "two exports have the name"),
            ("the same server and path", |e| e.server = "SERVER".into(), "overlap"),
            (
                "within the other",
                |e| (e.server, e.path) = ("server".into(), "/export/sub/".into()),
                "overlap",
            ),
            ("above the other", |e| (e.server, e.path) = ("server".into(), "/".into()), "overlap"),
            ("the same by an alias", |e| e.aliases = vec!["server".into()], "overlap"),
            (
                "the same by a former path",
                |e| {
                    (e.server, e.path, e.former_paths) =
                        ("server".into(), "/x".into(), vec!["/export".into()]);
                },
                "overlap",
            ),
            ("the same root", |e| e.root = "/mnt/one".into(), "the roots"),
            ("a root within the other", |e| e.root = "/mnt/one/sub".into(), "the roots"),
            ("a name that no id can hold", |e| e.name = "Two".into(), "lower case"),
            ("a name that is too long for an id", |e| e.name = "x".repeat(90), "128 bytes"),
            ("no server", |e| e.server = String::new(), "server"),
            ("a relative path", |e| e.path = "export".into(), "absolute"),
            ("a way up in the path", |e| e.path = "/a/../b".into(), "absolute"),
            ("a relative root", |e| e.root = "mnt".into(), "absolute"),
            ("no time", |e| e.deadline = Duration::ZERO, "longer than zero"),
            ("no thread", |e| e.threads = 0, "at least one"),
        ];
        for (why, change, message) in rows {
            let mut second = other();
            change(&mut second);
            let error = check(&[base(), second]).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{why}");
            assert!(error.to_string().contains(message), "{why}: {error}");
        }
        assert!(check(&[]).is_err());
        check(&[base(), other()]).unwrap();
        check(&[base(), export("two", "server", "/exports")]).unwrap();
    }
}
