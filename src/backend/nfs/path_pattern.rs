//! Names on the storage: [`Pattern`] (the class parameter `pathPattern`), [`default_directory`], [`checked`].
//!
//! Pure, and linear in what it reads, since a claim's author chooses how long that is. Whatever the claim says, the result is a list of plain segments strictly below the store's root. Whether a
//! component is a link, or belongs to somebody else, only the storage can tell; that is not decided here.

mod look_alike;

use crate::backend::{Finding, Inspection};
use crate::volume::{Claim, ClaimKey, Invalid, VolumeName};

/// The longest segment that file systems take, in bytes.
pub(crate) const MAX_SEGMENT_BYTES: usize = 255;

/// The longest path that system calls take, in bytes (`PATH_MAX` without the final NUL).
pub(crate) const MAX_PATH_BYTES: usize = 4095;

/// The directory at the store's root in which berth keeps its own records; never part of a volume's place.
pub(crate) const RESERVED: &str = ".berth";

/// How the names begin that the trash has at the store's root where a full store has no room for it in [`RESERVED`].
pub(crate) const RESERVED_PREFIXES: [&str; 2] = [".berth-trash-", ".berth-purging-"];

/// Below it a record can lie at the same path as a volume below the store's root.
const PLACES: &str = ".berth/places/";

/// The longest path of a new volume below the store's root, in bytes: it is also looked for below `.berth/places/`.
pub(crate) const MAX_PLACE_BYTES: usize = MAX_PATH_BYTES - PLACES.len();

/// How deep a new volume can lie below the store's root. Each directory on the way costs system calls.
pub(crate) const MAX_SEGMENTS: usize = 32;

/// How the names of archives begin, in any case: no pattern gives such a name to a volume.
pub(crate) const ARCHIVED: &str = "archived-";

/// Whether the first segment of a path begins as those of archives do.
pub(crate) fn is_archive(first: &str) -> bool {
    first.get(..ARCHIVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(ARCHIVED))
}

/// What happens where a claim lacks a label or annotation that the pattern names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The claim is refused.
    Refuse,
    /// The token becomes the empty text, as the older provisioners did it.
    Empty,
}

/// A parsed `pathPattern`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    ClaimName,
    ClaimNamespace,
    VolumeName,
    Label(String),
    Annotation(String),
}

const TOKENS: &str = "there are ${.PVC.name}, ${.PVC.namespace}, ${.PVC.labels.KEY}, ${.PVC.annotations.KEY} and \
                      ${.PV.name}";

