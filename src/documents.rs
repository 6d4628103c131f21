//! The documents held against the code, by tests: tables of flags, metrics and class parameters, and the table of what an
//! old installation relies on with the tests that prove it.
//!
//! A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`. A test that fails says how to write it
//! again; what is not between the marks is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use crate::{
    backend::{
        Backend, ClusterInfo, Error, Kubernetes, Parameter, PvState, SecretStore,
        ceph::{Cluster, Clusters},
        cephfs, nfs, rbd,
    },
    config, observe, provisioner,
    volume::{Access, Claim, Mode, SecretName, Secrets, VolumeName, VolumeRequest},
};

mod chart;
mod glossary;
mod links;
mod pages;
mod phrases;

const UPDATE: &str = "BERTH_UPDATE_DOCS=1 cargo test -p berth --lib documents";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn updating() -> bool {
    std::env::var_os("BERTH_UPDATE_DOCS").is_some()
}

/// Several tests may write parts of one document.
static WRITING: Mutex<()> = Mutex::new(());

/// Holds the part called `name` of a document against `generated`.
fn hold(document: &str, name: &str, generated: &str) {
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = root().join(document);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) =
        text.split_once(&begin).unwrap_or_else(|| panic!("{document} has no mark {}", begin.trim()));
    let (present, after) = rest.split_once("<!-- end -->").expect("a mark that ends the part");
    if present == generated {
        return;
    }
    assert!(updating(), "{document} differs from the code in the part {name}; to update it: {UPDATE}");
    fs::write(&path, format!("{before}{begin}{generated}<!-- end -->{after}")).unwrap();
}

/// A Markdown table; what would mean something in a cell is escaped.
fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), " --- |".repeat(N));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.map(|cell| escaped(&cell)).join(" | "));
    }
    text
}

fn escaped(cell: &str) -> String {
    let cell = cell.replace('|', "\\|");
    if cell.starts_with('`') { cell } else { cell.replace('<', "&lt;") }
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

#[test]
fn every_flag_stands_in_operations() {
    let heads = ["flag", "environment", "key in the file", "default", "effect"];
    let cells = |[flag, env, key, default, effect]: [String; 5]| {
        [code(&flag), code(&env), code(&key), code(&default), effect]
    };
    let rows = config::tests::settings().into_iter().map(cells);
    hold("docs/operations.md", "settings", &table(heads, rows));
    let rows = config::tests::node_settings().into_iter().map(cells);
    hold("docs/operations.md", "node settings", &table(heads, rows));
}

#[tokio::test]
async fn every_metric_stands_in_operations() {
    let text = observe::tests::full().await.text();
    let mut helps: BTreeMap<&str, &str> = BTreeMap::new();
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            helps.insert(name, help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            types.insert(name, kind);
        } else if let Some((name, rest)) = line.split_once('{') {
            let family =
                types.keys().copied().filter(|family| name.starts_with(family)).max_by_key(|f| f.len());
            let quoted = rest.split("=\"").map(|part| part.rsplit([',', '"', '{']).next().unwrap_or(part));
            let found = labels.entry(family.unwrap()).or_default();
            found.extend(quoted.filter(|label| !label.contains('}') && *label != "le"));
        }
    }
    let rows = types.iter().map(|(name, kind)| {
        let labels = labels.get(name).into_iter().flatten().map(|label| code(label)).collect::<Vec<_>>();
        [code(name), (*kind).to_owned(), labels.join(", "), helps[name].trim_end_matches('.').to_owned()]
    });
    hold("docs/operations.md", "metrics", &table(["metric", "type", "labels", "meaning"], rows));
}

#[test]
fn the_alerts_stand_in_operations_as_they_are_tried() {
    let rules = fs::read_to_string(root().join("deploy/alerts/berth.yaml")).unwrap();
    hold("docs/operations.md", "alerts", &format!("```yaml\n{rules}```\n"));
    let tried = fs::read_to_string(root().join("deploy/alerts/berth.test.yaml")).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let cases = tried.split("alertname: ").filter(|case| case.lines().next() == Some(alert));
        assert!(cases.clone().any(|case| case.contains("exp_labels")), "{alert} never fires in its test");
        assert!(
            cases.clone().any(|case| case.contains("exp_alerts: []")),
            "{alert} is never quiet in its test"
        );
    }
}

/// A rate over a series that begins with its first event says nothing of that event.
#[test]
fn every_series_of_an_alert_is_there_before_anything_happens() {
    let rules = fs::read_to_string(root().join("deploy/alerts/berth.yaml")).unwrap();
    let text = observe::tests::unused().text();
    let word = |c: char| c.is_ascii_lowercase() || c == '_';
    let series: BTreeSet<&str> = rules
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', '-']) && !line.starts_with("summary:"))
        .flat_map(|line| line.split(|c| !word(c)))
        .filter(|word| word.starts_with("berth_") || word.starts_with("controller_"))
        .collect();
    assert!(series.len() > 5, "{series:?}");
    for series in series {
        let there = text.lines().any(|line| line.split(['{', ' ']).next() == Some(series));
        assert!(there, "there is no {series} at the start:\n{text}");
    }
}

