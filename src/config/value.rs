//! One value with where it was set ([`Setting`]), and the readers of its text. Every refusal becomes a [`ConfigError`].

use std::{fmt, time::Duration};

use crate::volume::{dns, fnv1a, parse_bool, parse_duration};

/// Why the configuration is refused: what was set where, its value, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(&'static str),
    Env(&'static str),
    File { path: String, key: String },
    Default(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File { path, key } => write!(f, "{path}: {key}"),
            Self::Default(flag) => write!(f, "default of {flag}"),
        }
    }
}

/// A value as it was written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Setting {
    pub(super) fn new(text: impl Into<String>, origin: Origin) -> Self {
        Self { text: text.into(), origin }
    }

    /// The refusal of this value; `allowed` completes the sentence.
    pub(super) fn reject(&self, allowed: impl fmt::Display) -> ConfigError {
        ConfigError(format!("{} {:?} {allowed}", self.origin, self.text))
    }

    /// The refusal of this value for the reason that its type gave.
    pub(super) fn invalid(&self, why: &crate::volume::Invalid) -> ConfigError {
        self.reject(&why.why)
    }

    /// Whether nobody set it.
    pub(super) fn is_default(&self) -> bool {
        matches!(self.origin, Origin::Default(_))
    }

    /// A truth value in the syntax of Go's `ParseBool`, which the old images used.
    pub(super) fn bool(&self) -> Result<bool, ConfigError> {
        parse_bool(&self.text)
            .ok_or_else(|| self.reject("must be one of 1 t T true True TRUE 0 f F false False FALSE"))
    }

    /// A duration in Go syntax of at least `least`.
    pub(super) fn duration(&self, least: Duration) -> Result<Duration, ConfigError> {
        let bound = if least.is_zero() { String::new() } else { format!(" of at least {least:?}") };
        let wrong = |why: &str| {
            self.reject(format_args!(
                "{why}must be a duration{bound} in Go syntax, such as 500ms, 30s or 1h30m"
            ))
        };
        match parse_duration(&self.text) {
            Some(duration) if duration >= least => Ok(duration),
            Some(_) => Err(wrong("is too short: it ")),
            None if self.text.parse::<f64>().is_ok() => Err(wrong("has no unit: it ")),
            None => Err(wrong("")),
        }
    }

    /// A count from 1 to `most`.
    pub(super) fn count(&self, most: usize) -> Result<usize, ConfigError> {
        match self.text.parse() {
            Ok(count) if (1..=most).contains(&count) => Ok(count),
            Ok(_) | Err(_) => Err(self.reject(format_args!("must be a whole number from 1 to {most}"))),
        }
    }

    /// The name of a Kubernetes object: a DNS-1123 subdomain.
    pub(super) fn object_name(&self) -> Result<String, ConfigError> {
        if dns::is_subdomain(&self.text) {
            return Ok(self.text.clone());
        }
        Err(self.reject("must be 1 to 253 lower case letters, digits, '-' and '.', beginning and ending with a letter or digit"))
    }

    /// The name of a provisioner, as the API server takes it in a `StorageClass`: after lower-casing, a qualified name, which is
    /// a name of up to 63 characters with or without a DNS subdomain before it.
    pub(super) fn provisioner(&self) -> Result<String, ConfigError> {
        if self.text.starts_with("kubernetes.io/") && self.text != "kubernetes.io/rbd" {
            return Err(self.reject(
                "must not begin with kubernetes.io/: Kubernetes keeps that prefix for itself and would not leave the \
                 volumes to this provisioner; only kubernetes.io/rbd is served, which Kubernetes gave up",
            ));
        }
        let plain = |text: &str| {
            !text.is_empty()
                && text.len() <= 63
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        };
        let lower = self.text.to_lowercase();
        let valid = match lower.split_once('/') {
            Some((prefix, name)) => dns::is_subdomain(prefix) && plain(name),
            None => plain(&lower),
        };
        if valid {
            return Ok(self.text.clone());
        }
        Err(self
            .reject("must be written as in the StorageClass, such as nfs.berth.storage or example.com/nfs"))
    }
}

