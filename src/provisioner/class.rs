//! What a `StorageClass` says: [`Class`], and what it means for a backend, [`ProvisionOptions`].
//!
//! [`Class::provision_options`] reads the parameters for a new volume and refuses what is wrong; [`legacy_disposal`] reads them as
//! the old provisioners did, for volumes that those made. [`PARAMETERS`] are the parameters that hold for every backend.
//!
//! It does not know what the parameters of a backend mean; the backend reads those itself.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use k8s_openapi::api::storage::v1::StorageClass;

use crate::{
    backend::{Capabilities, Parameter},
    volume::{Disposal, Invalid, parse_bool, parse_duration},
};

/// The class parameters that hold for every backend.
pub const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "archiveOnDelete",
        values: "true, false",
        default: "true",
        effect: "Whether to archive a volume when its claim is deleted; false deletes it. onDelete overrides it.",
    },
    Parameter {
        name: "onDelete",
        values: "delete, archive, retain",
        default: "as archiveOnDelete says",
        effect: "What happens to the data when the claim is deleted.",
    },
    Parameter {
        name: "strictParameters",
        values: "true, false",
        default: "false",
        effect: "Whether an unknown parameter makes berth refuse the claim instead of only warning.",
    },
    Parameter {
        name: "trashRetention",
        values: "a time such as 10m or 24h",
        default: "as --trash-retention says",
        effect: "How long deleted data stays in the trash before it is purged. A volume keeps the value that its \
            class had when it was provisioned.",
    },
];

const ARCHIVE_ON_DELETE: &str = "archiveOnDelete";
const ON_DELETE: &str = "onDelete";
const STRICT: &str = "strictParameters";
const TRASH_RETENTION: &str = "trashRetention";

/// A `StorageClass`, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) uid: String,
    /// The version of the object, for telling one edition of a class from the next.
    pub(super) version: String,
    pub(super) provisioner: String,
    pub(super) reclaim_policy: String,
    pub(super) mount_options: Vec<String>,
    pub(super) waits_for_consumer: bool,
    pub(super) expandable: bool,
    pub(super) parameters: BTreeMap<String, String>,
}

impl From<StorageClass> for Class {
    fn from(class: StorageClass) -> Self {
        Self {
            name: class.metadata.name.unwrap_or_default(),
            uid: class.metadata.uid.unwrap_or_default(),
            version: class.metadata.resource_version.unwrap_or_default(),
            provisioner: class.provisioner,
            reclaim_policy: class.reclaim_policy.unwrap_or_else(|| "Delete".to_owned()),
            mount_options: class.mount_options.unwrap_or_default(),
            waits_for_consumer: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            expandable: class.allow_volume_expansion.unwrap_or_default(),
            parameters: class.parameters.unwrap_or_default(),
        }
    }
}

/// What a class means for a new volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProvisionOptions {
    pub(super) disposal: Disposal,
    /// How long what is deleted stays in the trash, where the class says so.
    pub(super) retention: Option<Duration>,
    /// The parameters that the backend reads.
    pub(super) parameters: BTreeMap<String, String>,
    /// What is not read, as a sentence for the administrator.
    pub(super) unknown: Option<String>,
}