fn parameters(parameters: &[Parameter]) -> String {
    let rows = parameters.iter().map(|parameter| {
        [code(parameter.name), parameter.values.into(), parameter.default.into(), parameter.effect.into()]
    });
    table(["parameter", "values", "default", "effect"], rows)
}

#[test]
fn every_class_parameter_stands_in_storage_classes() {
    hold("docs/storage-classes.md", "common", &parameters(provisioner::PARAMETERS));
    hold("docs/storage-classes.md", "nfs", &parameters(nfs::PARAMETERS));
    hold("docs/storage-classes.md", "rbd", &parameters(rbd::PARAMETERS));
    hold("docs/storage-classes.md", "cephfs", &parameters(cephfs::PARAMETERS));
}

/// The objects of a file of manifests.
fn objects(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    objects.into_iter().filter(|object| !object.is_null()).collect()
}

/// Every example of a class, as a file and an object.
fn example_classes() -> Vec<(String, Value)> {
    let mut files: Vec<String> = fs::read_dir(root().join("deploy/examples/classes"))
        .unwrap()
        .map(|entry| format!("deploy/examples/classes/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    files.push("deploy/examples/01-class.yaml".into());
    files.push("deploy/manifests/05-storageclass.yaml".into());
    files.extend(["ceph", "several-exports"].map(|case| format!("deploy/rendered/{case}.yaml")));
    files.sort();
    let classes = files.into_iter().flat_map(|file| {
        let objects = objects(&file).into_iter().filter(|object| object["kind"] == "StorageClass");
        objects.map(|object| (file.clone(), object)).collect::<Vec<_>>()
    });
    classes.collect()
}

/// Answers nothing: examples are only read.
struct Nobody;

#[async_trait::async_trait]
impl SecretStore for Nobody {
    async fn get(&self, _: &SecretName, _: bool) -> Result<Secrets, Error> {
        panic!("nothing is asked for a place")
    }

    async fn put(&self, _: &SecretName, _: &Secrets, _: &VolumeName) -> Result<(), Error> {
        panic!("nothing is kept for a place")
    }

    async fn exists(&self, _: &SecretName, _: &VolumeName) -> Result<bool, Error> {
        panic!("nothing is kept for a place")
    }

    async fn delete(&self, _: &SecretName, _: &VolumeName) -> Result<(), Error> {
        panic!("nothing is forgotten for a place")
    }
}

#[async_trait::async_trait]
impl ClusterInfo for Nobody {
    async fn pv_state(&self, _: &VolumeName) -> Result<PvState, Error> {
        Ok(PvState::Absent)
    }

    fn cluster_id(&self) -> Option<String> {
        None
    }
}

/// Every storage with what the examples of configurations say.
fn example_backends() -> BTreeMap<config::Storage, Arc<dyn Backend>> {
    let config = objects("deploy/manifests/ceph/02-config.yaml");
    let file = config.iter().find_map(|object| object["data"]["berth.yaml"].as_str()).unwrap().to_owned();
    let exports = objects("deploy/examples/classes/several-exports.yaml");
    let exports = exports.iter().find_map(|object| object["data"]["berth.yaml"].as_str()).unwrap().to_owned();
    let ceph = config::tests::with_file(&file).ceph.unwrap();
    let exports = config::tests::with_file(&exports).exports;
    let one = &ceph.clusters[0];
    let cluster = Cluster::new(&one.name, one.monitors.clone(), one.tools.clone()).unwrap();
    let clusters = Clusters::new(vec![cluster], ceph.tools.clone());
    let admins = BTreeMap::from([(one.name.clone(), one.admin.clone().unwrap())]);
    let rbd = rbd::Settings { driver: "rbd.berth.storage".into(), admins: admins.clone() };
    let cephfs = cephfs::Settings {
        driver: "cephfs.berth.storage".into(),
        admins,
        secret_namespace: ceph.secret_namespace,
    };
    let host: Arc<dyn Kubernetes> = Arc::new(Nobody);
    BTreeMap::from([
        (
            config::Storage::Nfs,
            Arc::new(nfs::Nfs::new(exports, Arc::new(Nobody)).unwrap()) as Arc<dyn Backend>,
        ),
        (
            config::Storage::Rbd,
            Arc::new(rbd::Rbd::new(clusters.clone(), Arc::clone(&host), rbd).unwrap()) as Arc<dyn Backend>,
        ),
        (
            config::Storage::Cephfs,
            Arc::new(cephfs::Cephfs::new(clusters, host, cephfs).unwrap()) as Arc<dyn Backend>,
        ),
    ])
}

#[test]
fn every_example_of_a_class_is_accepted_and_none_has_a_parameter_without_effect() {
    let backends = example_backends();
    let mut seen = BTreeSet::new();
    for (file, object) in example_classes() {
        let name = object["provisioner"].as_str().unwrap().to_owned();
        let storage = config::storage_of(&name);
        let backend = &backends[&storage];
        let class = serde_json::from_value(object).unwrap_or_else(|error| panic!("{file}: {error}"));
        let (parameters, unknown) = provisioner::options_of(class, backend.capabilities())
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(unknown, None, "{file}");
        let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
        let annotations = BTreeMap::from([("example.com/directory".to_owned(), "there".to_owned())]);
        let uid = "6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11".to_owned();
        let claim = Claim { namespace: "default".into(), name: "data".into(), uid, labels, annotations };
        let request = VolumeRequest {
            name: VolumeName::for_claim(&claim.uid).unwrap(),
            claim,
            capacity: "1Gi".parse().unwrap(),
            access: vec![Access::ReadWriteOnce],
            mode: Mode::Filesystem,
            parameters,
            placement: None,
        };
        backend.place(&request).unwrap_or_else(|error| panic!("{file}: {}", error.chain()));
        seen.insert(name);
    }
    for old in ["ceph.com/rbd", "ceph.com/cephfs", "rbd.berth.storage", "cephfs.berth.storage"] {
        assert!(seen.contains(old), "there is no example for {old}");
    }
}

/// One line of `docs/migration-rows.txt`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: String,
    words: String,
    reason: String,
}

fn rows(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut parts = line.split('|').map(|part| part.trim().to_owned());
        let mut next = || parts.next().unwrap_or_else(|| panic!("not three parts: {line}"));
        Row { id: next(), words: next(), reason: next() }
    };
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(row).collect()
}

