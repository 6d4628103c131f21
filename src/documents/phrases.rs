//! The phrases that the troubleshooting tables quote are those that the code says, and no sentence of the code has a gap.
//!
//! A table of this kind has `the … says` at the head of its first column. In a cell of that column `…` stands for what
//! differs, `<br>` parts phrases of which the Event or the log says one, and `*(…)*` says where, and is no part of the phrase, and neither are the backticks around one.

use std::{fs, iter::Peekable, str::Chars};

use super::{root, sources};

/// The string literals of a source without its tests, joined over line continuations.
fn literals(text: &str) -> Vec<String> {
    let code = text.find("#[cfg(test)]\nmod tests {").map_or(text, |tests| &text[..tests]);
    let mut literals = Vec::new();
    let mut chars = code.chars().peekable();
    let mut word = String::new();
    while let Some(c) = chars.next() {
        let before = std::mem::take(&mut word);
        match c {
            '/' if chars.peek() == Some(&'/') => {
                let _ = chars.by_ref().find(|c| *c == '\n');
            }
            '"' if matches!(before.trim_end_matches('#'), "r" | "br" | "cr") => {
                literals.push(raw(&mut chars, before.matches('#').count()));
            }
            '"' => literals.push(quoted(&mut chars)),
            '\'' => character(&mut chars),
            c if c.is_alphanumeric() || c == '_' || (c == '#' && !before.is_empty()) => {
                word = before;
                word.push(c);
            }
            _ => {}
        }
    }
    literals
}

/// The rest of a literal, behind its quote.
fn quoted(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut literal = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                Some('n') => literal.push('\n'),
                Some('t') => literal.push('\t'),
                Some(c) => literal.push(c),
                None => {}
            },
            c => literal.push(c),
        }
    }
    literal
}

/// The rest of a raw literal that ends with so many hashes.
fn raw(chars: &mut Peekable<Chars<'_>>, hashes: usize) -> String {
    let end = format!("\"{}", "#".repeat(hashes));
    let mut literal = String::new();
    for c in chars {
        literal.push(c);
        if let Some(whole) = literal.strip_suffix(&end) {
            return whole.to_owned();
        }
    }
    literal
}

/// Passes a character, or the mark of a lifetime.
fn character(chars: &mut Peekable<Chars<'_>>) {
    let mut ahead = chars.clone();
    match (ahead.next(), ahead.next()) {
        (Some('\\'), Some(_)) => {
            let _ = chars.nth(1);
            let _ = chars.find(|c| *c == '\'');
        }
        (Some(_), Some('\'')) => {
            let _ = chars.nth(1);
        }
        _ => {}
    }
}

/// Every source that is no test, as its path below `src` and its text.
pub(super) fn code() -> Vec<(String, String)> {
    let directory = root().join("src");
    let mut files = Vec::new();
    sources(&directory, &mut files);
    let mut code = Vec::new();
    for file in files {
        let name = file.strip_prefix(&directory).unwrap().display().to_string();
        let is_test = name.split(['/', '.']).any(|part| {
            matches!(part, "tests" | "conformance" | "layers" | "documents" | "fake_host" | "memory")
        });
        if !is_test {
            code.push((name, fs::read_to_string(&file).unwrap()));
        }
    }
    code
}

/// The literals of every source that is no test, each with its file.
fn said() -> Vec<(String, String)> {
    let literals_of = |(name, text): (String, String)| {
        literals(&text).into_iter().map(move |literal| (name.clone(), literal)).collect::<Vec<_>>()
    };
    code().into_iter().flat_map(literals_of).collect()
}

/// The cells of the first column of every table in `text` whose head is `the … says`.
fn says(text: &str) -> Vec<&str> {
    let mut cells = Vec::new();
    let mut within = false;
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| ") else {
            within = false;
            continue;
        };
        let cell = row.split(" | ").next().unwrap_or_default().trim();
        if cell.starts_with("the ") && cell.ends_with(" says") {
            within = true;
        } else if within && !cell.starts_with("---") {
            cells.push(cell);
        }
    }
    cells
}

/// The parts of a cell that the code has to say.
fn parts(cell: &str) -> Vec<&str> {
    let phrases = cell.split("<br>").map(|phrase| phrase.split("*(").next().unwrap_or_default());
    phrases
        .flat_map(|phrase| phrase.split('…'))
        .map(|part| part.trim_matches([' ', '`']))
        .filter(|part| !part.is_empty())
        .collect()
}

#[test]
fn the_tables_of_troubleshooting_quote_what_the_code_says() {
    let said = said();
    let mut missing = Vec::new();
    for (page, least) in [("docs/troubleshooting.md", 40), ("docs/operations.md", 1)] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let cells = says(&text);
        assert!(cells.len() >= least, "the tables of {page} were not found: {cells:?}");
        for cell in cells {
            for part in parts(cell) {
                if !said.iter().any(|(_, literal)| literal.contains(part)) {
                    missing.push(format!("{page}: {part:?} of the row {cell:?}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "quoted, and not what the code says:\n{}", missing.join("\n"));
}

/// Where the `\` at the end of a line is lost, the indentation of the next one is printed.
#[test]
fn no_sentence_of_the_code_has_a_gap() {
    let mut gaps = Vec::new();
    for (file, literal) in said() {
        if literal.lines().any(|line| line.trim().contains("   ")) {
            gaps.push(format!("{file}: {literal:?}"));
        }
    }
    assert!(gaps.is_empty(), "{}", gaps.join("\n"));
}

#[test]
fn literals_are_found_however_they_are_written() {
    let rows: [(&str, &str, &[&str]); 7] = [
        ("over lines", "f(\"one \\\n    sentence\")", &["one sentence"]),
        ("escapes", r#"f("a \"b\" \\", "c")"#, &["a \"b\" \\", "c"]),
        ("raw", "f(r#\"a \"b\" c\"#, r\"d\\\")", &["a \"b\" c", "d\\"]),
        ("characters", "f('\"', '\\'', '\\u{20}', \"a\")", &["a"]),
        ("lifetimes", "fn f<'a>(_: &'a str) { g(\"a\") }", &["a"]),
        ("comments", "// \"a\"\n/// \"b\"\nf(\"c\") // \"d\"", &["c"]),
        ("tests", "f(\"a\")\n#[cfg(test)]\nmod tests { g(\"b\") }", &["a"]),
    ];
    for (row, text, expected) in rows {
        assert_eq!(literals(text), expected, "{row}");
    }
}

#[test]
fn a_cell_is_taken_apart() {
    let table = "| the Event says | do |\n| --- | --- |\n| a … b<br>c *(on a claim)* | x |\n| `d …` | y |\n\n| other | y |\n| z | … |\n";
    assert_eq!(says(table), ["a … b<br>c *(on a claim)*", "`d …`"]);
    assert_eq!(says(table).into_iter().flat_map(parts).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}