impl Class {
    /// Reads the parameters for a new volume on the backend with these capabilities.
    pub(super) fn provision_options(&self, backend: &Capabilities) -> Result<ProvisionOptions, Invalid> {
        let written = self.spelt(backend)?;
        let get = |key: &str| written.get(key).map(String::as_str);
        let strict = match get(STRICT) {
            None => false,
            Some(text) => parse_bool(text).ok_or_else(|| not_boolean(STRICT, text))?,
        };
        let disposal = match get(ON_DELETE) {
            // The old provisioner took an empty value for an absent one, and charts render it.
            None | Some("") => match get(ARCHIVE_ON_DELETE) {
                None => Disposal::Archive,
                Some(text) => match parse_bool(text) {
                    Some(true) => Disposal::Archive,
                    Some(false) => Disposal::Delete,
                    None => return Err(not_boolean(ARCHIVE_ON_DELETE, text)),
                },
            },
            Some(text) => text
                .parse()
                .map_err(|error: Invalid| Invalid::new("class parameter onDelete", error.text, error.why))?,
        };
        let retention = match get(TRASH_RETENTION) {
            None | Some("") => None,
            Some(text) => Some(
                parse_duration(text).ok_or_else(|| not_retention("class parameter trashRetention", text))?,
            ),
        };

        let known = |key: &str| PARAMETERS.iter().any(|p| p.name == key);
        let theirs = |key: &str| backend.parameters.iter().any(|p| p.name == key);
        let unknown: Vec<_> =
            written.keys().filter(|key| !known(key) && !theirs(key)).map(String::as_str).collect();
        let unknown = (!unknown.is_empty()).then(|| unknown_parameters(&unknown, backend.parameters));
        if let (true, Some(unknown)) = (strict, &unknown) {
            return Err(Invalid::new("storage class", &self.name, format!("is strict and {unknown}")));
        }
        let parameters = written.into_iter().filter(|(key, _)| theirs(key)).collect();
        Ok(ProvisionOptions { disposal, retention, parameters, unknown })
    }

    /// The parameters under the names that the backend declared. Two spellings of one name are refused: which of them holds
    /// would be a guess.
    fn spelt(&self, backend: &Capabilities) -> Result<BTreeMap<String, String>, Invalid> {
        let mut from: BTreeMap<String, &str> = BTreeMap::new();
        let mut read = BTreeMap::new();
        for (key, value) in &self.parameters {
            let name = declared(key, backend);
            if let Some(other) = from.insert(name.clone(), key) {
                let why =
                    format!("has the parameter {name:?} twice, as {other:?} and as {key:?}; remove one");
                return Err(Invalid::new("storage class", &self.name, why));
            }
            read.insert(name, value.clone());
        }
        Ok(read)
    }

    /// The parameters that the backend reads, whatever else is wrong with the class.
    pub(super) fn parameters_of(&self, backend: &Capabilities) -> BTreeMap<String, String> {
        let mut parameters = self.legacy_parameters(backend);
        parameters.retain(|key, _| backend.parameters.iter().any(|parameter| parameter.name == key));
        parameters
    }

    /// The same for a volume that an older provisioner made, which must be removed whatever the class says: of two
    /// spellings the declared one holds.
    pub(super) fn legacy_parameters(&self, backend: &Capabilities) -> BTreeMap<String, String> {
        let (exact, other): (Vec<_>, Vec<_>) = self
            .parameters
            .iter()
            .map(|(key, value)| (key, declared(key, backend), value))
            .partition(|(key, name, _)| *key == name);
        other.into_iter().chain(exact).map(|(_, name, value)| (name, value.clone())).collect()
    }
}

/// The name of the parameter that is written as `key`; the key itself, where there is none.
fn declared(key: &str, backend: &Capabilities) -> String {
    let all = PARAMETERS.iter().chain(backend.parameters).map(|parameter| parameter.name);
    let named = |name: &str| name == key || backend.case_insensitive && name.eq_ignore_ascii_case(key);
    all.into_iter().find(|name| named(name)).unwrap_or(key).to_owned()
}

/// The provisioner of a class that was written down, and what it means for a backend: for tests of examples.
#[cfg(test)]
pub(crate) fn options_of(
    class: StorageClass,
    backend: &Capabilities,
) -> Result<(BTreeMap<String, String>, Option<String>), Invalid> {
    Class::from(class).provision_options(backend).map(|options| (options.parameters, options.unknown))
}

/// What the old provisioners did with a volume whose class has these parameters (`before`: where it says nothing), save
/// that a value which made them fail for ever archives instead. The second value says why, where an administrator must
/// know.
pub(super) fn legacy_disposal(
    parameters: &BTreeMap<String, String>,
    before: Disposal,
) -> (Disposal, Option<String>) {
    match parameters.get(ON_DELETE).map(String::as_str) {
        Some("delete") => (Disposal::Delete, None),
        Some("retain") => (Disposal::Retain, None),
        Some("archive") => (Disposal::Archive, None),
        None | Some(_) => match parameters.get(ARCHIVE_ON_DELETE).map(|text| (text, parse_bool(text))) {
            None => (before, None),
            Some((_, Some(true))) => (Disposal::Archive, None),
            Some((_, Some(false))) => (Disposal::Delete, None),
            Some((text, None)) => {
                let why = format!(
                    "{}; the data was archived, because the setting cannot be understood",
                    not_boolean(ARCHIVE_ON_DELETE, text)
                );
                (Disposal::Archive, Some(why))
            }
        },
    }
}

