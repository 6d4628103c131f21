//! How long a file and a function may be, and how many parameters a function may have: what is longer has a seam with a name.
//!
//! Functions of tests may be longer: a table is read row by row. The reading relies on the layout of `cargo fmt`: a function ends at the brace that stands as far left as it begins.

use super::source::tokens;

/// Lines of one file, with its tests.
const FILE: usize = 500;
/// Lines of one function, with its head.
const FUNCTION: usize = 80;
/// Parameters of one function beside `self`.
const PARAMETERS: usize = 6;

/// What is too long in this file, one line each.
pub(super) fn excesses(file: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    if lines.len() > FILE {
        found.push(format!("{file} has {} lines; at most {FILE}", lines.len()));
    }
    let tests =
        lines.windows(2).position(|pair| matches!(pair, ["#[cfg(test)]", test] if test.starts_with("mod ")));
    for (at, line) in lines.iter().enumerate().take(tests.unwrap_or(lines.len())) {
        let Some(name) = function(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let ends = |line: &&str| line.starts_with(&format!("{}}}", " ".repeat(indent)));
        // A function on one line, and one of a trait without a body, end where they begin.
        let head = lines[at..].iter().position(|line| line.ends_with(['{', ';', '}'])).unwrap_or(0);
        let end = if lines[at + head].ends_with('{') { lines[at..].iter().position(ends) } else { None };
        let length = end.unwrap_or(head) + 1;
        if length > FUNCTION {
            found.push(format!("{file}: {name} has {length} lines; at most {FUNCTION}"));
        }
        let parameters = parameters(&lines[at..=at + head].join("\n"));
        if parameters > PARAMETERS {
            found.push(format!("{file}: {name} has {parameters} parameters; at most {PARAMETERS}"));
        }
    }
    found
}

/// The name of the function that begins on this line.
fn function(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let words = before.trim_start();
    let modifier = |word: &str| {
        matches!(word, "pub" | "const" | "async" | "in") || word.starts_with("pub(") || word.ends_with(')')
    };
    let name = after.split(['(', '<']).next()?;
    words.split_whitespace().all(modifier).then_some(name)
}

/// How many parameters with a type the function with this head has.
fn parameters(head: &str) -> usize {
    let tokens = tokens(head);
    let name = tokens.iter().position(|token| token == "fn").unwrap_or(0);
    let mut depth = 0_usize;
    // Bounds of a generic parameter may have parentheses of their own.
    let mut angles = 0_usize;
    let mut parameters = 0;
    for (at, token) in tokens.iter().enumerate().skip(name) {
        match token.as_str() {
            "<" if depth == 0 => angles += 1,
            ">" if depth == 0 && tokens[at - 1] != "-" => angles = angles.saturating_sub(1),
            _ if angles > 0 => {}
            "(" | "[" | "{" => depth += 1,
            ")" if depth == 1 => return parameters,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            ":" if depth == 1 => parameters += 1,
            _ => {}
        }
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_found_however_it_is_written() {
        let body = "        f();\n".repeat(79);
        let rows = [
            ("a file", "\n".repeat(501)),
            ("a function", format!("fn a() {{\n{body}}}\n")),
            ("a method", format!("    pub(in crate::x) async fn a(&self) {{\n{body}    }}\n")),
            ("parameters", "fn f(a: A, b: B, c: C, d: D, e: E, f: F, g: G) {}\n".to_owned()),
            (
                "parameters below each other, after generic ones",
                "fn f<T: Fn(u: u8) -> u8>(\n    a: A,\n    b: B,\n    c: C,\n    (d, e): D,\n    f: F,\n    g: G,\n    h: H,\n) {\n}\n"
                    .to_owned(),
            ),
        ];
        for (row, text) in rows {
            assert_eq!(excesses("a.rs", &text).len(), 1, "{row}");
        }
    }

    #[test]
    fn what_is_short_enough_is_left_alone() {
        let body = "        f();\n".repeat(78);
        let rows = [
            ("a file", "\n".repeat(500)),
            ("two functions", format!("fn a() {{\n{body}}}\n\nfn b() {{\n{body}}}\n")),
            ("a declaration before a function", format!("    fn a(&self);\n\n    fn b() {{\n{body}    }}\n")),
            ("parameters", "fn f(&self, a: A, b: B, c: C, d: D, e: E, f: F) {}\n".to_owned()),
            ("a test", format!("#[cfg(test)]\nmod tests {{\n    fn a() {{\n{body}{body}    }}\n}}\n")),
            ("a pointer to a function", "    ask: fn(A) -> B,\n".to_owned()),
        ];
        for (row, text) in rows {
            assert_eq!(excesses("a.rs", &text), Vec::<String>::new(), "{row}");
        }
    }
}