/// The name of the lock of this provisioner: the one that the old provisioners locked, with `-` for `/`, in lower case.
///
/// Not every provisioner's name makes the name of an object. Where it does not, what is not allowed becomes `-`, and a number
/// made from the whole name keeps two provisioners apart that would meet at one lock.
pub(super) fn lock_name(provisioner: &str) -> String {
    let wanted = provisioner.to_lowercase().replace('/', "-");
    if dns::is_subdomain(&wanted) {
        return wanted;
    }
    let kept = |b: u8| if b.is_ascii_lowercase() || b.is_ascii_digit() { char::from(b) } else { '-' };
    // Without dots no two of them can meet, nor a dot and a dash.
    let plain: String = wanted.bytes().map(kept).collect();
    let number = format!("{:016x}", fnv1a(provisioner.as_bytes()));
    let room = dns::MAX_SUBDOMAIN - number.len() - 1;
    let cut: String = plain.trim_matches('-').chars().take(room).collect();
    format!("{}-{number}", cut.trim_end_matches('-')).trim_start_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Setting {
        Setting::new(text, Origin::Flag("--some-flag"))
    }

    /// Proves: row 2.7
    #[test]
    fn truth_is_written_as_in_go_and_in_no_other_way() {
        for yes in ["1", "t", "T", "true", "True", "TRUE"] {
            assert_eq!(given(yes).bool(), Ok(true));
        }
        for no in ["0", "f", "F", "false", "False", "FALSE"] {
            assert_eq!(given(no).bool(), Ok(false));
        }
        for bad in ["", "yes", "no", "on", "tRUE", "2", " true", "true "] {
            assert!(given(bad).bool().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wrong_duration_says_what_is_wrong_with_it() {
        let least = Duration::from_secs(1);
        let rows = [
            (
                "15",
                "--some-flag \"15\" has no unit: it must be a duration of at least 1s in Go syntax, such as",
            ),
            ("10ms", "--some-flag \"10ms\" is too short: it must be a duration of at least 1s in Go syntax"),
            (
                "soon",
                "--some-flag \"soon\" must be a duration of at least 1s in Go syntax, such as 500ms, 30s",
            ),
        ];
        for (text, message) in rows {
            let wrong = given(text).duration(least).unwrap_err().to_string();
            assert!(wrong.starts_with(message), "{wrong}");
        }
    }

    #[test]
    fn every_provisioner_that_a_class_can_name_has_a_lock_of_a_valid_name() {
        // Those that always had one keep it: two releases must not work side by side.
        for (provisioner, lock) in [
            ("nfs.berth.storage", "nfs.berth.storage"),
            ("fuseim.pri/ifs", "fuseim.pri-ifs"),
            ("k8s-sigs.io/nfs-subdir-external-provisioner", "k8s-sigs.io-nfs-subdir-external-provisioner"),
            ("example.com/NFS", "example.com-nfs"),
            ("Example.com/NFS", "example.com-nfs"),
        ] {
            assert_eq!(lock_name(provisioner), lock);
        }
        // Written down, since the next release must find it.
        assert_eq!(lock_name("example.com/Nfs_1"), "example-com-nfs-1-61f4165afa667d1c");
        let long = format!("{}.example.com/{}", ["a".repeat(60).as_str(); 3].join("."), "n".repeat(63));
        let odd =
            ["example.com/a_b", "example.com/a-_b", "example.com/a..b", "example.com/a.-b", "a__b", &long];
        let mut locks = std::collections::BTreeSet::new();
        for provisioner in odd {
            assert!(given(provisioner).provisioner().is_ok(), "{provisioner}");
            let lock = lock_name(provisioner);
            assert!(dns::is_subdomain(&lock), "{provisioner}: {lock}");
            assert!(locks.insert(lock), "{provisioner} shares its lock");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_class_can_name_has_a_lock_of_a_valid_name(
            name in "([A-Za-z0-9]([-a-zA-Z0-9]{0,61}[A-Za-z0-9])?(\\.[a-z0-9]{1,63}){0,3}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
        ) {
            proptest::prop_assume!(given(&name).provisioner().is_ok());
            proptest::prop_assert!(dns::is_subdomain(&lock_name(&name)), "{}", lock_name(&name));
        }
    }

    /// Proves: row 5.13
    #[test]
    fn provisioner_names_are_those_that_a_class_can_hold() {
        for good in [
            "nfs.berth.storage",
            "k8s-sigs.io/nfs-subdir-external-provisioner",
            "fuseim.pri/ifs",
            "cluster.local/nfs-client-nfs-client-provisioner",
            "example.com/Nfs_1",
            "kubernetes.io/rbd",
            "Example.com/NFS",
            "NFS",
            "EXAMPLE.COM/a_b.c-d",
        ] {
            assert_eq!(given(good).provisioner().as_deref(), Ok(good));
        }
        for bad in [
            "",
            "a/b/c",
            "example..com/nfs",
            "exa_mple.com/nfs",
            "example.com/",
            "/nfs",
            "a b",
            "kubernetes.io/nfs",
            "nfs-",
        ] {
            assert!(given(bad).provisioner().is_err(), "{bad:?}");
        }
    }
}
