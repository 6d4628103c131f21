//! Reads Rust sources as far as the checks of the layers need it: tokens, and the paths that they spell.
//!
//! [`tokens`] and [`paths`] are what it is for. It is no compiler: it resolves no names and expands no macros.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Identifiers, `::`, and single other characters; comments, strings and characters are left out.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 1;
            i += 2;
            while i < chars.len() && depth > 0 {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
            }
        } else if c.is_alphabetic() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
            if matches!(word.as_str(), "r" | "br" | "cr") && at(i + hashes) == '"' {
                let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let rest: String = chars[i + hashes + 1..].iter().collect();
                let length = rest.find(&end).map_or(rest.len(), |found| found + end.len());
                i += hashes + 1 + rest[..length].chars().count();
            } else {
                tokens.push(word);
            }
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character, or a lifetime.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                i += 3;
            } else {
                i += 1;
            }
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".into());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

/// The tokens without items under `#[cfg(test)]`.
pub(super) fn without_tests(tokens: &[String]) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if tokens[i..].len() >= MARK.len() && tokens[i..].iter().zip(MARK).all(|(token, mark)| token == mark)
        {
            i += MARK.len();
            let mut depth = 0;
            while i < tokens.len() {
                match tokens[i].as_str() {
                    "{" => depth += 1,
                    "}" if depth == 1 => break,
                    "}" => depth -= 1,
                    ";" if depth == 0 => break,
                    _ => {}
                }
                i += 1;
            }
            i += 1;
        } else {
            kept.push(tokens[i].clone());
            i += 1;
        }
    }
    kept
}

/// Every path that is written out, `use` trees flattened, `super`, `self` and the package's own name resolved.
pub(super) fn paths(tokens: &[String], module: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let is_use = tokens[i] == "use";
        if is_use && tokens.get(i + 1).is_some_and(|next| next == "{") {
            i = tree(tokens, i + 2, "", &mut found);
        } else if is_name(&tokens[i]) && tokens.get(i + 1).is_some_and(|next| next == "::") {
            i = branch(tokens, i, "", &mut found);
        } else if is_use {
            // `use kube;`
            if let Some(name) = tokens.get(i + 1) {
                found.push(name.clone());
            }
            i += 1;
        } else {
            i += 1;
        }
    }
    found.iter().map(|path| resolved(path, module)).collect()
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads one path from `i`, which continues `prefix`; returns where it ends.
fn branch(tokens: &[String], mut i: usize, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    loop {
        match tokens.get(i).map(String::as_str) {
            Some("{") if path.ends_with("::") => return tree(tokens, i + 1, &path, found),
            Some(name) if is_name(name) => {
                path.push_str(name);
                i += 1;
            }
            // A glob, or `::<T>` of a call.
            Some(_) | None => break,
        }
        if tokens.get(i).is_none_or(|next| next != "::") {
            break;
        }
        path.push_str("::");
        i += 1;
    }
    found.push(path.trim_end_matches("::").to_owned());
    i
}

/// Reads the branches of `prefix::{…}` from behind the brace; returns where it ends.
fn tree(tokens: &[String], mut i: usize, prefix: &str, found: &mut Vec<String>) -> usize {
    while i < tokens.len() && tokens[i] != "}" {
        if is_name(&tokens[i]) {
            i = branch(tokens, i, prefix, found);
            if tokens.get(i).is_some_and(|next| next == "as") {
                i += 2;
            }
        } else {
            i += 1;
        }
    }
    i + 1
}

fn resolved(path: &str, module: &[String]) -> String {
    let mut parts: Vec<&str> = path.split("::").collect();
    let mut base: Vec<&str> = module.iter().map(String::as_str).collect();
    match parts.first() {
        Some(&"berth") => parts[0] = "crate",
        Some(&("super" | "self")) => {
            while let Some(first @ (&"super" | &"self")) = parts.first() {
                if *first == "super" {
                    base.pop();
                }
                parts.remove(0);
            }
            parts = std::iter::once("crate").chain(base).chain(parts).collect();
        }
        Some(_) | None => {}
    }
    parts.join("::")
}

/// Every source file below `directory`.
pub(super) fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
