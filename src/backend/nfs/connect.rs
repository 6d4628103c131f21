//! NFS volumes on a node: [`NfsConnector`] says how the kernel mounts them. It mounts nothing itself.
//!
//! Version 4 is mounted by the kernel alone; version 3 needs `mount.nfs`, which talks to the server's mount daemon and starts
//! the lock daemon.

use std::{
    collections::BTreeMap,
    net::{IpAddr, ToSocketAddrs as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    backend::{Connection, Connector, Error, Kind, NodeVolume},
    system::{mount::Filesystem, pool::Pool},
    volume::{Mode, Secrets},
};

/// The server's name or address, in the attributes of a volume.
const SERVER: &str = "server";
/// The exported directory.
const SHARE: &str = "share";
/// The volume's directory below it; may be absent.
const SUBDIR: &str = "subDir";

/// Threads that look up names. One that hangs takes one of them.
const RESOLVERS: usize = 8;

/// Versions in the order in which they are tried where the options name none.
const VERSIONS: [&str; 3] = ["4.2", "4.1", "4.0"];

/// Connects NFS volumes.
#[derive(Clone)]
pub struct NfsConnector {
    /// For tests: volumes are bound from this directory, as if it were the root of every server.
    bind_root: Option<PathBuf>,
    names: Pool,
}

/// What the attributes of a volume say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attributes {
    server: String,
    /// The volume's directory on the server.
    path: String,
}

impl NfsConnector {
    /// `bind_root`: bind volumes from this directory instead of mounting them (for tests). A name must be looked up within
    /// `deadline`.
    pub fn new(bind_root: Option<PathBuf>, deadline: Duration) -> Self {
        Self { bind_root, names: Pool::new("nfs-names", RESOLVERS, deadline) }
    }

    async fn address(&self, server: &str) -> Result<IpAddr, Error> {
        let bare = server.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Ok(address);
        }
        let name = bare.to_owned();
        let unavailable =
            |why: String| Error::new(Kind::Unavailable, format!("look up NFS server {server}: {why}"));
        let found = self.names.run(format!("look up {server}"), move || {
            (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|one| one.ip()).next())
        });
        match found.await {
            Ok(Ok(Some(address))) => Ok(address),
            Ok(Ok(None)) => Err(unavailable("it has no address".into())),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(lost) => Err(unavailable(lost.to_string())),
        }
    }
}

#[async_trait]
impl Connector for NfsConnector {
    fn needs_secrets(&self) -> bool {
        false
    }

    fn server(&self, volume: &NodeVolume) -> Result<String, Error> {
        let told = attributes(&volume.context)?;
        Ok(format!("{}:{}", told.server, told.path))
    }

    async fn connect(&self, volume: &NodeVolume, _secrets: &Secrets) -> Result<Connection, Error> {
        if volume.mode == Mode::Block {
            return Err(Error::new(
                Kind::Unsupported,
                "an NFS volume is no block device: use volumeMode Filesystem",
            ));
        }
        let told = attributes(&volume.context)?;
        let ways = if let Some(root) = &self.bind_root {
            let below = PathBuf::from(told.path.trim_start_matches('/'));
            vec![Filesystem::Bind { root: root.clone(), below }]
        } else {
            let asked = Asked::of(&volume.mount_options, volume.read_only);
            let address = if asked.by_program { None } else { Some(self.address(&told.server).await?) };
            ways(&told, &asked, address)
        };
        Ok(Connection { ways, handle: BTreeMap::new() })
    }

    async fn disconnect(&self, _volume: &str, _handle: &BTreeMap<String, String>) -> Result<(), Error> {
        Ok(())
    }
}

fn attributes(context: &BTreeMap<String, String>) -> Result<Attributes, Error> {
    let invalid = |why: String| Error::new(Kind::Invalid, why);
    let of = |key: &str| {
        let value = context.get(key).map(String::as_str).filter(|value| !value.is_empty());
        value.ok_or_else(|| invalid(format!("volume attribute {key} is missing")))
    };
    let server = of(SERVER)?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ',';
    if server.contains(bad) {
        return Err(invalid(format!(
            "volume attribute {SERVER} {server:?} must be a host name or an address"
        )));
    }
    let mut path = path_of(SHARE, of(SHARE)?)?;
    if let Some(below) = context.get(SUBDIR).filter(|below| !below.is_empty()) {
        let below = path_of(SUBDIR, &format!("/{below}"))?;
        path = format!("{}{below}", path.trim_end_matches('/'));
    }
    Ok(Attributes { server: server.to_owned(), path })
}

