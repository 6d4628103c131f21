//! Each page of `docs/` says whom it is for, lists its chapters where it is longer than a screen, and ends with what to read
//! next; and the table of Events in `docs/troubleshooting.md` has the reasons that the code gives. Each command was run by a
//! scenario, or the page says why not.

use std::{collections::BTreeSet, fs};

use super::{hold, phrases, root, table};

/// Lines of prose that fit on a screen, give or take.
const SCREEN: usize = 80;

/// What a page lacks.
fn lacks(text: &str) -> Vec<&'static str> {
    let written = without_generated(text);
    let mut lacks = Vec::new();
    let paragraphs: Vec<&str> =
        written.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()).collect();
    let [title, first, .., last] = paragraphs.as_slice() else { return vec!["a title, a text and an end"] };
    if !title.starts_with("# ") || title.lines().count() > 1 {
        lacks.push("a title of its own");
    }
    if !first.starts_with("For ") {
        lacks.push("a first paragraph that says whom it is for (For administrators who ...)");
    }
    if !last.starts_with("Next: ") {
        lacks.push("a last paragraph that says what to read next (Next: ...)");
    }
    let head = written.split("\n## ").next().unwrap_or_default();
    if written.lines().count() > SCREEN && !head.contains("](#") {
        lacks.push("a list of its chapters above the first one");
    }
    lacks
}

/// The text without what a test writes into it.
fn without_generated(text: &str) -> String {
    let mut parts = text.split("<!-- generated: ");
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        written.push_str(part.split_once("<!-- end -->").map_or("", |(_, after)| after));
    }
    written
}

/// The pages of `docs/`.
fn pages() -> Vec<String> {
    let paths = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| format!("docs/{}", path.file_name().unwrap().to_str().unwrap())).collect()
}

#[test]
fn every_page_says_whom_it_is_for_lists_its_chapters_and_ends_with_what_to_read_next() {
    let mut wrong = Vec::new();
    let pages = pages();
    for page in &pages {
        let lacks = lacks(&fs::read_to_string(root().join(page)).unwrap());
        wrong.extend(lacks.into_iter().map(|what| format!("{page} lacks {what}")));
    }
    assert!(pages.len() > 15, "the pages were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_page_that_says_less_is_found() {
    let whole = "# A\n\nFor readers.\n\nText.\n\nNext: [b](b.md).\n";
    assert_eq!(lacks(whole), [""; 0]);
    let long = "A line.\n".repeat(SCREEN);
    let rows = [
        ("who", whole.replace("For readers.", "It is about a.")),
        ("next", whole.replace("Next: [b](b.md).", "The end.")),
        ("contents", whole.replace("Text.", &long)),
        ("title", whole.replace("# A", "A")),
    ];
    for (row, text) in rows {
        assert_eq!(lacks(&text).len(), 1, "{row}: {:?}", lacks(&text));
    }
    assert_eq!(lacks(&whole.replace("Text.", &format!("* [a](#a)\n\n{long}"))), [""; 0]);
    let generated = format!("<!-- generated: x -->\n{long}<!-- end -->");
    assert_eq!(lacks(&whole.replace("Text.", &generated)), [""; 0]);
}

/// The reasons of Events that a source gives: behind the type of the Event, or beside the sentence that goes with them.
fn reasons(text: &str) -> BTreeSet<String> {
    let code = text.find("#[cfg(test)]").map_or(text, |tests| &text[..tests]);
    let squeezed: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let starts = ["Type::Normal, \"", "Type::Warning, \"", "(\""];
    let found = starts.iter().flat_map(|start| {
        squeezed.split(start).skip(1).filter_map(|rest| {
            let (reason, after) = rest.split_once('"')?;
            (*start != "(\"" || after.starts_with(", note)") || after.starts_with(", format!"))
                .then_some(reason)
        })
    });
    let camel = |reason: &&str| {
        reason.starts_with(|c: char| c.is_ascii_uppercase())
            && reason.chars().all(|c| c.is_ascii_alphabetic())
    };
    found.filter(camel).map(str::to_owned).collect()
}

#[test]
fn the_table_of_events_has_every_reason_that_the_code_gives_and_no_other() {
    let said: BTreeSet<String> = phrases::code()
        .into_iter()
        .filter(|(file, _)| file.starts_with("provisioner/"))
        .flat_map(|(_, text)| reasons(&text))
        .collect();
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let table = text.split_once("\n## Events by reason\n").expect("the chapter").1;
    let table = table.split("\n## ").next().unwrap_or_default();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let written: BTreeSet<String> = rows.map(|(reason, _)| reason.to_owned()).collect();
    assert!(said.len() > 12, "the Events were not found: {said:?}");
    assert_eq!(
        written, said,
        "docs/troubleshooting.md, Events by reason (left), and what the code sends (right)"
    );
}

#[test]
fn reasons_are_found_where_events_are_sent() {
    let text = "f(Type::Warning,\n  \"VolumeBroken\", why); (\"ClassOdd\", format!(\"x\")) (\"GoesOn\", note)\n\
        g(\"Other\", 1) h(\"some words\", note)\n#[cfg(test)]\nmod tests { f(Type::Normal, \"No\", x) }";
    let found = reasons(text);
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["ClassOdd", "GoesOn", "VolumeBroken"]);
}