/// A test that claims to prove something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Proof {
    file: String,
    test: String,
}

/// Finds `/// Proves: a, b` above the tests of one file. In `e2e` every function may be a scenario, in a conformance suite a
/// behaviour; elsewhere it must be marked as a test.
fn proofs(file: &str, text: &str, found: &mut BTreeMap<String, BTreeSet<Proof>>) -> Result<(), String> {
    let mut rows: Vec<String> = Vec::new();
    let by_place = file.starts_with("e2e/") || file.contains("/conformance");
    let mut is_test = by_place;
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if let Some(tags) = line.strip_prefix("/// Proves:") {
            rows.extend(tags.split(',').map(|tag| tag.trim().trim_end_matches('.').to_owned()));
        } else if line.starts_with("#[") {
            is_test |= line.contains("test");
        } else if let (false, Some(test)) = (rows.is_empty(), function(line)) {
            if !is_test {
                return Err(format!(
                    "{file}:{number}: {test} claims to prove {} and is no test",
                    rows.join(", ")
                ));
            }
            for row in rows.drain(..) {
                found.entry(row).or_default().insert(Proof { file: file.into(), test: test.into() });
            }
            is_test = by_place;
        } else if !line.starts_with("///") && !line.starts_with("//") {
            if !rows.is_empty() && !line.is_empty() && !line.starts_with(['#', ')', ']', '"']) {
                return Err(format!("{file}:{number}: no test follows `Proves: {}`", rows.join(", ")));
            }
            is_test = by_place;
        }
    }
    Ok(())
}

fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub(super) ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    let name = line.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_proofs() -> BTreeMap<String, BTreeSet<Proof>> {
    let mut files = Vec::new();
    for directory in ["src", "tests", "e2e"] {
        sources(&root().join(directory), &mut files);
    }
    let mut found = BTreeMap::new();
    for file in files {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        // This file speaks of tags without proving anything.
        if name != "src/documents.rs" {
            proofs(&name, &fs::read_to_string(&file).unwrap(), &mut found)
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }
    found
}

/// What is wrong between the rows and the proofs.
fn gaps(rows: &[Row], proofs: &BTreeMap<String, BTreeSet<Proof>>) -> Vec<String> {
    let mut gaps = Vec::new();
    for row in rows {
        match (proofs.contains_key(&row.id), row.reason.as_str()) {
            (false, "") => gaps.push(format!("{} ({}) has neither a test nor a reason", row.id, row.words)),
            (true, "") | (false, _) => {}
            (true, reason) => {
                gaps.push(format!("{} ({}) has a test: drop the reason {reason:?}", row.id, row.words));
            }
        }
    }
    for (id, proofs) in proofs {
        if !rows.iter().any(|row| row.id == *id) {
            let tests: Vec<&str> = proofs.iter().map(|proof| proof.test.as_str()).collect();
            gaps.push(format!("{} claims to prove {id:?}, which is no row", tests.join(", ")));
        }
    }
    gaps
}

/// Every row that an old installation relies on, with its tests.
fn table_of_proofs(rows: &[Row], proofs: &BTreeMap<String, BTreeSet<Proof>>) -> String {
    let groups = [
        ("case ", "The contract of a provisioner"),
        ("statement ", "Faults of the old provisioners that must not come back"),
        ("row 2.", "Environment, flags, process"),
        ("row 3.", "pathPattern"),
        ("row 4.", "Names on the export"),
        ("row 5.", "The volume, field by field"),
        ("row 6.", "What becomes of a directory"),
        ("row 7.", "Events"),
        ("row 8.", "Rights"),
        ("row 9.", "The leader lock"),
        ("rbd ", "rbd-provisioner and kubernetes.io/rbd"),
        ("cephfs ", "cephfs-provisioner"),
    ];
    let mut text = String::new();
    for (prefix, title) in groups {
        let cells = rows.iter().filter(|row| row.id.starts_with(prefix)).map(|row| {
            let proved = proofs.get(&row.id).map(|proofs| {
                let shown = |proof: &Proof| format!("`{}` ({})", proof.test, proof.file);
                proofs.iter().map(shown).collect::<Vec<_>>().join("; ")
            });
            [row.id.clone(), row.words.clone(), proved.unwrap_or_else(|| row.reason.clone())]
        });
        let _ = writeln!(
            text,
            "\n## {title}\n\n{}",
            table(["row", "what holds", "test, or why not"], cells).trim_end()
        );
    }
    text.push('\n');
    text
}

#[test]
fn everything_an_old_installation_relies_on_has_a_test_or_a_reason() {
    let path = root().join("docs/migration-rows.txt");
    let text = fs::read_to_string(&path).unwrap();
    let (rows, proofs) = (rows(&text), all_proofs());
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids.len(), rows.len(), "a row is there twice");
    for (group, count) in [("case ", 57), ("statement ", 25)] {
        assert_eq!(rows.iter().filter(|row| row.id.starts_with(group)).count(), count, "{group}");
    }
    let gaps = gaps(&rows, &proofs);
    assert!(gaps.is_empty(), "docs/migration-rows.txt:\n{}", gaps.join("\n"));
    hold("docs/migration-proofs.md", "proofs", &table_of_proofs(&rows, &proofs));
}

#[test]
fn a_tag_belongs_to_the_test_below_it() {
    let text = "/// It holds.\n///\n/// Proves: case 1, row 2.3\n#[test]\n#[allow(x)] // because\nfn it_holds() {\n}\n\
        /// Proves: case 1\n#[tokio::test]\nasync fn it_really_holds() {}\n";
    let mut found = BTreeMap::new();
    proofs("src/a.rs", text, &mut found).unwrap();
    let names = |id: &str| found[id].iter().map(|proof| proof.test.as_str()).collect::<Vec<_>>();
    assert_eq!(names("case 1"), ["it_holds", "it_really_holds"]);
    assert_eq!(names("row 2.3"), ["it_holds"]);
    let mut found = BTreeMap::new();
    proofs("e2e/s.rs", "/// Proves: case 2\npub async fn a_scenario(case: &Case) {}\n", &mut found).unwrap();
    assert_eq!(found["case 2"].len(), 1);
}

#[test]
fn a_tag_without_a_test_is_found() {
    let rows = [
        ("no test", "/// Proves: case 1\nfn helper() {}\n", "is no test"),
        ("no function", "/// Proves: case 1\nstruct A;\n", "no test follows"),
    ];
    for (row, text, message) in rows {
        let error = proofs("src/a.rs", text, &mut BTreeMap::new()).unwrap_err();
        assert!(error.contains(message), "{row}: {error}");
    }
}

#[test]
fn gaps_are_found_in_both_directions() {
    let row = |id: &str, reason: &str| Row { id: id.into(), words: "x".into(), reason: reason.into() };
    let proof = BTreeSet::from([Proof { file: "src/a.rs".into(), test: "t".into() }]);
    let proofs = BTreeMap::from([("case 2".to_owned(), proof.clone()), ("case 9".to_owned(), proof)]);
    let rows = [row("case 1", ""), row("case 2", "later"), row("case 3", "later")];
    assert_eq!(
        gaps(&rows, &proofs),
        [
            "case 1 (x) has neither a test nor a reason",
            "case 2 (x) has a test: drop the reason \"later\"",
            "t claims to prove \"case 9\", which is no row",
        ]
    );
}