/// An absolute path without dots, and without slashes that mean nothing.
fn path_of(key: &str, text: &str) -> Result<String, Error> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let dots = text.split('/').any(|part| part == "." || part == "..");
    if !text.starts_with('/')
        || dots
        || text.contains(char::is_control)
        || !Path::new(text).components().all(plain)
    {
        let told =
            format!("volume attribute {key} {text:?} must be a path on the server without '.' and '..'");
        return Err(Error::new(Kind::Invalid, told));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    Ok(format!("/{}", parts.join("/")))
}

/// As the source of a mount has it: an IPv6 address in brackets.
fn host(server: &str) -> String {
    let colons = server.contains(':') && !server.starts_with('[');
    if colons { format!("[{server}]") } else { server.to_owned() }
}

/// What the mount options ask for.
struct Asked {
    options: Vec<String>,
    /// Those of version 4 that may be tried; none for an older version.
    versions: Vec<String>,
    /// The version is one that only the program mounts.
    by_program: bool,
    /// No version was asked for: an older one will do.
    any: bool,
}

impl Asked {
    fn of(options: &[String], read_only: bool) -> Self {
        let split = options.iter().flat_map(|some| some.split(',')).filter(|one| !one.is_empty());
        let mut options: Vec<String> = split.map(str::to_owned).collect();
        if read_only {
            options.push("ro".to_owned());
        }
        let version = options.iter().rev().find_map(|option| match option.as_str() {
            "v3" | "v4" => option.strip_prefix('v'),
            _ => ["vers=", "nfsvers="].iter().find_map(|name| option.strip_prefix(name)),
        });
        let minor = options.iter().find_map(|option| option.strip_prefix("minorversion="));
        let all = || VERSIONS.map(str::to_owned).to_vec();
        let versions = match (version, minor) {
            // As for mount.nfs: the highest minor version that both sides know.
            (None, _) | (Some("4"), None) => all(),
            (Some("4"), Some(minor)) => vec![format!("4.{minor}")],
            (Some(version), _) if version.starts_with("4.") => vec![version.to_owned()],
            (Some(_), _) => Vec::new(),
        };
        let (by_program, any) = (versions.is_empty(), version.is_none());
        Self { options, versions, by_program, any }
    }
}

/// The ways to mount the volume, best first. The kernel needs the address of the server; the program finds it.
fn ways(told: &Attributes, asked: &Asked, address: Option<IpAddr>) -> Vec<Filesystem> {
    let source = format!("{}:{}", host(&told.server), told.path);
    let plain: Vec<String> = asked.options.iter().filter(|option| !is_version(option)).cloned().collect();
    let by_kernel = |address: IpAddr, version: &str| {
        let mut options = plain.clone();
        options.extend([format!("vers={version}"), format!("addr={address}")]);
        if address.is_ipv6() && !options.iter().any(|option| option.starts_with("proto=")) {
            options.push("proto=tcp6".to_owned());
        }
        Filesystem::Kernel { fs_type: "nfs4".to_owned(), source: source.clone(), options }
    };
    let mut ways: Vec<Filesystem> = address
        .into_iter()
        .flat_map(|address| asked.versions.iter().map(move |version| (address, version)))
        .map(|(address, version)| by_kernel(address, version))
        .collect();
    if asked.by_program || asked.any {
        let mut args = vec![source.clone(), "{}".to_owned()];
        if !asked.options.is_empty() {
            args.extend(["-o".to_owned(), asked.options.join(",")]);
        }
        ways.push(Filesystem::Program { program: "mount.nfs".to_owned(), args });
    }
    ways
}