impl Pattern {
    /// Reads a pattern: a token begins with `${.PVC.` or `${.PV.` and ends at the first `}`, the rest is literal text.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: String| Err(Invalid::new("path pattern", shown(text), why));
        if text.is_empty() {
            return wrong("is empty".into());
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, token) = rest.split_at(start);
            literal.push_str(before);
            rest = token;
            let Some(beginning) = Beginning::of(token) else {
                // What only looks like the beginning of a token is literal, but a token may follow within it.
                literal.push_str("${");
                rest = rest.get(2..).unwrap_or_default();
                continue;
            };
            let Some(end) = token.find('}') else { break };
            let (token, after) = token.split_at(end + 1);
            let inside = token.get(2..end).unwrap_or_default();
            let name = match beginning {
                Beginning::Claim => inside.strip_prefix(".PVC."),
                Beginning::Volume => inside.strip_prefix(".PV."),
                Beginning::WithBlanks => {
                    let tight: String = inside.chars().filter(|c| !c.is_whitespace()).collect();
                    return wrong(format!("has the token {token:?} with blanks in it; write ${{{tight}}}"));
                }
            };
            let name = name.unwrap_or_default();
            let part = if beginning == Beginning::Volume {
                (name == "name").then_some(Part::VolumeName)
            } else {
                match (name, name.strip_prefix("labels."), name.strip_prefix("annotations.")) {
                    ("name", _, _) => Some(Part::ClaimName),
                    ("namespace", _, _) => Some(Part::ClaimNamespace),
                    (_, Some(key), _) if !key.is_empty() => Some(Part::Label(key.into())),
                    (_, _, Some(key)) if !key.is_empty() => Some(Part::Annotation(key.into())),
                    _ => None,
                }
            };
            let Some(part) = part else {
                return wrong(format!("has the unknown token {:?}; {TOKENS}", shown(token)));
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { text: text.into(), parts })
    }

    /// What the pattern says before it is expanded for any claim.
    pub(crate) fn inspect(&self) -> Inspection {
        /// So many look-alikes are told.
        const TOLD: usize = 5;
        let mut inspection = Inspection::default();
        let mut literal = Vec::new();
        for part in &self.parts {
            match part {
                Part::Label(key) => drop(inspection.labels.insert(key.clone())),
                Part::Annotation(key) => drop(inspection.annotations.insert(key.clone())),
                Part::Literal(text) => literal.extend(look_alike::find(text)),
                Part::ClaimName | Part::ClaimNamespace | Part::VolumeName => {}
            }
        }
        let found: Vec<String> = literal.iter().take(TOLD).map(ToString::to_string).collect();
        if !found.is_empty() {
            inspection.findings.push(Finding::LiteralPattern(format!(
                "has a pathPattern with text that only looks like a token and becomes a part of the directory's name as it is: \
                 {}; {TOKENS}",
                found.join(", ")
            )));
        }
        inspection
    }

    /// Whether the path of a volume ends as the pattern may have given it for this claim: what it takes from labels and
    /// annotations can have been anything.
    pub(crate) fn could_give(&self, claim: &ClaimKey, volume: &VolumeName, segments: &[String]) -> bool {
        let mut fixed = vec![String::new()];
        for part in &self.parts {
            let text = match part {
                Part::Literal(text) => text.as_str(),
                Part::ClaimName => &claim.name,
                Part::ClaimNamespace => &claim.namespace,
                Part::VolumeName => volume.as_str(),
                Part::Label(_) | Part::Annotation(_) => {
                    fixed.push(String::new());
                    continue;
                }
            };
            if let Some(last) = fixed.last_mut() {
                last.push_str(text);
            }
        }
        // The export may begin above the directory that the older provisioner knew: the end of the path counts.
        if let [whole] = fixed.as_slice() {
            let whole: Vec<&str> = whole.split('/').filter(|segment| !segment.is_empty()).collect();
            let end = segments.iter().rev().map(String::as_str).take(whole.len());
            return !whole.is_empty() && end.eq(whole.iter().rev().copied());
        }
        // Slashes collapse, so they are left out on both sides.
        let path = segments.concat();
        let fixed: Vec<String> = fixed.iter().map(|text| text.replace('/', "")).collect();
        let Some((first, rest)) = fixed.split_first() else { return false };
        let Some((last, middle)) = rest.split_last() else { return false };
        let Some(mut at) = path.find(first.as_str()).map(|at| at + first.len()) else { return false };
        for text in middle {
            match path.get(at..).and_then(|rest| rest.find(text.as_str())) {
                Some(found) => at += found + text.len(),
                None => return false,
            }
        }
        path.get(at..).is_some_and(|rest| rest.ends_with(last.as_str()))
    }

    /// The segments for one claim.
    ///
    /// Values are inserted once and never read as a pattern again. Where all the tokens lack their values and nothing
    /// else is there, it is the [`default_directory`].
    pub(crate) fn expand(
        &self,
        claim: &Claim,
        volume: &VolumeName,
        missing: Missing,
    ) -> Result<Vec<String>, Invalid> {
        let mut result = String::new();
        let mut lacking: Vec<String> = Vec::new();
        for part in &self.parts {
            let value = match part {
                Part::Literal(text) => text.as_str(),
                Part::ClaimName => &claim.name,
                Part::ClaimNamespace => &claim.namespace,
                Part::VolumeName => volume.as_str(),
                Part::Label(key) | Part::Annotation(key) => {
                    let (from, what) = match part {
                        Part::Label(_) => (&claim.labels, "label"),
                        Part::Annotation(_)
                        | Part::Literal(_)
                        | Part::ClaimName
                        | Part::ClaimNamespace
                        | Part::VolumeName => (&claim.annotations, "annotation"),
                    };
                    let value = from.get(key).map_or("", String::as_str);
                    if value.is_empty() {
                        lacking.push(format!("{what} {key:?}"));
                    }
                    value
                }
            };
            result.push_str(value);
        }
        if result.is_empty() {
            return default_directory(claim, volume);
        }
        if missing == Missing::Refuse && !lacking.is_empty() {
            return Err(Invalid::new(
                "path pattern",
                shown(&self.text),
                format!(
                    "needs the {} of claim {}/{}, which is not set or empty; set it, or set the class parameter \
                     pathPatternMissing to \"empty\"",
                    lacking.join(" and the "),
                    claim.namespace,
                    claim.name
                ),
            ));
        }
        let segments = bounded(&result)?;
        let first = segments.first().map(String::as_str).unwrap_or_default();
        if is_archive(first) && !default_directory(claim, volume).is_ok_and(|default| default == segments) {
            return Err(Invalid::new(
                "path",
                shown(&result),
                format!(
                    "begins with {ARCHIVED:?}, which is kept for archives; use a pathPattern whose first directory has \
                     another name, such as {:?}",
                    format!("volumes/{}", shown(&self.text))
                ),
            ));
        }
        Ok(segments)
    }
}