/// The chapters whose commands a scenario runs as they are written, each with the scenario's file.
const RUN: [(&str, &str, &str); 9] = [
    ("README.md", "Install", "chart/documents.rs"),
    ("docs/install.md", "Helm", "chart/documents.rs"),
    ("docs/migration-helm.md", "Move the release", "chart/documents.rs"),
    ("docs/statefulset.md", "Create", "walkthrough.rs"),
    ("docs/statefulset.md", "Delete", "walkthrough.rs"),
    ("docs/statefulset.md", "Look", "walkthrough.rs"),
    ("docs/statefulset.md", "Scale", "walkthrough.rs"),
    ("docs/uninstall.md", "Steps", "uninstall.rs"),
    ("docs/upgrade.md", "Plain manifests", "upgrade.rs"),
];

/// The chapters of a page that have commands and no reason why these are not run.
///
/// A reason is a comment in the chapter, above the commands: `<!-- not run: REASON -->`, or `<!-- run: WHERE -->` where it is
/// no scenario that runs them.
fn unexplained(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let (mut chapter, mut explained, mut fenced) = (String::new(), false, false);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with("```") {
            fenced = !fenced;
            if trimmed == "```sh" && !explained {
                found.insert(chapter.clone());
            }
        } else if fenced {
        } else if let Some(title) = line.strip_prefix("## ").or_else(|| line.strip_prefix("# ")) {
            (chapter, explained) = (title.to_owned(), false);
        } else if let Some(reason) =
            trimmed.strip_prefix("<!-- not run: ").or_else(|| trimmed.strip_prefix("<!-- run: "))
        {
            explained = reason.trim_end_matches("-->").trim().len() > 10;
        }
    }
    found
}

#[test]
fn every_command_in_the_documents_is_run_by_a_scenario_or_says_why_not() {
    let others = ["README.md", "deploy/chart/README.md"].map(str::to_owned);
    let pages: Vec<String> = pages().into_iter().chain(others).collect();
    let mut wrong = Vec::new();
    for page in &pages {
        for chapter in unexplained(&fs::read_to_string(root().join(page)).unwrap()) {
            if !RUN.iter().any(|(run, title, _)| run == page && *title == chapter) {
                wrong.push(format!("{page}: {chapter}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "no scenario runs these commands, and no `<!-- not run: REASON -->` stands above them:\n{}",
        wrong.join("\n")
    );
    for (page, chapter, file) in RUN {
        let text = fs::read_to_string(root().join(page)).unwrap();
        assert!(unexplained(&text).contains(chapter), "{page} has no commands in {chapter}");
        let scenario = root().join("e2e/scenarios/src/scenarios").join(file);
        let scenario = fs::read_to_string(&scenario).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(scenario.contains(page), "{file} does not read {page}");
    }
}

#[test]
fn commands_without_a_reason_are_found() {
    let text = "# A\n```sh\na\n```\n## B\n<!-- not run: there is no such cluster -->\n```sh\nb\n```\n## C\n   ```sh\n   # D\n   ```\n\
        ## E\n```yaml\ne: 1\n```\n";
    assert_eq!(unexplained(text).iter().map(String::as_str).collect::<Vec<_>>(), ["A", "C"]);
}

/// What stands behind `before` in a file of the repository, up to white space, a quote or a bracket.
fn pinned(file: &str, before: &str) -> String {
    let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{file} does not pin {before}"));
    rest.split(|c: char| c.is_whitespace() || matches!(c, '"' | ')' | '{')).next().unwrap().to_owned()
}

#[test]
fn the_versions_that_the_suites_run_stand_in_versions() {
    let minors = pinned("e2e/scenarios/src/scenarios/chart/renderings.rs", "for minor in ");
    let (oldest, newest) = minors.split_once("..=").unwrap();
    let rows = [
        [
            "kube-apiserver, kube-controller-manager, kube-scheduler".to_owned(),
            pinned("e2e/controlplane/go.mod", "k8s.io/kubernetes "),
            "`e2e/run controlplane`, `e2e/run chart`".to_owned(),
        ],
        [
            "Helm".to_owned(),
            format!("{} and {}", pinned("hack/helm", "[3]="), pinned("hack/helm", "[4]=")),
            "`e2e/run chart`".to_owned(),
        ],
        [
            "the chart, rendered for Kubernetes".to_owned(),
            format!("1.{oldest} to 1.{newest}"),
            "`e2e/run chart`".to_owned(),
        ],
        ["Rust".to_owned(), pinned("rust-toolchain.toml", "channel = \""), "all".to_owned()],
    ];
    hold("docs/versions.md", "versions", &table(["what", "version", "suite"], rows));
}