/// How long what is deleted of a volume of an older provisioner stays in the trash, where its class says so in words that can be
/// understood.
pub(super) fn legacy_retention(parameters: &BTreeMap<String, String>) -> Option<Duration> {
    parameters.get(TRASH_RETENTION).and_then(|text| parse_duration(text))
}

/// Why a text is no time for the trash.
pub(super) fn not_retention(what: &'static str, text: &str) -> Invalid {
    let shown: String = text.chars().take(64).collect();
    Invalid::new(what, shown, "must be a time such as 10m or 24h, in hours (h), minutes (m) and seconds (s)")
}

fn not_boolean(parameter: &str, text: &str) -> Invalid {
    let shown: String = text.chars().take(64).collect();
    Invalid::new("class parameter", format!("{parameter}: {shown}"), "must be true or false")
}

/// `has the unknown parameter "ondelete" (did you mean "onDelete"?)`.
fn unknown_parameters(keys: &[&str], theirs: &[Parameter]) -> String {
    let mut text = String::from(if keys.len() == 1 {
        "has the unknown parameter "
    } else {
        "has the unknown parameters "
    });
    for (index, key) in keys.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        let shown: String = key.chars().take(64).collect();
        // Writing to a string cannot fail.
        let _ = write!(text, "{shown:?}");
        if let Some(ours) = ours(key, theirs) {
            let _ = write!(text, " ({ours})");
        } else if let Some(near) = nearest(key, theirs) {
            let _ = write!(text, " (did you mean {near:?}?)");
        }
    }
    text
}

/// What replaces a parameter of csi-driver-nfs here.
fn ours(key: &str, theirs: &[Parameter]) -> Option<&'static str> {
    let has = |name: &str| theirs.iter().any(|parameter| parameter.name == name);
    match key.to_ascii_lowercase().as_str() {
        "subdir" if has("pathPattern") => {
            Some("a parameter of csi-driver-nfs; here it is pathPattern, with tokens such as ${.PVC.name}")
        }
        "mountpermissions" if has("mode") => Some("a parameter of csi-driver-nfs; here it is mode"),
        "mountoptions" => {
            Some("a field of the class, beside parameters: mountOptions: [nfsvers=4.2] for example")
        }
        _ => None,
    }
}

