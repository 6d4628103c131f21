//! The mounts of this process, as `/proc/self/mountinfo` lists them: [`Table`]. Pure; asks no mounted file system anything.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// What is mounted, independent of where: two mounts of one volume have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mounted {
    /// The device number of the file system, `major:minor`.
    pub device: String,
    /// What of the file system is visible: `/`, or the directory that was bound.
    pub root: PathBuf,
    /// `nfs4`, `ext4`, …
    pub fs_type: String,
    /// What the file system came from: `server:/path`, a device.
    pub source: String,
}

impl fmt::Display for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}, root {})", self.fs_type, self.source, self.device, self.root.display())
    }
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number in this table.
    pub id: u64,
    /// What is mounted.
    pub what: Mounted,
    /// Where.
    pub point: PathBuf,
    /// The options of this mount, whatever those of its file system are: `rw`, `nosuid`, …
    pub options: Vec<String>,
}

/// All mounts, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(Vec<Mount>);

impl Table {
    /// Reads the text of `mountinfo`. A line that is not understood is an error: what it says might be what is asked for.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mounts = lines.map(|line| {
            Mount::parse(line)
                .ok_or_else(|| format!("a line of mountinfo: {}", String::from_utf8_lossy(line)))
        });
        mounts.collect::<Result<_, _>>().map(Self)
    }

    /// What is mounted at exactly this path, the lowest first.
    pub fn at<'a>(&'a self, point: &'a Path) -> impl DoubleEndedIterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| mount.point == point)
    }

    /// What is seen at this path, if it is a mount point.
    pub fn top(&self, point: &Path) -> Option<&Mount> {
        self.0.iter().rev().find(|mount| mount.point == point)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut next = || fields.next();
        let id = text(next()?).parse().ok()?;
        let _parent = u64::from_str(&text(next()?)).ok()?;
        let device = text(next()?);
        let root = PathBuf::from(unescaped(next()?));
        let point = PathBuf::from(unescaped(next()?));
        let options = text(next()?);
        // Any number of optional fields, up to a dash.
        while next()? != b"-" {}
        let fs_type = text(&unescaped(next()?).into_vec());
        let source = text(&unescaped(next()?).into_vec());
        device.split_once(':')?;
        let options = options.split(',').map(str::to_owned).collect();
        Some(Self { id, what: Mounted { device, root, fs_type, source }, point, options })
    }

    /// Whether nothing can be written through this mount.
    pub fn read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Spaces, tabs, line ends and backslashes are written as `\` and three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    /// As the kernel writes a path into the table.
    fn escaped(path: &Path) -> Vec<u8> {
        let escape = |byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        };
        path.as_os_str().as_bytes().iter().flat_map(escape).collect()
    }

    const TEXT: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
36 22 0:44 / /var/lib/kubelet/a\\040b rw,nosuid master:3 propagate_from:2 shared:9 - nfs4 nas:/exports/a\\040b rw,vers=4.2\n\
37 22 0:44 /sub /mnt/x ro,relatime - nfs4 [fd00::1]:/x rw\n\
38 37 0:45 / /mnt/x rw - tmpfs tmpfs rw,size=4k\n\
39 22 0:46 / /mnt/none rw -  none rw\n";

    #[test]
    fn the_table_is_read_with_its_escapes_and_optional_fields() {
        let table = Table::parse(TEXT).unwrap();
        let spaced = table.top(Path::new("/var/lib/kubelet/a b")).unwrap();
        assert_eq!(spaced.what.source, "nas:/exports/a b");
        assert_eq!((spaced.id, spaced.what.device.as_str(), spaced.read_only()), (36, "0:44", false));
        let stacked: Vec<u64> = table.at(Path::new("/mnt/x")).map(|mount| mount.id).collect();
        assert_eq!(stacked, [37, 38], "the lowest first");
        assert_eq!(table.top(Path::new("/mnt/x")).unwrap().what.fs_type, "tmpfs");
        assert!(table.at(Path::new("/mnt/x")).next().unwrap().read_only());
        assert_eq!(table.at(Path::new("/mnt/x")).next().unwrap().what.root, Path::new("/sub"));
        assert!(table.top(Path::new("/mnt")).is_none(), "only exact paths");
        assert_eq!(table.iter().count(), 5);
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        for bad in
            [&b"x"[..], b"22 1 254 / / rw - ext4 a b", b"22 1 254:0 / / rw ext4 a b", b"22 1 254:0 / / rw -"]
        {
            let wrong = Table::parse(bad).unwrap_err();
            assert!(wrong.starts_with("a line of mountinfo"), "{wrong}");
        }
        assert_eq!(Table::parse(b"").unwrap(), Table::default());
    }

    #[test]
    fn the_table_of_this_process_is_understood() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        assert!(Table::parse(&text).unwrap().top(Path::new("/")).is_some());
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_path_is_it_is_read_as_it_was(name in "[^/\\x00]{1,40}") {
            let path = Path::new("/").join(&name);
            let line = [b"1 2 0:3 / ".as_slice(), &escaped(&path), b" rw - tmpfs x rw"].concat();
            let table = Table::parse(&line).unwrap();
            proptest::prop_assert_eq!(&table.iter().next().unwrap().point, &path);
        }

        #[test]
        fn no_text_makes_it_panic(text: Vec<u8>) {
            let _ = Table::parse(&text);
        }
    }
}
