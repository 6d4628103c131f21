//! The class parameters of the NFS backend: [`PARAMETERS`], and [`plan`], which reads them for one claim. Pure.

use std::collections::BTreeMap;

use super::{
    export::{Export, listed},
    path_pattern::{self, Missing, Pattern},
};
use crate::{
    backend::{Error, Inspection, Kind, Parameter, parameter_table},
    volume::{Location, Mode, VolumeRequest},
};

/// Every class parameter that the backend reads.
pub const PARAMETERS: &[Parameter] = parameter_table! {
    "pathPattern": "text with ${.PVC.name}, ${.PVC.namespace}, ${.PVC.labels.KEY}, ${.PVC.annotations.KEY}, ${.PV.name}" = "<namespace>-<claim>-<volume>";
        "Names the volume's directory below the export; slashes nest.";
    "pathPatternMissing": "refuse, empty" = "refuse";
        "What happens where the claim lacks a label or annotation of pathPattern: the claim is refused, or the \
                 token becomes empty as with nfs-subdir-external-provisioner.";
    "existingDirectory": "refuse, adopt, share" = "refuse";
        "What happens where the directory exists already and has content: the claim is refused; the directory \
                 is used if it is no other volume's; or it is used even together with other volumes. An adopted \
                 directory keeps its mode and owner and is never deleted, at most archived.";
    "mode": "octal, 0 to 7777" = "0777";
        "Mode of a new directory.";
    "uid": "0 to 4294967294" = "the user that berth is for the server";
        "Owner of a new directory.";
    "gid": "0 to 4294967294" = "the group that berth is for the server";
        "Group of a new directory.";
    "export": "the name of a configured export" = "the first configured export";
        "The export on which volumes are made.";
    "server": "the server of a configured export, or an alias of it" = "as export says";
        "With share: another way to name the export, as csi-driver-nfs does it.";
    "share": "the path of a configured export" = "as export says";
        "With server: another way to name the export, as csi-driver-nfs does it.";
};

/// What becomes of a directory that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Refuse,
    Adopt,
    Share,
}

/// What a class asks for, for one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) place: Location,
    /// Whether the directory's name holds the volume's: nobody but this claim's earlier attempts can have made it.
    pub(super) unique: bool,
    pub(super) existing: Existing,
    pub(super) mode: u32,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// Reads the parameters of `request`.
pub(super) fn plan(exports: &[Export], request: &VolumeRequest) -> Result<Plan, Error> {
    if request.mode == Mode::Block {
        return Err(Error::new(
            Kind::Unsupported,
            "an NFS export has directories, not raw devices; set volumeMode to Filesystem",
        ));
    }
    let parameters = &request.parameters;
    let export = export(exports, parameters)?;
    let missing = choice(
        parameters,
        "pathPatternMissing",
        &[("refuse", Missing::Refuse), ("empty", Missing::Empty)],
        Missing::Refuse,
    )?;
    let existing = choice(
        parameters,
        "existingDirectory",
        &[("refuse", Existing::Refuse), ("adopt", Existing::Adopt), ("share", Existing::Share)],
        Existing::Refuse,
    )?;
    let default = path_pattern::default_directory(&request.claim, &request.name);
    let (path, unique) = match parameters.get(PATTERN).filter(|pattern| !pattern.is_empty()) {
        None => (default?, true),
        Some(pattern) => {
            let path = Pattern::parse(pattern)?.expand(&request.claim, &request.name, missing)?;
            let unique = default.is_ok_and(|default| default == path);
            (path, unique)
        }
    };
    let whole = export.path_of(&path);
    if whole.len() > path_pattern::MAX_PATH_BYTES {
        let message = format!(
            "the path on the server has {} bytes; file systems take {}",
            whole.len(),
            path_pattern::MAX_PATH_BYTES
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(Plan {
        place: Location { store: export.name.clone(), path },
        unique,
        existing,
        mode: mode(parameters)?,
        uid: number(parameters, "uid")?,
        gid: number(parameters, "gid")?,
    })
}

/// What the class says before any claim uses it.
pub(super) fn inspect(parameters: &Parameters) -> Inspection {
    let pattern = parameters.get(PATTERN).and_then(|text| Pattern::parse(text).ok());
    pattern.map(|pattern| pattern.inspect()).unwrap_or_default()
}

type Parameters = BTreeMap<String, String>;

const PATTERN: &str = "pathPattern";

fn export<'a>(exports: &'a [Export], parameters: &Parameters) -> Result<&'a Export, Error> {
    let unknown = |what: String| {
        let message = format!("{what} is not configured; there are the exports {}", listed(exports));
        Err(Error::new(Kind::Invalid, message))
    };
    let named = match parameters.get("export") {
        None => None,
        Some(name) => match exports.iter().find(|e| e.name == *name) {
            Some(export) => Some(export),
            None => return unknown(format!("parameter export: {name:?}")),
        },
    };
    let addressed = match (parameters.get("server"), parameters.get("share")) {
        (None, None) => None,
        (Some(server), Some(share)) => {
            match exports.iter().find(|e| (e.is_server(server) || e.name == *server) && e.is_share(share)) {
                Some(export) => Some(export),
                None => return unknown(format!("parameters server and share: {server}:{share}")),
            }
        }
        (Some(_), None) | (None, Some(_)) => {
            let message = "parameters server and share belong together; set both, or export, or none";
            return Err(Error::new(Kind::Invalid, message));
        }
    };
    match (named, addressed) {
        (Some(a), Some(b)) if a.name != b.name => Err(Error::new(
            Kind::Invalid,
            format!(
                "parameter export names {:?}, but server and share name {:?}; set one of both",
                a.name, b.name
            ),
        )),
        (Some(export), _) | (None, Some(export)) => Ok(export),
        (None, None) => exports.first().ok_or_else(|| Error::new(Kind::Invalid, "no export is configured")),
    }
}

