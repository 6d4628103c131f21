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

/// The names of the modules that a file declares for tests alone: `#[cfg(test)] mod tests;`.
pub(super) fn test_modules(tokens: &[String]) -> Vec<String> {
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    for start in 0..words.len() {
        if !matches!(
            words[start..],
            ["#", "[", "cfg", "(", "test", ..] | ["#", "[", "cfg", "(", "any", "(", "test", ..]
        ) {
            continue;
        }
        // Other attributes and the visibility may follow, but no other item.
        let other = |word: &str| {
            matches!(
                word,
                "mod"
                    | "use"
                    | "fn"
                    | "const"
                    | "static"
                    | "struct"
                    | "enum"
                    | "trait"
                    | "impl"
                    | "type"
                    | "let"
                    | ";"
                    | "{"
            )
        };
        let item = words[start..].iter().position(|word| other(word));
        if let Some(["mod", name, ";", ..]) = item.and_then(|item| words.get(start + item..)) {
            found.push((*name).to_owned());
        }
    }
    found
}

/// The tokens without `pub use …;` and `pub(…) use …;`.
pub(super) fn without_re_exports(tokens: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if tokens[i] == "pub" {
            let restriction = tokens[i + 1..].first().is_some_and(|next| next == "(");
            let word = if restriction {
                tokens[i..]
                    .iter()
                    .position(|token| token == ")")
                    .map_or(tokens.len(), |length| i + length + 1)
            } else {
                i + 1
            };
            if tokens.get(word).is_some_and(|token| token == "use") {
                i = tokens[word..]
                    .iter()
                    .position(|token| token == ";")
                    .map_or(tokens.len(), |length| word + length + 1);
                continue;
            }
        }
        kept.push(tokens[i].clone());
        i += 1;
    }
    kept
}

/// Every path that is written out, `use` trees flattened, `super`, `self` and the package's own name resolved. Where an
/// item may be seen (`pub(in crate::backend)`) is no use of what is named there.
pub(super) fn paths(tokens: &[String], module: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let is_use = tokens[i] == "use";
        if matches!(tokens[i..], [ref word, ref open, ref within, ..] if word == "pub" && open == "(" && within == "in")
        {
            i += tokens[i..].iter().position(|token| token == ")").unwrap_or(tokens.len());
        } else if is_use && tokens.get(i + 1).is_some_and(|next| next == "{") {
            i = tree(tokens, i + 2, "", &mut found);
        } else if is_name(&tokens[i]) && tokens.get(i + 1).is_some_and(|next| next == "::") {
            i = branch(tokens, i, "", &mut found);
        } else if is_use {
            // `use kube;`, where nothing follows that says it again.
            if let Some(name) =
                tokens.get(i + 1).filter(|_| tokens.get(i + 2).is_none_or(|next| next != "::"))
            {
                found.push(name.clone());
            }
            i += 1;
        } else {
            i += 1;
        }
    }
    found.iter().map(|path| resolved(path, module)).collect()
}

/// The names that `use` brings into a module, with the paths that they stand for. A glob brings none.
pub(super) fn imports(tokens: &[String], module: &[String]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        if token != "use" {
            continue;
        }
        let end =
            tokens.iter().skip(i).position(|token| token == ";").map_or(tokens.len(), |length| i + length);
        import(&tokens[i + 1..end], "", &mut found);
    }
    found.into_iter().map(|(name, path)| (name, resolved(&path, module))).collect()
}

/// Reads the branches of a `use` tree that continue `prefix`.
fn import(tokens: &[String], prefix: &str, found: &mut Vec<(String, String)>) {
    let mut depth = 0;
    let branches = tokens.split(|token| {
        depth += match token.as_str() {
            "{" => 1,
            "}" => -1,
            _ => 0,
        };
        depth == 0 && token == ","
    });
    for branch in branches {
        if let Some(brace) = branch.iter().position(|token| token == "{") {
            let inner = branch.get(brace + 1..branch.len().saturating_sub(1)).unwrap_or_default();
            import(inner, &format!("{prefix}{}", branch[..brace].concat()), found);
            continue;
        }
        let (path, alias) = match branch {
            [path @ .., word, alias] if word == "as" => (path, Some(alias)),
            path => (path, None),
        };
        // `self` at the end of a branch stands for the module itself.
        let whole = format!("{prefix}{}", path.concat());
        let whole = whole.strip_suffix("::self").unwrap_or(&whole);
        let name = alias.map_or_else(|| whole.rsplit("::").next().unwrap_or(whole), String::as_str);
        if is_name(name) {
            found.push((name.to_owned(), whole.to_owned()));
        }
    }
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
