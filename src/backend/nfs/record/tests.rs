//! What records say, written and read back.

use super::*;

fn marker() -> Marker {
    Marker {
        id: "1/nfs/default/pvc-u-1".parse().unwrap(),
        path: "ns/data".parse().unwrap(),
        claim: ClaimKey { namespace: "ns".into(), name: "data".into(), uid: "u-1".into() },
        origin: Origin::Created,
        since: "2026-03-01T10:00:00Z".parse().unwrap(),
        capacity: 1024,
        shared: true,
        unarchived: true,
        archive: Some(Archive {
            path: "archived-ns/data".parse().unwrap(),
            at: "2026-03-02T10:00:00Z".parse().unwrap(),
        }),
        cluster: Some("cluster-1".into()),
        uid: Some("object-1".into()),
        inode: Some(7),
        base: Some(3),
        trash: Some(Trashed {
            entry: "pvc-u-1@20260302T100000Z".into(),
            inode: 7,
            at: "2026-03-02T10:00:00Z".parse().unwrap(),
            until: Some("2026-03-02T10:10:00Z".parse().unwrap()),
            keep: 600,
            below: vec!["ns".into()],
        }),
    }
}

/// As the previous version wrote it: without cluster, object, inode and trash.
fn of_version_1() -> Marker {
    Marker {
        shared: false,
        unarchived: false,
        archive: None,
        cluster: None,
        uid: None,
        inode: None,
        base: None,
        trash: None,
        ..marker()
    }
}

#[test]
fn a_marker_reads_back_as_what_was_written() {
    for marker in [marker(), Marker { shared: false, archive: None, origin: Origin::Adopted, ..marker() }] {
        assert_eq!(Marker::from_json(&marker.to_json()), Ok(marker));
    }
}

#[test]
fn the_text_of_a_marker_is_fixed() {
    let text = String::from_utf8(of_version_1().to_json()).unwrap();
    assert_eq!(
        text,
        "{\"version\":2,\"id\":\"1/nfs/default/pvc-u-1\",\"directory\":[\"ns\",\"data\"],\"claim\":{\"namespace\":\
         \"ns\",\"name\":\"data\",\"uid\":\"u-1\"},\"origin\":\"created\",\"since\":\"2026-03-01T10:00:00Z\",\
         \"capacity\":1024}\n"
    );
}

#[test]
fn a_record_of_version_1_is_read() {
    let text = String::from_utf8(of_version_1().to_json()).unwrap();
    let text = text.replace("\"version\":2", "\"version\":1");
    assert_eq!(Marker::from_json(text.as_bytes()), Ok(of_version_1()));
}

#[test]
fn truncated_foreign_and_dangerous_markers_are_refused() {
    let whole = marker().to_json();
    for length in 0..whole.len() - 2 {
        assert!(Marker::from_json(&whole[..length]).is_err(), "{length} bytes");
    }
    let text = String::from_utf8(whole).unwrap();
    for (from, to) in [
        ("\"version\":2", "\"version\":3"),
        ("pvc-u-1@2026", "../pvc-u-1@2026"),
        ("pvc-u-1@2026", ".pvc-u-1@2026"),
        ("[\"ns\",\"data\"]", "[]"),
        ("[\"ns\",\"data\"]", "[\"..\",\"data\"]"),
        ("[\"ns\",\"data\"]", "[\"ns/data\"]"),
        ("[\"ns\",\"data\"]", "[\".berth\",\"trash\"]"),
        ("[\"archived-ns\",\"data\"]", "[\"..\"]"),
        ("1/nfs/default", "9/nfs/default"),
        ("\"created\"", "\"found\""),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(Marker::from_json(text.replace(from, to).as_bytes()).is_err(), "{from} -> {to}");
    }
}

#[test]
fn identities_differ_and_read_back() {
    let new = Identity::new();
    assert_eq!(Identity::from_json(&new.to_json()), Ok(new.clone()));
    assert_ne!(Identity::new().id, new.id);
    let old = Identity { id: "abc".into(), mirrored: false };
    assert_eq!(Identity::from_json(b"{\"version\":1,\"id\":\"abc\"}"), Ok(old.clone()));
    assert_eq!(old.to_json(), b"{\"version\":1,\"id\":\"abc\"}\n");
    for bad in ["", "{}", "{\"version\":1,\"id\":\"\"}", "{\"version\":2,\"id\":\"a\"}"] {
        assert!(Identity::from_json(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn the_volume_of_a_file_whose_writing_was_interrupted_is_reported_by_its_name() {
    let told = |name: &str| volume_of_temporary(name).map(|name| name.to_string());
    assert_eq!(told(".pvc-1.json.tmp").as_deref(), Some("pvc-1"));
    assert_eq!(told(".pvc-1.json.0123456789abcdef.tmp").as_deref(), Some("pvc-1"));
    assert_eq!(told(".a.b.json.0123456789abcdef.tmp").as_deref(), Some("a.b"));
    for other in ["pvc-1.json", ".pvc-1.json", "pvc-1.json.tmp", ".export.tmp", ".tmp", "..tmp"] {
        assert_eq!(told(other), None, "{other}");
    }
}

#[test]
fn an_inode_counts_only_in_the_tree_in_which_it_was_noted() {
    let noted = Marker { inode: Some(7), base: Some(3), ..marker() };
    assert_eq!((noted.inode_in(3), noted.inode_in(4)), (Some(7), None));
    assert_eq!(Marker { base: None, ..noted }.inode_in(4), Some(7));
}

#[test]
fn records_are_of_one_volume_by_object_by_cluster_or_where_one_is_unsigned_by_claim() {
    let ids = ClusterIds::only("now").also(["before".to_owned()]);
    let record = |cluster: &str, uid: &str, claim: &str| Marker {
        cluster: Some(cluster.to_owned()).filter(|c| !c.is_empty()),
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        claim: ClaimKey { uid: claim.into(), ..marker().claim },
        ..marker()
    };
    let rows = [
        ("one cluster", record("now", "", "a"), record("now", "", "b"), true),
        ("one cluster of two names", record("now", "", "a"), record("before", "", "b"), true),
        ("two clusters", record("now", "", "a"), record("other", "", "a"), false),
        ("two clusters that are not ours", record("x", "", "a"), record("y", "", "a"), false),
        ("one object", record("now", "o", "a"), record("other", "o", "b"), true),
        ("unsigned, of the same claim", record("", "", "a"), record("now", "", "a"), true),
        ("unsigned, of another claim", record("", "", "a"), record("now", "", "b"), false),
        ("both unsigned, of another claim", record("", "", "a"), record("", "", "b"), false),
    ];
    for (why, a, b, same) in rows {
        assert_eq!(a.is_same_volume(&b, Some(&ids)), same, "{why}");
        assert_eq!(b.is_same_volume(&a, Some(&ids)), same, "{why}");
        let elsewhere = Marker { id: "1/nfs/default/pvc-u-2".parse().unwrap(), ..b };
        assert!(!a.is_same_volume(&elsewhere, Some(&ids)), "{why}: another name");
    }
}