fn choice<T: Copy>(
    parameters: &Parameters,
    name: &str,
    values: &[(&str, T)],
    default: T,
) -> Result<T, Error> {
    let Some(value) = parameters.get(name) else { return Ok(default) };
    values.iter().find(|(text, _)| text == value).map(|(_, value)| *value).ok_or_else(|| {
        let allowed = values.iter().map(|(text, _)| *text).collect::<Vec<_>>().join(", ");
        Error::new(Kind::Invalid, format!("parameter {name}: {value:?} must be one of {allowed}"))
    })
}

fn mode(parameters: &Parameters) -> Result<u32, Error> {
    let Some(value) = parameters.get("mode") else { return Ok(0o777) };
    let octal = value.len() <= 5 && !value.is_empty() && value.bytes().all(|b| (b'0'..=b'7').contains(&b));
    octal.then(|| u32::from_str_radix(value, 8).ok()).flatten().filter(|mode| *mode <= 0o7777).ok_or_else(
        || {
            let message =
                format!("parameter mode: {value:?} must be an octal number from 0 to 7777, such as \"0770\"");
            Error::new(Kind::Invalid, message)
        },
    )
}

fn number(parameters: &Parameters, name: &str) -> Result<Option<u32>, Error> {
    let Some(value) = parameters.get(name) else { return Ok(None) };
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    // The highest number means "unchanged" to chown(2).
    let number = digits.then(|| value.parse().ok()).flatten().filter(|number| *number != u32::MAX);
    number.map(Some).ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            format!("parameter {name}: {value:?} must be a number from 0 to {}", u32::MAX - 1),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::nfs::tests::export,
        volume::{Access, Capacity, Claim, VolumeName},
    };

    fn request(parameters: &[(&str, &str)]) -> VolumeRequest {
        VolumeRequest {
            name: VolumeName::for_claim("u-1").unwrap(),
            claim: Claim {
                namespace: "ns".into(),
                name: "data".into(),
                uid: "u-1".into(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
            },
            capacity: Capacity::from_bytes(1),
            access: vec![Access::ReadWriteMany],
            mode: Mode::Filesystem,
            parameters: parameters.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            placement: None,
        }
    }

    fn exports() -> Vec<Export> {
        let mut fast = export("fast", "10.0.0.2", "/ssd/");
        fast.aliases = vec!["fast.example.org".into()];
        vec![export("default", "10.0.0.1", "/export"), fast]
    }

    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Plan);

    /// Proves: row 3.1, row 3.2, row 4.1
    #[test]
    fn parameters_choose_export_directory_and_rights() {
        let plain = plan(&exports(), &request(&[])).unwrap();
        let expected = Plan {
            place: Location::new("default", "ns-data-pvc-u-1").unwrap(),
            unique: true,
            existing: Existing::Refuse,
            mode: 0o777,
            uid: None,
            gid: None,
        };
        assert_eq!(plain, expected);
        let pattern = |path: &str| Location::new("default", path).unwrap();
        let fast = || Location { store: "fast".into(), ..expected.place.clone() };
        let rows: &[Row] = &[
            ("an empty pattern is none", &[("pathPattern", "")], expected.clone()),
            (
                "a pattern",
                &[("pathPattern", "${.PVC.namespace}/${.PVC.name}")],
                Plan { place: pattern("ns/data"), unique: false, ..expected.clone() },
            ),
            ("an export by name", &[("export", "fast")], Plan { place: fast(), ..expected.clone() }),
            (
                "an export by server and share",
                &[("server", "FAST.example.org"), ("share", "/ssd")],
                Plan { place: fast(), ..expected.clone() },
            ),
            (
                "both ways, agreeing",
                &[("server", "10.0.0.2"), ("share", "/ssd"), ("export", "fast")],
                Plan { place: fast(), ..expected.clone() },
            ),
            (
                "rights",
                &[("mode", "2770"), ("uid", "0"), ("gid", "4294967294")],
                Plan { mode: 0o2770, uid: Some(0), gid: Some(u32::MAX - 1), ..expected.clone() },
            ),
            (
                "adoption",
                &[("existingDirectory", "adopt")],
                Plan { existing: Existing::Adopt, ..expected.clone() },
            ),
        ];
        for (why, parameters, plan_expected) in rows {
            assert_eq!(&plan(&exports(), &request(parameters)).unwrap(), plan_expected, "{why}");
        }
    }

    type BadRow<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

    #[test]
    fn bad_values_are_refused_naming_parameter_value_and_what_is_allowed() {
        let rows: &[BadRow] = &[
            (
                &[("export", "slow")],
                &["export: \"slow\"", "default (10.0.0.1:/export)", "fast (10.0.0.2:/ssd/)"],
            ),
            (&[("server", "10.0.0.9"), ("share", "/ssd")], &["10.0.0.9:/ssd", "default (10.0.0.1:/export)"]),
            (&[("server", "10.0.0.1")], &["server and share belong together"]),
            (&[("share", "/export")], &["server and share belong together"]),
            (
                &[("export", "default"), ("server", "10.0.0.2"), ("share", "/ssd")],
                &["\"default\"", "\"fast\""],
            ),
            (&[("pathPatternMissing", "Empty")], &["pathPatternMissing: \"Empty\"", "refuse, empty"]),
            (&[("existingDirectory", "")], &["existingDirectory: \"\"", "refuse, adopt, share"]),
            (&[("mode", "0778")], &["mode: \"0778\"", "octal"]),
            (&[("mode", "17777")], &["mode: \"17777\"", "7777"]),
            (&[("mode", "")], &["mode: \"\"", "octal"]),
            (&[("mode", "+77")], &["mode: \"+77\"", "octal"]),
            (&[("uid", "-1")], &["uid: \"-1\"", "4294967294"]),
            (&[("gid", "4294967295")], &["gid: \"4294967295\"", "4294967294"]),
            (&[("gid", "+1")], &["gid: \"+1\""]),
            (&[("uid", "root")], &["uid: \"root\"", "number"]),
        ];
        for (parameters, expected) in rows {
            let error = plan(&exports(), &request(parameters)).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{parameters:?}");
            for part in *expected {
                assert!(error.to_string().contains(part), "{parameters:?}: {error}");
            }
        }
        let block = VolumeRequest { mode: Mode::Block, ..request(&[]) };
        assert_eq!(plan(&exports(), &block).unwrap_err().kind(), Kind::Unsupported);
    }

    /// Proves: row 3.16
    #[test]
    fn a_path_that_is_too_long_together_with_the_exports_is_refused() {
        let exports = [Export { path: format!("/{}", "e".repeat(200)), ..export("default", "s", "/") }];
        let pattern = vec!["d".repeat(250); 16].join("/");
        let error = plan(&exports, &request(&[("pathPattern", &pattern)])).unwrap_err();
        assert!(error.to_string().contains("file systems take 4095"), "{error}");
    }
}
