//! Holds the glossary of `docs/architecture.md` against the code: each word is the name of one type.

use super::*;

/// The upper limit keeps the code readable without a dictionary.
const WORDS: usize = 30;

fn words() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, glossary) =
        text.split_once("\n## Glossary\n").expect("docs/architecture.md ends with a glossary");
    glossary
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .map(|(word, meaning)| (word.to_owned(), meaning.to_owned()))
        .collect()
}

/// How many types of this name the product has, tests left out.
fn types(name: &str) -> usize {
    let declared = declares(name);
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    files
        .iter()
        .filter(|file| !file.iter().any(|part| part == "tests" || part == "tests.rs"))
        .map(|file| fs::read_to_string(file).unwrap().lines().filter(|line| declared(line)).count())
        .sum()
}

/// Whether a line declares a type of this name.
fn declares(name: &str) -> impl Fn(&str) -> bool {
    move |line| {
        let words: Vec<&str> =
            line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
        line.starts_with("pub")
            && words.windows(2).any(|pair| ["struct", "enum", "trait"].contains(&pair[0]) && pair[1] == name)
    }
}

#[test]
fn the_glossary_is_short_sorted_and_each_word_is_one_type() {
    let words = words();
    assert!((15..=WORDS).contains(&words.len()), "{} words", words.len());
    assert!(words.is_sorted(), "the glossary is sorted by its words");
    let wrong: Vec<_> =
        words.iter().map(|(word, _)| (word, types(word))).filter(|(_, types)| *types != 1).collect();
    assert!(wrong.is_empty(), "words of the glossary that are not the name of exactly one type: {wrong:?}");
}

#[test]
fn a_declaration_is_distinguished_from_a_use() {
    let volume = declares("Volume");
    assert!(volume("pub struct Volume {"));
    assert!(volume("pub(super) enum Volume<T> {"));
    assert!(!volume("pub struct VolumeName {"));
    assert!(!volume("pub fn volume(of: Volume) {"));
    assert!(!volume("// a struct Volume"));
}
