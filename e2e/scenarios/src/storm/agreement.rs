//! Whether storage and API agree after a storm: a pure comparison of what the claims ought to have
//! left with what is there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use super::{End, Fate};

/// What one claim ought to have left.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// The claim's name, which is also the content of its file.
    pub(super) claim: String,
    pub(super) fate: Fate,
    pub(super) end: End,
    /// Name of its PV and path of its directory, if it was seen bound.
    pub(super) volume: Option<(String, String)>,
}

/// What is there.
pub(super) struct Found<'a> {
    /// Name and phase of each PV of the provisioner.
    pub(super) volumes: Vec<(String, String)>,
    /// Every path beneath the export; directories end in a slash.
    pub(super) tree: Vec<String>,
    /// The content of a file of the tree.
    pub(super) read: &'a dyn Fn(&str) -> Option<String>,
}

/// The name of the file that is written to each volume.
pub(super) const FILE: &str = "data";

/// The folder of the nested volumes.
pub(super) const NESTED: &str = "nested";

/// Fails with the first disagreement.
pub(super) fn compare(expected: &[Expected], found: &Found<'_>) -> Result<()> {
    let living: BTreeMap<&str, &str> = expected
        .iter()
        .filter(|one| one.end == End::Lives)
        .filter_map(|one| one.volume.as_ref())
        .map(|(name, directory)| (name.as_str(), directory.as_str()))
        .collect();
    volumes(&living, found)?;
    directories(&living, found)?;
    files(expected, found)?;
    let archives = archives(expected, found)?;
    own_folder(&living, archives, found)
}

/// Exactly the living claims have PVs, and all of these are bound.
fn volumes(living: &BTreeMap<&str, &str>, found: &Found<'_>) -> Result<()> {
    for (name, phase) in &found.volumes {
        ensure!(living.contains_key(name.as_str()), "PV {name} ({phase}) has no living claim");
        ensure!(phase == "Bound", "PV {name} is {phase}");
    }
    for name in living.keys() {
        let count = found.volumes.iter().filter(|(found, _)| found == name).count();
        ensure!(count == 1, "a living claim has lost its PV {name}");
    }
    Ok(())
}

/// Exactly the living claims have directories.
fn directories(living: &BTreeMap<&str, &str>, found: &Found<'_>) -> Result<()> {
    let directories: BTreeSet<&str> = found
        .tree
        .iter()
        .filter(|path| !path.starts_with(".berth/") && !path.starts_with("archived-"))
        .filter_map(|path| path.strip_suffix('/'))
        .filter(|path| {
            // Above the nested volumes lie their namespace and their folder.
            let nested = *path == NESTED || path.starts_with(&format!("{NESTED}/"));
            path.split('/').count() == if nested { 3 } else { 1 }
        })
        .collect();
    let wanted: BTreeSet<&str> = living.values().copied().collect();
    ensure!(
        directories == wanted,
        "directories without a living claim: {:?}; living claims without one: {:?}",
        directories.difference(&wanted).collect::<Vec<_>>(),
        wanted.difference(&directories).collect::<Vec<_>>()
    );
    Ok(())
}

/// The living claims still have their files.
fn files(expected: &[Expected], found: &Found<'_>) -> Result<()> {
    for one in expected.iter().filter(|one| one.end == End::Lives) {
        let (_, directory) = one.volume.as_ref().with_context(|| format!("{} lives unbound", one.claim))?;
        let content = (found.read)(&format!("{directory}/{FILE}"));
        ensure!(content.as_deref() == Some(&one.claim), "the file of {} holds {content:?}", one.claim);
    }
    Ok(())
}

/// Each claim that was to be archived has one archive with its file, and nobody has two. Gives
/// their number.
fn archives(expected: &[Expected], found: &Found<'_>) -> Result<usize> {
    let nested = format!("archived-{NESTED}/");
    let archives: Vec<&str> = found
        .tree
        .iter()
        .filter_map(|path| path.strip_suffix('/'))
        .filter(|path| path.starts_with("archived-"))
        .filter(|path| match path.strip_prefix(nested.as_str()) {
            Some(below) => below.split('/').count() == 2,
            None => !path.contains('/') && *path != nested.trim_end_matches('/'),
        })
        .collect();
    let mut claimed = 0;
    for one in expected {
        let own: Vec<&&str> = archives.iter().filter(|path| is_of(path, &one.claim)).collect();
        claimed += own.len();
        let (least, most) = match (one.end, one.fate) {
            (End::Lives, _) | (_, Fate::Deletes) => (0, 0),
            (End::DeletedBound, Fate::Archives | Fate::Nested) => (1, 1),
            // It may have been gone before anything was made.
            (End::DeletedAfter(_), Fate::Archives | Fate::Nested) => (0, 1),
        };
        ensure!(
            (least..=most).contains(&own.len()),
            "{} ({:?}, {:?}) has the archives {own:?}",
            one.claim,
            one.end,
            one.fate
        );
        if let (End::DeletedBound, Some(archive)) = (one.end, own.first()) {
            let content = (found.read)(&format!("{archive}/{FILE}"));
            ensure!(content.as_deref() == Some(&one.claim), "the archive {archive} holds {content:?}");
        }
    }
    ensure!(claimed == archives.len(), "there are archives of nobody among {archives:?}");
    Ok(archives.len())
}