/// How a token begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Claim,
    Volume,
    /// It would be one of them without its blanks.
    WithBlanks,
}

impl Beginning {
    /// Reads the beginning of `token`, which begins with `${`; looks no further than it has to.
    fn of(token: &str) -> Option<Self> {
        let inside = token.get(2..).unwrap_or_default();
        if inside.starts_with(".PVC.") {
            return Some(Self::Claim);
        }
        if inside.starts_with(".PV.") {
            return Some(Self::Volume);
        }
        let tight: String = inside.chars().filter(|c| !c.is_whitespace()).take(".PVC.".len()).collect();
        (tight.starts_with(".PVC.") || tight.starts_with(".PV.")).then_some(Self::WithBlanks)
    }
}

/// The directory of a volume whose class has no pattern: `<namespace>-<claim>-<volume>`.
pub(crate) fn default_directory(claim: &Claim, volume: &VolumeName) -> Result<Vec<String>, Invalid> {
    bounded(&format!("{}-{}-{}", claim.namespace, claim.name, volume))
}

/// The same as [`checked`] for a new volume, which must be neither too deep nor too long.
fn bounded(path: &str) -> Result<Vec<String>, Invalid> {
    let wrong = |why: String| Err(Invalid::new("path", shown(path), why));
    let segments = || path.split('/').filter(|segment| !segment.is_empty());
    let count = segments().count();
    if count > MAX_SEGMENTS {
        return wrong(format!(
            "has {count} segments; a volume lies at most {MAX_SEGMENTS} directories deep. Use a shorter path"
        ));
    }
    let bytes = segments().map(|segment| segment.len() + 1).sum::<usize>().saturating_sub(1);
    if bytes > MAX_PLACE_BYTES {
        return wrong(format!("has {bytes} bytes; the path of a volume has at most {MAX_PLACE_BYTES}"));
    }
    checked(path)
}

