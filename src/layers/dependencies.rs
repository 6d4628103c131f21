//! Each dependency that a manifest of the workspace names is used by the code beside it, and each version that the
//! workspace pins is named by a member.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::source::{paths, sources, tokens};

/// The directories of the packages, from the root of the repository.
const PACKAGES: &[&str] = &[".", "e2e/apiserver", "e2e/scenarios"];

/// The names in each section of a manifest, as they are written there.
fn sections(manifest: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if line.starts_with(|first: char| first.is_ascii_lowercase()) {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            found.entry(section.clone()).or_default().insert(name.to_owned());
        }
    }
    found
}

/// The first parts of all paths in the sources below `directory`, attributes included.
fn crates_used(directory: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(directory, &mut files);
    let mut used = BTreeSet::new();
    for file in files {
        used.extend(crates_used_in(&file));
    }
    used
}

/// The same of one source.
fn crates_used_in(file: &Path) -> BTreeSet<String> {
    let found = paths(&tokens(&fs::read_to_string(file).unwrap()), &[]);
    found.iter().filter_map(|path| path.split("::").next().map(str::to_owned)).collect()
}

/// What `manifest` names and code that uses `used` does not need.
fn unused(manifest: &str, used: &BTreeSet<String>) -> Vec<String> {
    let sections = sections(manifest);
    let named = ["dependencies", "dev-dependencies", "build-dependencies"];
    let named = named.iter().filter_map(|section| sections.get(*section)).flatten();
    named.filter(|name| !used.contains(&name.replace('-', "_"))).cloned().collect()
}

#[test]
fn every_dependency_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = BTreeSet::new();
    let mut found = Vec::new();
    for package in PACKAGES {
        let directory = root.join(package);
        let manifest = fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        let mut used = crates_used(&directory.join("src"));
        let tests = directory.join("tests");
        if tests.is_dir() {
            used.extend(crates_used(&tests));
        }
        let build = directory.join("build.rs");
        if build.is_file() {
            used.extend(crates_used_in(&build));
        }
        found
            .extend(unused(&manifest, &used).into_iter().map(|name| format!("{package}/Cargo.toml: {name}")));
        let sections = sections(&manifest);
        let sections = sections.into_iter().filter(|(section, _)| section != "workspace.dependencies");
        named.extend(sections.flat_map(|(_, names)| names));
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for pinned in &sections(&manifest)["workspace.dependencies"] {
        if !named.contains(pinned) {
            found.push(format!("Cargo.toml, [workspace.dependencies]: {pinned}"));
        }
    }
    assert!(found.is_empty(), "these dependencies are not used; remove them:\n{}", found.join("\n"));
}

#[test]
fn a_dependency_without_a_use_is_found() {
    let manifest = "[package]\nname = \"a\"\n\n[dependencies]\nserde.workspace = true\ntokio-util = { version = \"1\" }\n";
    let used = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    assert_eq!(unused(manifest, &used(&["serde"])), ["tokio-util"]);
    assert_eq!(unused(manifest, &used(&["serde", "tokio_util"])), Vec::<String>::new());
}