/// Whether an archive's path names a claim: `…-<claim>-pvc-…`, or nested `…/<claim>`, also with the
/// time that a taken name gets.
fn is_of(archive: &str, claim: &str) -> bool {
    match archive.rsplit_once('/') {
        Some((_, leaf)) => leaf
            .strip_prefix(claim)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-') || rest.starts_with('@')),
        None => archive.contains(&format!("-{claim}-pvc-")),
    }
}

/// Berth's own folder knows exactly the living volumes and the archives, and has nothing to do.
fn own_folder(living: &BTreeMap<&str, &str>, archives: usize, found: &Found<'_>) -> Result<()> {
    let inside = |folder: &str| -> Vec<&str> {
        let prefix = format!(".berth/{folder}/");
        found
            .tree
            .iter()
            .filter_map(|path| path.strip_prefix(&prefix))
            .filter(|path| !path.is_empty())
            .collect()
    };
    for folder in ["intents", "trash"] {
        let left = inside(folder);
        ensure!(left.is_empty(), ".berth/{folder} holds {left:?}");
    }
    let known: BTreeSet<&str> =
        inside("volumes").into_iter().filter_map(|file| file.strip_suffix(".json")).collect();
    let wanted: BTreeSet<&str> = living.keys().copied().collect();
    ensure!(
        known == wanted,
        "records without a living claim: {:?}; living claims without one: {:?}",
        known.difference(&wanted).collect::<Vec<_>>(),
        wanted.difference(&known).collect::<Vec<_>>()
    );
    let records = inside("archived").len();
    ensure!(records == archives, "{archives} archives have {records} records");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn one(claim: &str, fate: Fate, end: End) -> Expected {
        let volume = match end {
            End::DeletedAfter(_) => None,
            End::Lives | End::DeletedBound => Some((
                format!("pvc-{claim}"),
                match fate {
                    Fate::Nested => format!("nested/ns/{claim}"),
                    Fate::Deletes | Fate::Archives => format!("ns-{claim}-pvc-{claim}"),
                },
            )),
        };
        Expected { claim: claim.to_owned(), fate, end, volume }
    }

    type Volumes = Vec<(String, String)>;
    type Files = BTreeMap<String, String>;

    /// Claims of all kinds, and what a perfect end leaves of them.
    fn perfect() -> (Vec<Expected>, Volumes, Files) {
        let early = End::DeletedAfter(Duration::ZERO);
        let expected = vec![
            one("s-1", Fate::Deletes, End::Lives),
            one("s-2", Fate::Nested, End::Lives),
            one("s-3", Fate::Archives, End::DeletedBound),
            one("s-4", Fate::Nested, End::DeletedBound),
            one("s-5", Fate::Deletes, End::DeletedBound),
            one("s-6", Fate::Archives, early),
            one("s-7", Fate::Archives, early),
            one("s-8", Fate::Deletes, early),
            one("s-11", Fate::Nested, End::DeletedBound),
        ];
        let volumes = ["pvc-s-1", "pvc-s-2"].map(|name| (name.to_owned(), "Bound".to_owned())).to_vec();
        let tree = [
            (".berth/", ""),
            (".berth/intents/", ""),
            (".berth/trash/", ""),
            (".berth/volumes/", ""),
            (".berth/volumes/pvc-s-1.json", "{}"),
            (".berth/volumes/pvc-s-2.json", "{}"),
            (".berth/archived/", ""),
            (".berth/archived/pvc-s-3.json", "{}"),
            (".berth/archived/pvc-s-4.json", "{}"),
            (".berth/archived/pvc-s-6.json", "{}"),
            (".berth/archived/pvc-s-11.json", "{}"),
            ("ns-s-1-pvc-s-1/", ""),
            ("ns-s-1-pvc-s-1/data", "s-1"),
            ("nested/", ""),
            ("nested/ns/", ""),
            ("nested/ns/s-2/", ""),
            ("nested/ns/s-2/data", "s-2"),
            ("archived-ns-s-3-pvc-s-3/", ""),
            ("archived-ns-s-3-pvc-s-3/data", "s-3"),
            ("archived-nested/", ""),
            ("archived-nested/ns/", ""),
            ("archived-nested/ns/s-4/", ""),
            ("archived-nested/ns/s-4/data", "s-4"),
            ("archived-nested/ns/s-11-20260101T000000Z/", ""),
            ("archived-nested/ns/s-11-20260101T000000Z/data", "s-11"),
            ("archived-ns-s-6-pvc-s-6/", ""),
        ]
        .map(|(path, content)| (path.to_owned(), content.to_owned()));
        (expected, volumes, BTreeMap::from(tree))
    }

    fn verdict(
        expected: &[Expected],
        volumes: &[(String, String)],
        tree: &BTreeMap<String, String>,
    ) -> Result<()> {
        let read = |path: &str| tree.get(path).cloned();
        let found = Found { volumes: volumes.to_vec(), tree: tree.keys().cloned().collect(), read: &read };
        compare(expected, &found)
    }

    #[test]
    fn a_perfect_end_agrees() {
        let (expected, volumes, tree) = perfect();
        verdict(&expected, &volumes, &tree).unwrap();
    }

    #[test]
    fn anything_that_is_there_too_much_is_found() {
        let rows = [
            ("a directory without a claim", "ns-s-8-pvc-s-8/", "without a living claim"),
            ("a nested one", "nested/ns/s-4/", "without a living claim"),
            ("an intent", ".berth/intents/pvc-s-8.json", "intents"),
            ("trash", ".berth/trash/pvc-s-5@1/", "trash"),
            ("a record of a deleted volume", ".berth/volumes/pvc-s-5.json", "records without"),
            ("a second archive", "archived-ns-s-3-pvc-s-3-2026/", "s-3"),
            ("a second nested archive", "archived-nested/ns/s-4-20260101T000000Z/", "s-4"),
            ("an archive of what was to be deleted", "archived-ns-s-5-pvc-s-5/", "s-5"),
            ("an archive of a living one", "archived-ns-s-1-pvc-s-1/", "s-1"),
            ("an archive of nobody", "archived-ns-x-pvc-x/", "of nobody"),
            ("a record of no archive", ".berth/archived/pvc-s-7.json", "records"),
        ];
        for (row, path, told) in rows {
            let (expected, volumes, mut tree) = perfect();
            tree.insert(path.to_owned(), String::new());
            let error = verdict(&expected, &volumes, &tree).expect_err(row).to_string();
            assert!(error.contains(told), "{row}: {error}");
        }
    }

    #[test]
    fn anything_that_is_missing_is_found() {
        let (_, _, tree) = perfect();
        for path in tree.keys().filter(|path| {
            // The folders themselves may come and go.
            ![
                ".berth/",
                ".berth/intents/",
                ".berth/trash/",
                ".berth/volumes/",
                ".berth/archived/",
                "nested/",
                "nested/ns/",
                "archived-nested/",
                "archived-nested/ns/",
            ]
            .contains(&path.as_str())
        }) {
            let (expected, volumes, mut tree) = perfect();
            tree.remove(path);
            assert!(verdict(&expected, &volumes, &tree).is_err(), "{path} is not missed");
        }
    }

    #[test]
    fn files_of_another_claim_are_found() {
        for path in ["ns-s-1-pvc-s-1/data", "nested/ns/s-2/data", "archived-ns-s-3-pvc-s-3/data"] {
            let (expected, volumes, mut tree) = perfect();
            tree.insert(path.to_owned(), "s-9".to_owned());
            assert!(verdict(&expected, &volumes, &tree).is_err(), "{path}");
        }
    }

    #[test]
    fn volumes_that_are_too_many_missing_or_unbound_are_found() {
        let (expected, volumes, tree) = perfect();
        let mut more = volumes.clone();
        more.push(("pvc-s-5".to_owned(), "Released".to_owned()));
        assert!(verdict(&expected, &more, &tree).is_err());
        assert!(verdict(&expected, &volumes[1..], &tree).is_err());
        let mut unbound = volumes.clone();
        "Available".clone_into(&mut unbound[0].1);
        assert!(verdict(&expected, &unbound, &tree).is_err());
    }
}
