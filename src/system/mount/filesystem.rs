//! What can be mounted: [`Filesystem`], and the options of `mount(8)` made into what the kernel takes.

use std::path::PathBuf;

use nix::mount::MsFlags;

/// A file system, and who mounts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filesystem {
    /// The kernel, by itself.
    Kernel {
        /// `nfs4`.
        fs_type: String,
        /// `server:/path`.
        source: String,
        /// As for `mount(8)`.
        options: Vec<String>,
    },
    /// A program that gets the options and the path, and leaves a mount when it ends without an error.
    Program {
        /// Its name.
        program: String,
        /// Its arguments; `{}` stands for the path.
        args: Vec<String>,
    },
    /// A directory of this machine.
    Bind {
        /// The directory in which it lies.
        root: PathBuf,
        /// The way from there, without links.
        below: PathBuf,
    },
}

impl Filesystem {
    /// What it is, for a message.
    pub fn told(&self) -> String {
        match self {
            Self::Kernel { fs_type, source, options } => {
                format!("{fs_type} {source} with options {}", options.join(","))
            }
            Self::Program { program, args } => format!("{program} {}", args.join(" ")),
            Self::Bind { root, below } => format!("directory {}", root.join(below).display()),
        }
    }
}

/// The options of the mount itself by name: what they set, or clear.
const FLAGS: [(&str, MsFlags, bool); 19] = [
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
];

/// What only `mount(8)` and what calls it know.
const OF_PROGRAMS: [&str; 15] = [
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "noowner", "group", "nogroup",
    "_netdev", "nofail", "bg", "fg", "silent",
];

/// The options as the kernel takes them: the flags of the mount, and the text for its file system.
pub(super) fn for_kernel(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut text: Vec<&str> = Vec::new();
    for option in options.iter().flat_map(|some| some.split(',')).filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or(option);
        if let Some((_, flag, set)) = FLAGS.iter().find(|(known, ..)| *known == option) {
            flags.set(*flag, *set);
        } else if !OF_PROGRAMS.contains(&name)
            && !name.starts_with("x-")
            && !matches!(name, "comment" | "retry")
        {
            text.push(option);
        }
    }
    (flags, text.join(","))
}

/// The flags that a mount in the table has, which a second call for it must repeat to keep them.
pub(super) fn flags_of(options: &[String]) -> MsFlags {
    for_kernel(options).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parted_into_flags_and_text() {
        let rows = [
            ("", MsFlags::empty(), ""),
            ("ro,nosuid", MsFlags::MS_RDONLY | MsFlags::MS_NOSUID, ""),
            ("ro,rw", MsFlags::empty(), ""),
            ("vers=4.2,noatime,hard", MsFlags::MS_NOATIME, "vers=4.2,hard"),
            (
                "defaults,_netdev,x-systemd.automount,nofail,retry=3,comment=a,bg,timeo=600",
                MsFlags::empty(),
                "timeo=600",
            ),
            ("nolock,,proto=tcp6,", MsFlags::empty(), "nolock,proto=tcp6"),
        ];
        for (options, flags, text) in rows {
            assert_eq!(for_kernel(&[options.to_owned()]), (flags, text.to_owned()), "{options}");
        }
    }
}
