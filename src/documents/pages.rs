//! Each page of `docs/` says whom it is for, lists its chapters where it is longer than a screen, and ends with what to read
//! next; and the table of Events in `docs/troubleshooting.md` has the reasons that the code gives.

use std::{collections::BTreeSet, fs};

use super::{phrases, root};

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

#[test]
fn every_page_says_whom_it_is_for_lists_its_chapters_and_ends_with_what_to_read_next() {
    let mut wrong = Vec::new();
    let mut pages = 0;
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        pages += 1;
        let lacks = lacks(&fs::read_to_string(&path).unwrap());
        wrong.extend(lacks.into_iter().map(|what| format!("{} lacks {what}", path.display())));
    }
    assert!(pages > 15, "the pages were not found");
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