/// Splits a path below a store's root into segments, none of which can lead elsewhere.
///
/// Leading, trailing and repeated slashes do not count.
pub(crate) fn checked(path: &str) -> Result<Vec<String>, Invalid> {
    let wrong = |why: String| Err(Invalid::new("path", shown(path), why));
    if let Some(bad) = path.chars().find(|c| c.is_control() || *c == '\\') {
        return wrong(format!("contains the character {bad:?}, which is not allowed in a directory name"));
    }
    let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(String::from).collect();
    if segments.is_empty() {
        return wrong("names the root of the share itself, which is never a volume".into());
    }
    for segment in &segments {
        if segment == "." || segment == ".." {
            return wrong(format!("contains the segment {segment:?}; name directories in full"));
        }
        if segment.len() > MAX_SEGMENT_BYTES {
            return wrong(format!(
                "has a segment of {} bytes; file systems take {MAX_SEGMENT_BYTES}. Use shorter names or a pathPattern \
                 with a slash",
                segment.len()
            ));
        }
        if segment.eq_ignore_ascii_case(RESERVED) {
            return wrong(format!("contains the segment {segment:?}, where berth keeps its own records"));
        }
    }
    let first = segments.first().map(|first| first.to_ascii_lowercase()).unwrap_or_default();
    if RESERVED_PREFIXES.iter().any(|prefix| first.starts_with(prefix)) {
        return wrong(format!(
            "begins with the segment {first:?}, a name that berth's trash has on a full store"
        ));
    }
    let bytes = segments.iter().map(|s| s.len() + 1).sum::<usize>() - 1;
    if bytes > MAX_PATH_BYTES {
        return wrong(format!("has {bytes} bytes; file systems take {MAX_PATH_BYTES}"));
    }
    Ok(segments)
}

/// Which segment of an archive's place carries the suffix that makes it unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suffixed {
    /// The first one, where a directory of that name is not ours to put something into.
    First,
    /// The last one, where it is only taken.
    Last,
}

/// Where the volume at `segments` is archived: `archived-` before its first segment, `suffix` behind one of them.
///
/// A name that becomes too long for file systems is cut at its end, before the suffix; where the whole path becomes
/// too long, the archive is `archived-<volume>`.
pub(crate) fn archive_target(
    segments: &[String],
    volume: &VolumeName,
    suffix: &str,
    which: Suffixed,
) -> Vec<String> {
    let last = segments.len().saturating_sub(1);
    let marked = match which {
        Suffixed::First => 0,
        Suffixed::Last => last,
    };
    let name = |(index, segment): (usize, &String)| {
        let before = if index == 0 { ARCHIVED } else { "" };
        let behind = if index == marked { suffix } else { "" };
        let room = MAX_SEGMENT_BYTES.saturating_sub(before.len() + behind.len());
        format!("{before}{}{behind}", shortened(segment, room))
    };
    let target: Vec<String> = segments.iter().enumerate().map(name).collect();
    let bytes = target.iter().map(|s| s.len() + 1).sum::<usize>();
    if bytes > MAX_PLACE_BYTES {
        return vec![format!("{ARCHIVED}{}{suffix}", shortened(volume.as_str(), 200))];
    }
    target
}

/// As much from the beginning of `text` as fits into `bytes`.
pub(crate) fn shortened(text: &str, bytes: usize) -> &str {
    let fits = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= bytes).last();
    text.get(..fits.unwrap_or(0)).unwrap_or_default()
}

