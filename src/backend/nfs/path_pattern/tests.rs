//! What patterns give, refuse and say of themselves.

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
        .map(|segments| segments.to_string())
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
        segments.map(|segments| segments.to_string()).map_err(|error| error.to_string())
    };
    for pattern in ["${.PVC.namespace}/${.PVC.name}", "/${.PVC.namespace}", "ARCHIVED-x/${.PVC.name}"] {
        let error = expand(pattern).unwrap_err();
        assert!(error.contains("kept for archives"), "{pattern}: {error}");
        assert!(error.contains(&format!("such as \"volumes/{pattern}\"")), "{pattern}: {error}");
    }
    assert_eq!(expand("volumes/${.PVC.namespace}").as_deref(), Ok("volumes/archived-team"));
    let default = "archived-team-data-pvc-u-1";
    assert_eq!(default_directory(&claim, &volume).unwrap().to_string(), default);
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
fn a_pattern_with_what_looks_like_a_token_is_reported_with_the_right_spelling() {
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
    assert!(empty("${.PVC.annotations.p}/${.PVC.annotations.q}").unwrap_err().contains("root of the share"));
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
        archive_target(&segments, &volume, suffix, which).to_string()
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
            prop_assert!(segments.to_string().len() <= MAX_PLACE_BYTES);
            prop_assert!(segments.len() <= MAX_SEGMENTS);
            prop_assert!(!segments[0].eq_ignore_ascii_case(RESERVED));
            for segment in segments.iter() {
                prop_assert!(!segment.is_empty() && segment != "." && segment != "..");
                prop_assert!(segment.len() <= MAX_SEGMENT_BYTES);
                prop_assert!(!segment.chars().any(|c| c.is_control() || c == '/' || c == '\\'));
            }
        }
    }
}
