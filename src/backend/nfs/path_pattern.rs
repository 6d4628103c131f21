//! Names on the storage: [`Pattern`] (the class parameter `pathPattern`), [`default_directory`], [`checked`].
//!
//! Pure, and linear in what it reads, since a claim's author chooses how long that is. Whatever the claim says, the result is a list of plain segments strictly below the store's root. Whether a
//! component is a link, or belongs to somebody else, only the storage can tell; that is not decided here.

mod look_alike;

use crate::{
    backend::{Finding, Inspection},
    volume::{Claim, ClaimKey, Invalid, RelativePath, VolumeName},
};

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
    ) -> Result<RelativePath, Invalid> {
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
pub(crate) fn default_directory(claim: &Claim, volume: &VolumeName) -> Result<RelativePath, Invalid> {
    bounded(&format!("{}-{}-{}", claim.namespace, claim.name, volume))
}

/// The same as [`checked`] for a new volume, which must be neither too deep nor too long.
fn bounded(path: &str) -> Result<RelativePath, Invalid> {
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
pub(crate) fn checked(path: &str) -> Result<RelativePath, Invalid> {
    let wrong = |why: String| Err(Invalid::new("path", shown(path), why));
    if let Some(bad) = path.chars().find(|c| c.is_control() || *c == '\\') {
        return wrong(format!("contains the character {bad:?}, which is not allowed in a directory name"));
    }
    let segments: RelativePath = path.split('/').filter(|s| !s.is_empty()).map(String::from).collect();
    if segments.is_empty() {
        return wrong("names the root of the share itself, which is never a volume".into());
    }
    for segment in segments.iter() {
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
) -> RelativePath {
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
    let target: RelativePath = segments.iter().enumerate().map(name).collect();
    let bytes = target.iter().map(|s| s.len() + 1).sum::<usize>();
    if bytes > MAX_PLACE_BYTES {
        return [format!("{ARCHIVED}{}{suffix}", shortened(volume.as_str(), 200))].into_iter().collect();
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
mod tests;