fn is_version(option: &str) -> bool {
    matches!(option, "v3" | "v4")
        || ["vers=", "nfsvers=", "minorversion=", "addr="].iter().any(|name| option.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn attributes_name_a_server_and_a_path() {
        let rows: [(&[(&str, &str)], &str); 4] = [
            (&[("server", "nas"), ("share", "/export")], "nas:/export"),
            (&[("server", "nas"), ("share", "/export/"), ("subDir", "a/b")], "nas:/export/a/b"),
            (&[("server", "nas"), ("share", "/"), ("subDir", "/a")], "nas:/a"),
            (&[("server", "fd00::1"), ("share", "/a//b"), ("other", "x")], "fd00::1:/a/b"),
        ];
        for (given, told) in rows {
            let found = attributes(&context(given)).unwrap();
            assert_eq!(format!("{}:{}", found.server, found.path), told);
        }
        let rows: [(&[(&str, &str)], &str); 7] = [
            (&[("share", "/a")], "server is missing"),
            (&[("server", ""), ("share", "/a")], "server is missing"),
            (&[("server", "nas")], "share is missing"),
            (&[("server", "nas/x"), ("share", "/a")], "must be a host name"),
            (&[("server", "nas,port=1"), ("share", "/a")], "must be a host name"),
            (&[("server", "nas"), ("share", "a")], "without '.' and '..'"),
            (&[("server", "nas"), ("share", "/a"), ("subDir", "../b")], "without '.' and '..'"),
        ];
        for (given, why) in rows {
            let wrong = attributes(&context(given)).unwrap_err();
            assert!(wrong.to_string().contains(why) && wrong.kind() == Kind::Invalid, "{wrong}");
        }
    }

    #[test]
    fn version_4_is_mounted_by_the_kernel_and_version_3_by_its_program() {
        let told = |server: &str, options: &str, read_only| {
            let attributes = Attributes { server: server.to_owned(), path: "/a".to_owned() };
            let address = if server == "nas" { "10.0.0.1" } else { "fd00::1" };
            let asked = Asked::of(&[options.to_owned()], read_only);
            let ways = ways(&attributes, &asked, (!asked.by_program).then(|| address.parse().unwrap()));
            ways.iter().map(Filesystem::told).collect::<Vec<_>>()
        };
        let kernel = |options: &str| format!("nfs4 nas:/a with options {options}");
        assert_eq!(told("nas", "hard,vers=4.1", false), [kernel("hard,vers=4.1,addr=10.0.0.1")]);
        assert_eq!(told("nas", "vers=4,minorversion=1", false), [kernel("vers=4.1,addr=10.0.0.1")]);
        assert_eq!(told("nas", "nfsvers=3,nolock", true), ["mount.nfs nas:/a {} -o nfsvers=3,nolock,ro"]);
        assert_eq!(told("nas", "v3", false), ["mount.nfs nas:/a {} -o v3"]);
        assert_eq!(
            told("nas", "", false),
            [
                kernel("vers=4.2,addr=10.0.0.1"),
                kernel("vers=4.1,addr=10.0.0.1"),
                kernel("vers=4.0,addr=10.0.0.1"),
                "mount.nfs nas:/a {}".to_owned()
            ]
        );
        assert_eq!(told("nas", "vers=4", false).len(), 3, "no older version where 4 is asked for");
        // An option of the PV cannot send the mount to another server.
        assert_eq!(told("nas", "addr=10.9.9.9,vers=4.2", false), [kernel("vers=4.2,addr=10.0.0.1")]);
        assert_eq!(
            told("fd00::1", "vers=4.2", true),
            ["nfs4 [fd00::1]:/a with options ro,vers=4.2,addr=fd00::1,proto=tcp6"]
        );
    }

    #[tokio::test]
    async fn for_tests_a_volume_is_bound_from_a_directory() {
        let connector = NfsConnector::new(Some("/srv".into()), Duration::from_secs(1));
        let mut volume = NodeVolume {
            id: "v".into(),
            context: context(&[("server", "nas"), ("share", "/export"), ("subDir", "a")]),
            mode: Mode::Filesystem,
            fs_type: String::new(),
            mount_options: vec![],
            read_only: false,
        };
        let connected = connector.connect(&volume, &Secrets::default()).await.unwrap();
        let bind = Filesystem::Bind { root: "/srv".into(), below: "export/a".into() };
        assert_eq!(connected.ways, [bind]);
        assert_eq!(connector.server(&volume).unwrap(), "nas:/export/a");
        volume.mode = Mode::Block;
        assert_eq!(
            connector.connect(&volume, &Secrets::default()).await.unwrap_err().kind(),
            Kind::Unsupported
        );
    }

    #[tokio::test]
    async fn addresses_need_no_name_server() {
        let connector = NfsConnector::new(None, Duration::from_secs(1));
        for (server, address) in [("10.0.0.1", "10.0.0.1"), ("[fd00::1]", "fd00::1"), ("fd00::1", "fd00::1")]
        {
            assert_eq!(connector.address(server).await.unwrap(), address.parse::<IpAddr>().unwrap());
        }
    }
}