/// The valid parameter that was probably meant.
fn nearest(key: &str, theirs: &[Parameter]) -> Option<&'static str> {
    let wanted = key.to_ascii_lowercase();
    PARAMETERS
        .iter()
        .chain(theirs)
        .map(|parameter| (strsim::levenshtein(&wanted, &parameter.name.to_ascii_lowercase()), parameter.name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &[Parameter] = &[Parameter {
        name: "pathPattern",
        values: "a pattern",
        default: "",
        effect: "Names the directory.",
    }];

    fn class(parameters: &[(&str, &str)]) -> Class {
        Class {
            name: "nfs".into(),
            uid: "1".into(),
            version: "1".into(),
            provisioner: "p".into(),
            reclaim_policy: "Delete".into(),
            mount_options: Vec::new(),
            waits_for_consumer: false,
            expandable: false,
            parameters: map(parameters),
        }
    }

    fn map(parameters: &[(&str, &str)]) -> BTreeMap<String, String> {
        parameters.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    fn capabilities() -> Capabilities {
        Capabilities {
            name: "fake",
            block: false,
            expand: true,
            parameters: THEIRS,
            case_insensitive: false,
            legacy_default: Disposal::Archive,
            concurrency: 1,
        }
    }

    /// Proves: row 6.1, row 6.2, row 6.3, row 6.4, row 6.5, row 6.6, row 6.7, row 6.8
    #[test]
    fn the_class_says_what_becomes_of_a_volume() {
        use Disposal::{Archive, Delete, Retain};
        /// The parameters, what a new volume gets (`None`: refused), what an old one gets, whether that is told.
        type Row = (&'static [(&'static str, &'static str)], Option<Disposal>, Disposal, bool);
        let table: &[Row] = &[
            (&[], Some(Archive), Archive, false),
            (&[("onDelete", "delete")], Some(Delete), Delete, false),
            (&[("onDelete", "delete"), ("archiveOnDelete", "true")], Some(Delete), Delete, false),
            (&[("onDelete", "delete"), ("archiveOnDelete", "what")], Some(Delete), Delete, false),
            (&[("onDelete", "retain")], Some(Retain), Retain, false),
            (&[("onDelete", "retain"), ("archiveOnDelete", "false")], Some(Retain), Retain, false),
            (&[("onDelete", "archive"), ("archiveOnDelete", "false")], Some(Archive), Archive, false),
            (&[("onDelete", "Delete")], None, Archive, false),
            (&[("onDelete", "DELETE"), ("archiveOnDelete", "false")], None, Delete, false),
            (&[("onDelete", ""), ("archiveOnDelete", "false")], Some(Delete), Delete, false),
            (&[("archiveOnDelete", "false")], Some(Delete), Delete, false),
            (&[("archiveOnDelete", "0")], Some(Delete), Delete, false),
            (&[("archiveOnDelete", "F")], Some(Delete), Delete, false),
            (&[("archiveOnDelete", "true")], Some(Archive), Archive, false),
            (&[("archiveOnDelete", "T")], Some(Archive), Archive, false),
            (&[("archiveOnDelete", "no")], None, Archive, true),
            (&[("archiveOnDelete", "")], None, Archive, true),
            (&[("archiveOnDelete", " false")], None, Archive, true),
        ];
        for (parameters, new, old, told) in table {
            let options = class(parameters).provision_options(&capabilities());
            assert_eq!(options.ok().map(|options| options.disposal), *new, "new volume: {parameters:?}");
            let (disposal, why) = legacy_disposal(&map(parameters), Archive);
            assert_eq!((disposal, why.is_some()), (*old, *told), "old volume: {parameters:?}");
        }
    }

    #[test]
    fn the_class_says_how_long_its_volumes_stay_in_the_trash_and_nonsense_is_refused() {
        let retention = |text: &str| class(&[("trashRetention", text)]).provision_options(&capabilities());
        for (text, expected) in
            [("24h", Some(Duration::from_hours(24))), ("0s", Some(Duration::ZERO)), ("", None)]
        {
            assert_eq!(retention(text).unwrap().retention, expected, "{text}");
        }
        assert_eq!(class(&[]).provision_options(&capabilities()).unwrap().retention, None);
        for bad in ["10", "7d", "-1h", "forever", " 10m"] {
            assert_eq!(
                retention(bad).unwrap_err().to_string(),
                format!(
                    "class parameter trashRetention {bad:?} must be a time such as 10m or 24h, in hours (h), minutes (m) and \
                     seconds (s)"
                )
            );
            assert_eq!(
                legacy_retention(&map(&[("trashRetention", bad)])),
                None,
                "an old volume goes nevertheless"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_parameter_the_value_and_what_is_allowed() {
        let refusal = |parameters: &[(&str, &str)]| {
            class(parameters).provision_options(&capabilities()).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(&[("onDelete", "Delete")]),
            "class parameter onDelete \"Delete\" must be delete, archive or retain"
        );
        assert_eq!(
            refusal(&[("archiveOnDelete", "yes")]),
            "class parameter \"archiveOnDelete: yes\" must be true or false"
        );
        assert_eq!(
            refusal(&[("strictParameters", "on")]),
            "class parameter \"strictParameters: on\" must be true or false"
        );
    }

    #[test]
    fn names_are_written_in_any_case_where_the_older_provisioners_took_them_so() {
        let any = Capabilities { case_insensitive: true, ..capabilities() };
        let odd = class(&[("PATHPATTERN", "x"), ("OnDelete", "delete"), ("odd", "y")]);
        let options = odd.provision_options(&any).unwrap();
        assert_eq!(options.parameters, map(&[("pathPattern", "x")]));
        assert_eq!(options.disposal, Disposal::Delete);
        assert_eq!(options.unknown.as_deref(), Some("has the unknown parameter \"odd\""));
        assert_eq!(
            odd.provision_options(&capabilities()).unwrap().parameters,
            map(&[]),
            "elsewhere the case matters"
        );
        assert_eq!(
            odd.legacy_parameters(&any),
            map(&[("odd", "y"), ("onDelete", "delete"), ("pathPattern", "x")])
        );
    }

    #[test]
    fn two_spellings_of_one_name_are_refused_and_for_an_old_volume_the_declared_one_holds() {
        let any = Capabilities { case_insensitive: true, ..capabilities() };
        let twice = class(&[("pathPattern", "x"), ("PathPattern", "y")]);
        assert_eq!(
            twice.provision_options(&any).unwrap_err().to_string(),
            "storage class \"nfs\" has the parameter \"pathPattern\" twice, as \"PathPattern\" and as \"pathPattern\"; \
             remove one"
        );
        assert_eq!(twice.legacy_parameters(&any)["pathPattern"], "x");
        assert!(twice.provision_options(&capabilities()).is_ok(), "elsewhere they are two names");
    }

    #[test]
    fn the_backend_gets_its_own_parameters_and_no_others() {
        let class = class(&[("pathPattern", "x"), ("onDelete", "delete"), ("odd", "y")]);
        assert_eq!(
            class.provision_options(&capabilities()).unwrap().parameters,
            map(&[("pathPattern", "x")])
        );
    }

    #[test]
    fn a_parameter_of_csi_driver_nfs_is_reported_with_what_stands_for_it_here() {
        const NFS: &[Parameter] = &[THEIRS[0], Parameter { name: "mode", ..THEIRS[0] }];
        let nfs = Capabilities { parameters: NFS, ..capabilities() };
        let unknown = |key: &str, backend: &Capabilities| {
            class(&[(key, "x")]).provision_options(backend).unwrap().unknown.unwrap_or_default()
        };
        assert_eq!(
            unknown("subDir", &nfs),
            "has the unknown parameter \"subDir\" (a parameter of csi-driver-nfs; here it is pathPattern, with tokens such as ${.PVC.name})"
        );
        assert_eq!(
            unknown("mountPermissions", &nfs),
            "has the unknown parameter \"mountPermissions\" (a parameter of csi-driver-nfs; here it is mode)"
        );
        assert!(unknown("mountOptions", &nfs).contains("a field of the class, beside parameters"));
        let without = Capabilities { parameters: &[], ..capabilities() };
        assert_eq!(
            unknown("subDir", &without),
            "has the unknown parameter \"subDir\"",
            "where there is none"
        );
    }

    /// Proves: row 3.22
    #[test]
    fn an_unknown_parameter_is_reported_with_the_name_that_was_meant() {
        let table: &[(&[&str], &str)] = &[
            (&["ondelete"], "has the unknown parameter \"ondelete\" (did you mean \"onDelete\"?)"),
            (&["pathpattern"], "has the unknown parameter \"pathpattern\" (did you mean \"pathPattern\"?)"),
            (&["pathPatern"], "has the unknown parameter \"pathPatern\" (did you mean \"pathPattern\"?)"),
            (
                &["archiveOnDelte"],
                "has the unknown parameter \"archiveOnDelte\" (did you mean \"archiveOnDelete\"?)",
            ),
            (&["fsType"], "has the unknown parameter \"fsType\""),
            (
                &["fsType", "onDelet"],
                "has the unknown parameters \"fsType\", \"onDelet\" (did you mean \"onDelete\"?)",
            ),
        ];
        for (keys, text) in table {
            let parameters: Vec<_> = keys.iter().map(|key| (*key, "v")).collect();
            assert_eq!(
                class(&parameters).provision_options(&capabilities()).unwrap().unknown.as_deref(),
                Some(*text)
            );
            let strict: Vec<_> = parameters.into_iter().chain([("strictParameters", "true")]).collect();
            let refusal = class(&strict).provision_options(&capabilities()).unwrap_err().to_string();
            assert!(refusal.ends_with(text), "{refusal}");
        }
        assert_eq!(
            class(&[("strictParameters", "true")]).provision_options(&capabilities()).unwrap().unknown,
            None
        );
    }
}
