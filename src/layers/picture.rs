//! Holds the picture in `docs/architecture.md` against the sources: which module uses which.
//!
//! The picture is a list of lines, `module → the modules that it uses`. A new arrow is a change of the architecture, and
//! shows in the picture; it needs a decision record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{cycles, product_files};

/// The rooms that the picture shows, besides the top modules.
const ROOMS: [&str; 4] = ["backend/ceph", "backend/nfs", "backend/rbd", "backend/cephfs"];

/// The room of a file: `backend/nfs/store.rs` is in `backend/nfs`, `provisioner/queue.rs` in `provisioner`.
fn room(file: &str) -> String {
    let module = file.strip_suffix(".rs").unwrap_or(file);
    let inside = |room: &&&str| {
        module.strip_prefix(**room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let top = module.split('/').next().unwrap_or(module);
    ROOMS.iter().find(inside).map_or(top, |room| room).to_owned()
}

/// The arrows between rooms, as the sources have them.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, used) in cycles::uses(&product_files()) {
        let from = room(&file);
        // The crate's own root only declares the modules and the version.
        let to = used.iter().map(|used| room(used)).filter(|to| *to != from && to != "lib");
        arrows.entry(from.clone()).or_default().extend(to);
    }
    arrows.remove("lib");
    arrows
}

#[test]
fn the_picture_shows_the_arrows_that_there_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let text = fs::read_to_string(&path).unwrap();
    let picture = text.split("```arrows\n").nth(1).and_then(|rest| rest.split("```").next());
    let picture = picture.expect("docs/architecture.md has a block ```arrows");
    let drawn: BTreeSet<String> =
        picture.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let there: BTreeSet<String> = arrows()
        .into_iter()
        .map(|(from, to)| {
            format!("{from} → {}", to.into_iter().collect::<Vec<_>>().join(" ")).trim_end().to_owned()
        })
        .collect();
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
        a.difference(b).cloned().collect::<Vec<_>>().join("\n  ")
    };
    assert!(
        drawn == there,
        "docs/architecture.md draws\n  {}\nand the sources have\n  {}",
        only(&drawn, &there),
        only(&there, &drawn)
    );
}