fn shown(text: &str) -> String {
    const MOST: usize = 200;
    if text.chars().count() <= MOST {
        text.into()
    } else {
        text.chars().take(MOST).chain("…".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn claim() -> Claim {
        Claim {
            namespace: "team-a".into(),
            name: "data".into(),
            uid: "u-1".into(),
            labels: map(&[("app", "web"), ("a.b/c", "dotted"), ("none", "")]),
            annotations: map(&[
                ("dir", "x/y"),
                ("slashes", "//x///y/"),
                ("up", "../other"),
                ("dot", "./x"),
                ("token", "${.PVC.namespace}"),
                ("nul", "a\0b"),
                ("line", "a\nb"),
                ("delete", "a\u{7f}b"),
                ("back", "a\\b"),
                ("berth", ".BERTH/volumes"),
                ("slash", "/"),
            ]),
        }
    }

    fn expand(pattern: &str, missing: Missing) -> Result<String, String> {
        let volume = VolumeName::for_claim("u-1").unwrap();
        Pattern::parse(pattern)
            .and_then(|p| p.expand(&claim(), &volume, missing))
            .map(|segments| segments.join("/"))
            .map_err(|e| e.to_string())
    }

    const DEFAULT: &str = "team-a-data-pvc-u-1";

    /// Proves: row 3.3, row 3.4, row 3.6, row 3.8, row 3.10, row 3.11, row 3.12, row 3.13
    #[test]
    fn patterns_give_directories() {
        let rows: &[(&str, &str, &str)] = &[
            ("the claim's name and namespace", "${.PVC.namespace}/${.PVC.name}", "team-a/data"),
            ("a label", "${.PVC.labels.app}", "web"),
            ("a key with dots and slashes", "${.PVC.labels.a.b/c}", "dotted"),
            ("an annotation with a slash nests", "${.PVC.annotations.dir}", "x/y"),
            ("the volume's name", "${.PVC.name}-${.PV.name}", "data-pvc-u-1"),
            ("slashes collapse", "/a//${.PVC.annotations.slashes}/", "a/x/y"),
            ("a dollar before a token stays", "$${.PVC.name}", "$data"),
            ("a value is not read as a pattern again", "${.PVC.annotations.token}", "${.PVC.namespace}"),
            ("other text in braces is literal", "${foo}-${.PVC.name}", "${foo}-data"),
            ("a token that never ends is literal", "${.PVC.name", "${.PVC.name"),
            ("a token within what only looks like one", "${x${.PVC.name}", "${xdata"),
            ("a literal alone", "shared/dir", "shared/dir"),
            ("all keys missing and nothing else is the default directory", "${.PVC.annotations.no}", DEFAULT),
            ("all values empty likewise", "${.PVC.labels.none}${.PVC.labels.no}", DEFAULT),
            ("the reserved name as part of a segment", "x.berth/.berthed", "x.berth/.berthed"),
            ("what begins a token and has blanks elsewhere", "${x .PVC.name}", "${x .PVC.name}"),
            ("the prefix of archives further down", "x/archived-y", "x/archived-y"),
            ("the prefix of archives without its end", "archived/x", "archived/x"),
        ];
        for (why, pattern, directory) in rows {
            assert_eq!(expand(pattern, Missing::Refuse).as_deref(), Ok(*directory), "{why}");
        }
    }

    /// Proves: row 3.5, row 3.7, row 3.9, row 3.14, row 3.15, row 3.16, row 3.17, row 3.21, statement 4, statement 5, statement 6
    #[test]
    fn patterns_that_lead_astray_are_refused_with_the_reason() {
        let long = "x".repeat(256);
        let wide = vec!["x".repeat(250); 17].join("/");
        let deep = "a/".repeat(33);
        let rows: &[(&str, &str, &str)] = &[
            ("a missing annotation", "${.PVC.namespace}/${.PVC.annotations.no}", "annotation \"no\""),
            ("an empty label", "a-${.PVC.labels.none}", "label \"none\""),
            ("two missing ones joined by a slash", "${.PVC.annotations.p}/${.PVC.annotations.q}", "\"q\""),
            ("an unknown name", "${.PVC.uid}", "\"${.PVC.uid}\""),
            ("labels without a key", "${.PVC.labels}", "unknown token"),
            ("labels with an empty key", "${.PVC.labels.}", "unknown token"),
            ("an unknown name of the volume", "${.PV.uid}", "unknown token"),
            ("blanks within a token", "${ .PVC.name }", "write ${.PVC.name}"),
            ("blanks within the prefix", "${. P V.name}", "write ${.PV.name}"),
            ("a way up", "${.PVC.annotations.up}", "\"..\""),
            ("a way up in the literal", "a/../../b", "\"..\""),
            ("a dot", "${.PVC.annotations.dot}", "\".\""),
            ("a NUL", "${.PVC.annotations.nul}", "'\\0'"),
            ("a line end", "${.PVC.annotations.line}", "'\\n'"),
            ("a delete character", "${.PVC.annotations.delete}", "'\\u{7f}'"),
            ("a backslash", "${.PVC.annotations.back}", "'\\\\'"),
            ("our own records", "${.PVC.annotations.berth}", "its own records"),
            ("our own trash", ".Berth-Trash-x/${.PVC.name}", "berth's trash"),
            ("the share's root", "${.PVC.annotations.slash}", "the root of the share"),
            ("a segment that is too long", &long, "256 bytes"),
            ("a path that is too long", &wide, "4266 bytes; the path of a volume has at most 4081"),
            ("a path that is too deep", &deep, "33 segments; a volume lies at most 32 directories deep"),
        ];
        for (why, pattern, message) in rows {
            let error = expand(pattern, Missing::Refuse).unwrap_err();
            assert!(error.contains(message), "{why}: {error}");
        }
    }

    /// An annotation of 3 KB held a thread of the export for minutes.
    #[test]
    fn a_path_annotation_of_three_kilobytes_is_refused_before_any_call_and_says_why() {
        let claim = Claim { annotations: map(&[("path", &"a/".repeat(1536))]), ..claim() };
        let pattern = Pattern::parse("${.PVC.annotations.path}").unwrap();
        let volume = VolumeName::for_claim("u-1").unwrap();
        let error = pattern.expand(&claim, &volume, Missing::Refuse).unwrap_err().to_string();
        assert!(error.contains("1536 segments; a volume lies at most 32"), "{error}");
        assert!(error.len() < 512, "{} bytes", error.len());
        let fits = vec!["d"; MAX_SEGMENTS].join("/");
        assert_eq!(bounded(&fits).unwrap().len(), MAX_SEGMENTS);
    }

    #[test]
    fn the_longest_path_of_a_volume_still_fits_below_the_mirror_of_the_used_places() {
        let whole = vec!["d".repeat(254); 16].join("/") + "/x";
        assert_eq!(whole.len(), MAX_PLACE_BYTES);
        assert_eq!(format!("{PLACES}{whole}").len(), MAX_PATH_BYTES);
        assert!(bounded(&whole).is_ok());
        assert!(bounded(&format!("{whole}x")).is_err());
        assert!(bounded(&format!("///{whole}//")).is_ok(), "slashes that do not count do not count");
    }

    /// A namespace with such a name was bound to the archive of another's data.
    #[test]
    fn a_pattern_gives_no_name_that_is_kept_for_archives_and_the_default_name_stays() {
        let claim = Claim { namespace: "archived-team".into(), ..claim() };
        let volume = VolumeName::for_claim("u-1").unwrap();
        let expand = |pattern: &str| {
            let segments = Pattern::parse(pattern).unwrap().expand(&claim, &volume, Missing::Refuse);
            segments.map(|segments| segments.join("/")).map_err(|error| error.to_string())
        };
        for pattern in ["${.PVC.namespace}/${.PVC.name}", "/${.PVC.namespace}", "ARCHIVED-x/${.PVC.name}"] {
            let error = expand(pattern).unwrap_err();
            assert!(error.contains("kept for archives"), "{pattern}: {error}");
            assert!(error.contains(&format!("such as \"volumes/{pattern}\"")), "{pattern}: {error}");
        }
        assert_eq!(expand("volumes/${.PVC.namespace}").as_deref(), Ok("volumes/archived-team"));
        let default = "archived-team-data-pvc-u-1";
        assert_eq!(default_directory(&claim, &volume).unwrap(), [default]);
        assert_eq!(expand("${.PVC.annotations.no}").as_deref(), Ok(default));
        assert_eq!(expand("${.PVC.namespace}-${.PVC.name}-${.PV.name}").as_deref(), Ok(default));
    }

    #[test]
    fn a_pattern_tells_whether_it_may_have_given_the_path_of_a_volume() {
        let claim = ClaimKey { namespace: "team".into(), name: "data".into(), uid: "u-1".into() };
        let volume = VolumeName::for_claim("u-1").unwrap();
        let rows = [
            ("${.PVC.namespace}/${.PVC.name}", "team/data", true),
            ("/${.PVC.namespace}//${.PVC.name}/", "team/data", true),
            ("${.PVC.namespace}/${.PVC.name}", "sub/team/data", true),
            ("${.PVC.namespace}/${.PVC.name}", "teamdata", false),
            ("${.PVC.namespace}/${.PVC.name}", "xteam/data", false),
            ("${.PVC.namespace}/${.PVC.name}", "data", false),
            ("${.PVC.namespace}/${.PVC.name}", "team/data/more", false),
            ("${.PV.name}", "pvc-u-1", true),
            ("${.PVC.annotations.path}", "anything/at/all", true),
            ("${.PVC.namespace}/${.PVC.annotations.path}", "team/a/b", true),
            ("${.PVC.namespace}/${.PVC.annotations.path}", "other/a/b", false),
            ("x-${.PVC.labels.a}-y-${.PVC.labels.b}/z", "x-1-y-2/z", true),
            ("x-${.PVC.labels.a}-y-${.PVC.labels.b}/z", "x-1-2/z", false),
        ];
        for (pattern, path, expected) in rows {
            let segments: Vec<String> = path.split('/').map(String::from).collect();
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(pattern.could_give(&claim, &volume, &segments), expected, "{pattern:?} {path}");
        }
    }

    #[test]
    fn a_pattern_tells_which_labels_and_annotations_it_needs() {
        let keys = |pattern: &str| {
            let found = Pattern::parse(pattern).unwrap().inspect();
            assert_eq!(found.findings, [], "{pattern}");
            [found.labels, found.annotations].map(|keys| keys.into_iter().collect::<Vec<_>>().join(" "))
        };
        let pattern =
            "${.PVC.labels.app}/${.PVC.annotations.a.b/c}-${.PVC.labels.app}${.PVC.labels.b}${.PVC.name}";
        assert_eq!(keys(pattern), ["app b", "a.b/c"]);
        assert_eq!(keys("${.PV.name}"), ["", ""]);
    }

    #[test]
    fn a_pattern_with_what_looks_like_a_token_is_told_with_the_right_spelling() {
        let pattern = Pattern::parse("${pvc.metadata.namespace}/{{ .PVC.name }}/${pvc.uid}").unwrap();
        let [Finding::LiteralPattern(text)] = &pattern.inspect().findings[..] else { panic!("one finding") };
        assert_eq!(
            text,
            "has a pathPattern with text that only looks like a token and becomes a part of the directory's name as it is: \
             \"${pvc.metadata.namespace}\" (write \"${.PVC.namespace}\"), \"{{ .PVC.name }}\" (write \"${.PVC.name}\"), \
             \"${pvc.uid}\"; there are ${.PVC.name}, ${.PVC.namespace}, ${.PVC.labels.KEY}, ${.PVC.annotations.KEY} and \
             ${.PV.name}"
        );
        let many = Pattern::parse(&"{.PVC.name}".repeat(10_000)).unwrap().inspect();
        let [Finding::LiteralPattern(text)] = &many.findings[..] else { panic!("one finding") };
        assert!(text.len() < 1024, "{} bytes", text.len());
    }

    /// Proves: row 3.17, statement 6
    #[test]
    fn the_old_behaviour_for_missing_keys_never_gives_the_root() {
        let empty = |pattern| expand(pattern, Missing::Empty);
        assert_eq!(empty("${.PVC.namespace}/${.PVC.annotations.no}").as_deref(), Ok("team-a"));
        assert_eq!(empty("a-${.PVC.labels.none}").as_deref(), Ok("a-"));
        assert_eq!(empty("${.PVC.annotations.no}").as_deref(), Ok(DEFAULT));
        assert!(
            empty("${.PVC.annotations.p}/${.PVC.annotations.q}").unwrap_err().contains("root of the share")
        );
        assert!(empty("${.PVC.annotations.up}").is_err());
        assert!(empty("${.PVC.uid}").is_err());
    }

    /// Proves: row 3.16
    #[test]
    fn a_default_name_that_no_file_system_takes_is_refused_before_any_call() {
        let claim = Claim { name: "n".repeat(253), ..claim() };
        let error = default_directory(&claim, &VolumeName::for_claim("u-1").unwrap()).unwrap_err();
        assert!(error.to_string().contains("file systems take 255"), "{error}");
    }

    /// Proves: row 4.2, row 4.4
    #[test]
    fn archives_keep_the_tree_and_fit_into_what_file_systems_take() {
        let volume = VolumeName::for_claim("u-1").unwrap();
        let target = |path: &str, suffix: &str, which| {
            let segments: Vec<String> = path.split('/').map(String::from).collect();
            archive_target(&segments, &volume, suffix, which).join("/")
        };
        assert_eq!(target("a-b-pvc-1", "", Suffixed::Last), "archived-a-b-pvc-1");
        assert_eq!(target("ns/data/x", "", Suffixed::Last), "archived-ns/data/x");
        assert_eq!(target("ns/data", "-T", Suffixed::Last), "archived-ns/data-T");
        assert_eq!(target("ns/data", "-T", Suffixed::First), "archived-ns-T/data");
        let long = target(&"ä".repeat(127), "-T", Suffixed::Last);
        assert!(long.len() <= 255 && long.ends_with("ä-T"), "{long}");
        let deep = target(&format!("{}d", "abcdefg/".repeat(509)), "-T", Suffixed::Last);
        assert_eq!(deep, "archived-pvc-u-1-T");
    }

    proptest! {
        #[test]
        fn whatever_the_input_the_result_is_strictly_below_the_root(
            pattern in "([a-z/.$ {}\\\\]{0,6}|\\$\\{\\.PVC\\.(name|namespace|labels\\.k|annotations\\.k)\\}|\\$\\{\\.PV\\.name\\}|\\PC{0,3}){0,6}",
            namespace in "\\PC{0,9}", name in "[./a-z]{0,9}", label in ".{0,300}", annotation in "[./\\x00-\\x20a]{0,9}",
            empty in any::<bool>(),
        ) {
            let claim = Claim {
                namespace, name, uid: "u".into(),
                labels: map(&[("k", label.as_str())]),
                annotations: map(&[("k", annotation.as_str())]),
            };
            let missing = if empty { Missing::Empty } else { Missing::Refuse };
            let volume = VolumeName::for_claim("u").unwrap();
            if let Ok(segments) = Pattern::parse(&pattern).and_then(|p| p.expand(&claim, &volume, missing)) {
                prop_assert!(!segments.is_empty());
                prop_assert!(segments.join("/").len() <= MAX_PLACE_BYTES);
                prop_assert!(segments.len() <= MAX_SEGMENTS);
                prop_assert!(!segments[0].eq_ignore_ascii_case(RESERVED));
                for segment in &segments {
                    prop_assert!(!segment.is_empty() && segment != "." && segment != "..");
                    prop_assert!(segment.len() <= MAX_SEGMENT_BYTES);
                    prop_assert!(!segment.chars().any(|c| c.is_control() || c == '/' || c == '\\'));
                }
            }
        }
    }
}
