//! Every relative link in the documents leads to a file, and every anchor to a heading.
//!
//! Addresses of other sites are not visited.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::root;

/// The Markdown files below `directory`.
fn documents_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The text without what stands between fences.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// The targets of the links in a document, as they are written.
fn targets(text: &str) -> Vec<String> {
    let text = prose(text);
    let parts = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    parts.map(|(target, _)| target.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

/// The anchors of the headings, made as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = Vec::new();
    for line in prose(text).lines() {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = |c: char| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            _ => c.is_alphanumeric().then_some(c),
        };
        let anchor: String = title.trim().to_lowercase().chars().filter_map(kept).collect();
        let earlier = seen.entry(anchor.clone()).or_default();
        anchors.push(if *earlier == 0 { anchor } else { format!("{anchor}-{earlier}") });
        *earlier += 1;
    }
    anchors
}

/// What is wrong with the links of the document at `path`, one line each.
fn dead(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut dead = Vec::new();
    for target in targets(&text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = match target.split_once('#') {
            Some((file, anchor)) => (file, Some(anchor)),
            None => (target.as_str(), None),
        };
        let there = if file.is_empty() { path.to_owned() } else { path.parent().unwrap().join(file) };
        let leads = there.exists()
            && anchor.is_none_or(|anchor| {
                fs::read_to_string(&there).is_ok_and(|text| anchors(&text).iter().any(|have| have == anchor))
            });
        if !leads {
            dead.push(format!("{}: {target} leads nowhere", path.display()));
        }
    }
    dead
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut files: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/chart/README.md"]
        .map(|name| root().join(name))
        .into();
    documents_below(&root().join("docs"), &mut files);
    assert!(files.len() > 20, "the documents were not found: {files:?}");
    let dead: Vec<String> = files.iter().flat_map(|file| dead(file)).collect();
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "other.md",
        "# Other\n\n## The `key`: what it is\n\n## Twice\n\n## Twice\n\n```sh\n# not a heading\n```\n",
    );
    write(
        "good.md",
        "[a](other.md), [b](other.md#the-key-what-it-is), [c](other.md#twice-1), [d](#here),\n[e](https://example.com/x#y)\n\
         ## Here\n```\n[f](code.md)\n```\n",
    );
    assert_eq!(dead(&directory.path().join("good.md")), [""; 0]);
    write("bad.md", "[a](missing.md), [b](other.md#third), [c](other.md#not-a-heading), [d](#here)\n");
    let found = dead(&directory.path().join("bad.md"));
    let expected = ["missing.md", "other.md#third", "other.md#not-a-heading", "#here"];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.ends_with(&format!("bad.md: {expected} leads nowhere")), "{found}");
    }
}
