//! Which files use which, and the circles among them: in a room whose files use each other in a circle, none can be read,
//! tested or changed by itself.
//!
//! [`uses`] resolves what a path names through re-exports and imports to the file that defines it, so that a file which
//! takes a type from its parent is held against the parent only if the parent defines it. [`circles`] finds the circles.
//! That a parent declares a module or passes on its names is no use of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    module_of,
    source::{imports, paths, tokens, without_re_exports, without_tests},
};

/// What is known of a file before its paths are resolved.
struct File {
    name: String,
    module: Vec<String>,
    /// Names that `use` brings into it, with the paths that they stand for.
    imports: BTreeMap<String, String>,
    /// Paths and bare names outside of re-exports.
    paths: Vec<String>,
}

/// For each file, by its name below `src`, the others that it uses. `files`: names and texts, of product code alone.
pub(super) fn uses(files: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let files: Vec<File> = files
        .iter()
        .map(|(name, text)| {
            // The program is a crate of its own, on top of the library.
            let module = if name == "main.rs" { vec!["main".to_owned()] } else { module_of(name) };
            let tokens = without_tests(&tokens(text));
            let imports: BTreeMap<_, _> = imports(&tokens, &module).into_iter().collect();
            let used = without_re_exports(&tokens);
            let mut paths = paths(&used, &module);
            paths.extend(used.into_iter().filter(|token| imports.contains_key(token)));
            File { name: name.clone(), paths, module, imports }
        })
        .collect();
    let by_module: BTreeMap<String, &File> =
        files.iter().map(|file| (crate_path(&file.module), file)).collect();
    let mut uses = BTreeMap::new();
    for file in &files {
        let used = file.paths.iter().filter_map(|path| definer(path, file, &by_module, 0));
        let used: BTreeSet<String> = used.filter(|used| *used != file.name).collect();
        uses.insert(file.name.clone(), used);
    }
    uses
}

fn crate_path(module: &[String]) -> String {
    std::iter::once("crate").chain(module.iter().map(String::as_str)).collect::<Vec<_>>().join("::")
}

/// `path` from the crate's root; `None` for what is not ours.
fn absolute(path: &str, file: &File, modules: &BTreeMap<String, &File>, depth: usize) -> Option<String> {
    if path == "crate" || path.starts_with("crate::") {
        return Some(path.to_owned());
    }
    let (first, rest) = path.split_once("::").map_or((path, ""), |(first, rest)| (first, rest));
    let child = format!("{}::{first}", crate_path(&file.module));
    let base = match file.imports.get(first) {
        // `use std::fmt;` brings `fmt`, and `use fmt::Display` begins with it.
        Some(import) if depth < 4 && import != first => absolute(import, file, modules, depth + 1)?,
        None if modules.contains_key(&child) => child,
        Some(_) | None => return None,
    };
    Some(if rest.is_empty() { base } else { format!("{base}::{rest}") })
}

/// The file that defines what `path` names in `file`; `None` for what is not ours.
fn definer(path: &str, file: &File, modules: &BTreeMap<String, &File>, depth: usize) -> Option<String> {
    // A name that is imported from where it is imported from, and so on, ends after a few steps.
    if depth > 8 {
        return None;
    }
    let path = absolute(path, file, modules, 0)?;
    let mut module = path.as_str();
    while !modules.contains_key(module) {
        module = module.rsplit_once("::")?.0;
    }
    let holder = modules.get(module)?;
    let name =
        path.strip_prefix(module)?.strip_prefix("::").map(|rest| rest.split("::").next().unwrap_or(rest));
    match name.and_then(|name| holder.imports.get(name)) {
        Some(origin) if *origin != path => definer(origin, holder, modules, depth + 1),
        Some(_) | None => Some(holder.name.clone()),
    }
}

/// The circles among `uses`: sets of files, each of which uses, perhaps by way of others, all others of its set.
pub(super) fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|file| (file.as_str(), reachable(file, uses))).collect();
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for (file, reached) in &reach {
        if !reached.contains(file) || circles.iter().any(|circle| circle.contains(*file)) {
            continue;
        }
        let circle = reached.iter().filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)));
        circles.push(circle.map(|file| (*file).to_owned()).collect());
    }
    circles
}

/// What `file` uses, directly or by way of others.
fn reachable<'a>(file: &str, uses: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = uses.get(file).into_iter().flatten().map(String::as_str).collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(uses.get(file).into_iter().flatten().map(String::as_str));
        }
    }
    reached
}

/// A circle as lines for a person: for each file what of the circle it uses.
pub(super) fn told(circle: &BTreeSet<String>, uses: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut lines = vec![format!("a circle of {} files:", circle.len())];
    for file in circle {
        let others = uses.get(file).into_iter().flatten().filter(|used| circle.contains(*used));
        let others: Vec<&str> = others.map(String::as_str).collect();
        lines.push(format!("  {file} uses {}", others.join(", ")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let files: Vec<_> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        circles(&uses(&files)).into_iter().map(|circle| circle.into_iter().collect()).collect()
    }

    #[test]
    fn a_circle_is_found_whichever_way_it_goes() {
        let rows: [(&str, &[(&str, &str)]); 6] = [
            ("two files", &[("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")]),
            (
                "a child that takes from its parent",
                &[("a.rs", "use c::C; struct A;"), ("a/c.rs", "use super::A;")],
            ),
            (
                "a path in an expression",
                &[("a.rs", "fn f() { c::g(); }"), ("a/c.rs", "fn g() { super::f(); }")],
            ),
            (
                "siblings by way of their parent's import",
                &[("a.rs", "use b::B; use c::C;"), ("a/b.rs", "use super::C;"), ("a/c.rs", "use super::B;")],
            ),
            (
                "a name that is both passed on and used",
                &[("a.rs", "pub use c::C; struct A(C);"), ("a/c.rs", "use super::A; struct C;")],
            ),
            (
                "by way of a third",
                &[
                    ("a.rs", "use crate::b::B;"),
                    ("b.rs", "use crate::c::C;"),
                    ("c.rs", "use crate::a::{A, D};"),
                ],
            ),
        ];
        for (row, files) in rows {
            assert_eq!(found(files).len(), 1, "{row}");
        }
    }

    #[test]
    fn what_is_no_circle_is_left_alone() {
        let rows: [(&str, &[(&str, &str)]); 7] = [
            ("where an item may be seen", &[("a.rs", "use c::C;"), ("a/c.rs", "pub(in crate::a) struct C;")]),
            ("a declaration", &[("a.rs", "mod c; struct A;"), ("a/c.rs", "use super::A;")]),
            (
                "a parent that only re-exports what siblings define",
                &[
                    ("a.rs", "pub use b::B; mod b; mod c;"),
                    ("a/b.rs", "struct B;"),
                    ("a/c.rs", "use super::B;"),
                ],
            ),
            (
                "a parent that passes on what uses it",
                &[("a.rs", "pub use c::C; struct A;"), ("a/c.rs", "use super::A; struct C;")],
            ),
            ("tests", &[("a.rs", "use c::C;"), ("a/c.rs", "#[cfg(test)]\nmod tests { use crate::a::A; }")]),
            (
                "a local name like that of a module",
                &[("a.rs", "use std::b; fn f() { b::g(); }"), ("a/b.rs", "use super::f;")],
            ),
            ("a name of its own", &[("a.rs", "fn f() { A::new(); } struct A;")]),
        ];
        for (row, files) in rows {
            assert_eq!(found(files), Vec::<Vec<String>>::new(), "{row}");
        }
    }
}
