//! What looks like a token of a pattern and is none: [`find`], over the literal text of a pattern. Pure.
//!
//! Such text is taken as it is, as the older provisioners took it. Nothing is decided about that here.

use std::fmt;

/// Text that looks like a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LookAlike {
    /// As it is written.
    found: String,
    /// The token that was probably meant, where that can be told.
    meant: Option<String>,
}

impl fmt::Display for LookAlike {
    /// What stands there, and what to write.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.found)?;
        match &self.meant {
            Some(meant) => write!(f, " (write {meant:?})"),
            None => Ok(()),
        }
    }
}

/// How a look-alike begins, and how it ends if it is closed. What is longer comes first.
const BRACKETS: [(&str, &str); 5] = [("${", "}"), ("$(", ")"), ("{{", "}}"), ("{", "}"), ("$", "")];

/// No further than this is looked for the end: longer than any key of a label or an annotation.
const LONGEST: usize = 400;

/// The look-alikes in `text`, which holds no token.
pub(super) fn find(text: &str) -> Vec<LookAlike> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['$', '{']) {
        rest = rest.get(start..).unwrap_or_default();
        let length = match read(rest) {
            Some(one) => {
                let length = one.found.len();
                found.push(one);
                length
            }
            None => 1,
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    found
}

/// Reads one look-alike at the beginning of `text`.
fn read(text: &str) -> Option<LookAlike> {
    let text = text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default();
    let (open, close) = BRACKETS.into_iter().find(|(open, _)| text.starts_with(open))?;
    let inside = text.get(open.len()..)?.trim_start_matches(' ');
    let inside = inside.strip_prefix('.').unwrap_or(inside);
    let (subject, inside) =
        ["pvc.", "pv."].into_iter().find_map(|subject| Some((subject, cut_prefix(inside, subject)?)))?;
    let end = if close.is_empty() { None } else { inside.find(close) };
    let name = end.and_then(|end| inside.get(..end)).filter(|name| !name.contains(['$', '{']));
    let name = name.unwrap_or_else(|| {
        // It is not closed: it ends where no name goes on.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        inside.split(|c| !plain(c)).next().unwrap_or_default()
    });
    let closed = end.is_some_and(|end| end == name.len());
    let length = text.len() - inside.len() + name.len() + if closed { close.len() } else { 0 };
    let meant = meant(subject, name.trim());
    Some(LookAlike { found: text.get(..length)?.to_owned(), meant })
}

/// The token for a name of a claim (`pvc.`) or of a volume.
fn meant(subject: &str, name: &str) -> Option<String> {
    let name = cut_prefix(name, "metadata.").unwrap_or(name);
    if subject == "pv." {
        return name.eq_ignore_ascii_case("name").then(|| "${.PV.name}".to_owned());
    }
    for plain in ["name", "namespace"] {
        if name.eq_ignore_ascii_case(plain) {
            return Some(format!("${{.PVC.{plain}}}"));
        }
    }
    ["labels", "annotations"].into_iter().find_map(|map| {
        let key = cut_prefix(name, map)?;
        let key = key.strip_prefix('.').or_else(|| key.strip_prefix('[')?.strip_suffix(']'))?;
        let key = key.trim_matches(['\'', '"']);
        (!key.is_empty()).then(|| format!("${{.PVC.{map}.{key}}}"))
    })
}

/// `text` without `prefix`, in whatever case it is written.
fn cut_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nfs::path_pattern::{Part, Pattern};

    #[test]
    fn what_looks_like_a_token_is_found_with_the_token_that_was_meant() {
        type Row<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);
        let rows: &[Row] = &[
            ("${pvc.metadata.name}", &[("${pvc.metadata.name}", Some("${.PVC.name}"))]),
            ("a-${pvc.metadata.namespace}-b", &[("${pvc.metadata.namespace}", Some("${.PVC.namespace}"))]),
            ("${PVC.name}", &[("${PVC.name}", Some("${.PVC.name}"))]),
            ("${.pvc.name}", &[("${.pvc.name}", Some("${.PVC.name}"))]),
            ("${.PVC.name", &[("${.PVC.name", Some("${.PVC.name}"))]),
            ("${.PVC.name/x", &[("${.PVC.name", Some("${.PVC.name}"))]),
            ("$(.PVC.name)", &[("$(.PVC.name)", Some("${.PVC.name}"))]),
            ("{.PVC.name}", &[("{.PVC.name}", Some("${.PVC.name}"))]),
            ("{{ .PVC.name }}", &[("{{ .PVC.name }}", Some("${.PVC.name}"))]),
            ("{{.PVC.Namespace}}/x", &[("{{.PVC.Namespace}}", Some("${.PVC.namespace}"))]),
            ("$.PVC.name", &[("$.PVC.name", Some("${.PVC.name}"))]),
            ("${pv.metadata.name}", &[("${pv.metadata.name}", Some("${.PV.name}"))]),
            (
                "${pvc.annotations['a.b/c']}",
                &[("${pvc.annotations['a.b/c']}", Some("${.PVC.annotations.a.b/c}"))],
            ),
            ("{.PVC.labels.app}", &[("{.PVC.labels.app}", Some("${.PVC.labels.app}"))]),
            ("${pvc.uid}", &[("${pvc.uid}", None)]),
            ("${pvc.labels[]}", &[("${pvc.labels[]}", None)]),
            (
                "{.PVC.namespace}/{.PVC.name}",
                &[("{.PVC.namespace}", Some("${.PVC.namespace}")), ("{.PVC.name}", Some("${.PVC.name}"))],
            ),
            ("${.PVC.namespace}/${PVC.name}", &[("${PVC.name}", Some("${.PVC.name}"))]),
            ("${.PVC.namespace}/$${.PVC.name}", &[]),
            ("${foo}-${.PVC.name}", &[]),
            ("pvc.name/{x}/$", &[]),
            ("shared/dir", &[]),
            ("${ä", &[]),
        ];
        for (pattern, expected) in rows {
            let parts = Pattern::parse(pattern).unwrap().parts;
            let literal = parts.iter().filter_map(|part| match part {
                Part::Literal(text) => Some(text.as_str()),
                _ => None,
            });
            let found: Vec<_> = literal.flat_map(find).collect();
            let found: Vec<_> = found.iter().map(|one| (one.found.as_str(), one.meant.as_deref())).collect();
            assert_eq!(found, *expected, "{pattern}");
        }
    }

    #[test]
    fn what_never_ends_is_found_once_and_no_further_than_a_key_is_long() {
        let text = format!("${{pvc.annotations['{}", "x".repeat(10_000));
        let found = find(&text);
        assert_eq!(found.len(), 1);
        assert!(found[0].found.len() <= LONGEST);
        assert!(find(&"${".repeat(10_000)).is_empty());
    }
}
