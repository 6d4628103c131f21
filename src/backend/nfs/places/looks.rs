//! What lies at, above or below a place: [`Occupant`]. Looks only.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{
    super::{
        index::Found,
        op_error::{OpError, fail},
        record::{self, DISPUTED, INTENTS, Marker, VOLUMES},
        work::ExportOp,
    },
    files::{LOOKS, is_gone, is_same, mirror, names, read},
    shared,
};
use crate::{
    backend::Kind,
    system::root::{Entry, Errno},
    volume::RelativePath,
};

/// Records that are read at a time.
const READERS: usize = 16;

/// How another place lies to the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::nfs) enum Relation {
    /// Above it.
    Above,
    /// It is the same one.
    Same,
    /// Below it.
    Below,
}

/// What is in the way.
#[derive(Debug, Clone)]
pub(in crate::backend::nfs) struct Occupant {
    pub(in crate::backend::nfs) relation: Relation,
    /// Where it lies.
    pub(in crate::backend::nfs) path: RelativePath,
    /// What its record says; `None` where that cannot be read.
    pub(in crate::backend::nfs) who: Option<Box<Marker>>,
}

/// What is at one place of the mirror.
pub(super) enum Node {
    Nothing,
    /// The way to others, or left over.
    Folder,
    Volume(Option<Box<Marker>>),
    Shared(shared::Shared),
}

impl Occupant {
    /// Whose it is, in words: "volume pvc-1 of claim ns/data of cluster abc".
    pub(in crate::backend::nfs) fn whose(&self) -> String {
        let Some(who) = &self.who else {
            return "a volume whose record cannot be read".into();
        };
        let mut text = String::new();
        if who.archive.as_ref().is_some_and(|archive| archive.path == self.path) {
            text.push_str("the archive of ");
        }
        let _ = write!(text, "volume {} of claim {}", who.id.name(), who.claim);
        match &who.cluster {
            Some(cluster) => {
                let _ = write!(text, " of cluster {cluster}");
            }
            None => text.push_str(" of an unknown cluster"),
        }
        text
    }

    /// Why the directory at `asked` cannot be had, as a sentence without its end.
    pub(in crate::backend::nfs) fn explained(&self, asked: &RelativePath) -> String {
        let (path, whose) = (&self.path, self.whose());
        match self.relation {
            Relation::Same => format!("directory {asked} belongs to {whose}"),
            Relation::Above => format!("directory {asked} lies within {path}, which belongs to {whose}"),
            Relation::Below => {
                format!("directory {asked} overlaps with {path} below it, which belongs to {whose}")
            }
        }
    }
}

/// Whatever lies at, above or below `path` by the mirror, also if it is ours.
pub(in crate::backend::nfs) fn occupant(
    work: &ExportOp<'_>,
    path: &RelativePath,
) -> Result<Option<Occupant>, OpError> {
    if let Some(occupant) = above_strictly(work, path)? {
        return Ok(Some(occupant));
    }
    let same = |who| Some(Occupant { relation: Relation::Same, path: path.clone(), who });
    match node(work, path)? {
        Node::Nothing => Ok(None),
        Node::Volume(who) => Ok(same(who)),
        Node::Shared(shared) => Ok(shared.first().and_then(same)),
        Node::Folder => below(work, path),
    }
}

/// Whether the place at `path` is noted as that of `marker`, alone or together with others.
pub(in crate::backend::nfs) fn holds(
    work: &ExportOp<'_>,
    marker: &Marker,
    path: &RelativePath,
) -> Result<bool, OpError> {
    Ok(match node(work, path)? {
        Node::Nothing | Node::Folder => false,
        Node::Volume(who) => who.is_some_and(|who| is_same(work, &who, marker)),
        Node::Shared(shared) => shared.has(work, marker),
    })
}

/// What lies at, above or below `path` and is not the volume of `marker`: by the mirror, by the volumes that never got
/// their place, and, while the places of an older export are still being noted, by the records. Who is asked before a
/// volume is moved: it must be `None` then, unless the place is shared.
pub(in crate::backend::nfs) fn overlapping(
    work: &ExportOp<'_>,
    marker: &Marker,
    path: &RelativePath,
) -> Result<Option<Occupant>, OpError> {
    if let Some(occupant) = above_strictly(work, path)? {
        return Ok(Some(occupant));
    }
    let same = |who| Some(Occupant { relation: Relation::Same, path: path.clone(), who });
    let found = match node(work, path)? {
        Node::Nothing => None,
        Node::Volume(Some(who)) if is_same(work, &who, marker) => None,
        Node::Volume(who) => same(who),
        Node::Shared(shared) => shared.other(work, marker).and_then(same),
        Node::Folder => below(work, path)?,
    };
    let found = match found {
        None => disputed(work, marker, path)?,
        found => found,
    };
    match found {
        None => unmirrored(work, marker, path),
        found => Ok(found),
    }
}

/// A shared place above `path`. Who has linked something below looks for it. One that nobody is in is removed, so that
/// nobody joins it any more; who founds it again needs an empty directory.
pub(super) fn above(work: &ExportOp<'_>, path: &RelativePath) -> Result<Option<Occupant>, OpError> {
    for parent in path.parents() {
        let mut shared = shared::at(work, &parent)?;
        if shared.as_ref().is_some_and(|shared| shared.first().is_none()) {
            shared::clear(work, &parent)?;
            shared = shared::at(work, &parent)?;
        }
        if let Some(shared) = shared {
            // One whose volumes are unknown is about to have one.
            let who = shared.first().flatten();
            return Ok(Some(Occupant { relation: Relation::Above, path: parent, who }));
        }
    }
    Ok(None)
}

/// Anything above `path`.
pub(super) fn above_strictly(work: &ExportOp<'_>, path: &RelativePath) -> Result<Option<Occupant>, OpError> {
    for parent in path.parents() {
        let who = match node(work, &parent)? {
            Node::Nothing => return Ok(None),
            Node::Folder => continue,
            Node::Volume(who) => Some(who),
            Node::Shared(shared) => shared.first(),
        };
        if let Some(who) = who {
            return Ok(Some(Occupant { relation: Relation::Above, path: parent, who }));
        }
    }
    Ok(None)
}

/// One of the volumes below `path`.
pub(super) fn below(work: &ExportOp<'_>, path: &RelativePath) -> Result<Option<Occupant>, OpError> {
    let mut open = vec![path.clone()];
    let mut looks = 0;
    while let Some(folder) = open.pop() {
        for name in names(work, &mirror(&folder))? {
            looks += 1;
            let path = folder.child(name);
            let who = match node(work, &path)? {
                Node::Nothing => continue,
                Node::Volume(who) => who,
                Node::Shared(shared) => match shared.first() {
                    Some(who) => who,
                    None => continue,
                },
                Node::Folder if looks < LOOKS => {
                    open.push(path);
                    continue;
                }
                Node::Folder => None,
            };
            return Ok(Some(Occupant { relation: Relation::Below, path, who }));
        }
    }
    Ok(None)
}

/// A volume of another one's place that never got its own.
pub(super) fn disputed(
    work: &ExportOp<'_>,
    marker: &Marker,
    path: &RelativePath,
) -> Result<Option<Occupant>, OpError> {
    for file in names(work, &record::ours([DISPUTED]))? {
        let Some(name) = record::volume_of(&file) else { continue };
        let who = match work.root.read_fresh(&record::file(DISPUTED, &name))? {
            None => continue,
            Some(content) => Marker::from_json(&content.bytes),
        };
        // What cannot be read protects nothing: the volume's record does, and that is in the way of its own removal.
        let Ok(who) = who else { continue };
        if let Some(relation) = relation(&who.path, path)
            && !is_same(work, &who, marker)
        {
            return Ok(Some(Occupant { relation, path: who.path.clone(), who: Some(Box::new(who)) }));
        }
    }
    Ok(None)
}

/// A recorded volume whose place is perhaps not noted yet, on an export of an older version.
pub(super) fn unmirrored(
    work: &ExportOp<'_>,
    marker: &Marker,
    path: &RelativePath,
) -> Result<Option<Occupant>, OpError> {
    if work.opened.mirrored.load(Ordering::SeqCst) {
        return Ok(None);
    }
    let overlapping = match work.context.index.overlapping(path, marker.id.name(), || read_all(work)) {
        Ok(found) => found,
        // What a record that cannot be read protects is a directory: where there is none, it protects nothing.
        Err(OpError::Reported(error)) if error.kind() == Kind::Refused => {
            return match work.root.entry(path)? {
                Entry::Missing => Ok(None),
                Entry::Directory | Entry::Other => Err(error.into()),
            };
        }
        Err(error) => return Err(error),
    };
    for (name, other) in overlapping {
        let who = match work.record(VOLUMES, &name)? {
            None => work.record(INTENTS, &name)?,
            found => found,
        };
        // It is gone by now, or lies elsewhere.
        let Some(who) = who.filter(|who| who.path == other) else { continue };
        if let Some(relation) = relation(&other, path) {
            return Ok(Some(Occupant { relation, path: other, who: Some(Box::new(who)) }));
        }
    }
    Ok(None)
}

/// How `other` lies to `path`; `None` where they do not overlap.
fn relation(other: &RelativePath, path: &RelativePath) -> Option<Relation> {
    other.overlaps(path).then(|| match other.len().cmp(&path.len()) {
        std::cmp::Ordering::Less => Relation::Above,
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Greater => Relation::Below,
    })
}

/// Looks at one place of the mirror; asks the server.
pub(super) fn node(work: &ExportOp<'_>, path: &RelativePath) -> Result<Node, OpError> {
    let leaf = mirror(path);
    let seen = match work.root.see_fresh(&leaf) {
        Ok(seen) => seen,
        Err(failure) if is_gone(&failure) => None,
        Err(failure) => return Err(failure.into()),
    };
    match seen.map(|seen| seen.entry) {
        None | Some(Entry::Missing) => Ok(Node::Nothing),
        Some(Entry::Other) => Ok(match work.root.read_fresh(&leaf) {
            Ok(None) => Node::Nothing,
            Ok(Some(content)) => Node::Volume(read(work, &content.bytes)?),
            Err(failure) if is_gone(&failure) => Node::Nothing,
            // A pipe, a link, something huge: it is nobody's, and in the way until a person looks.
            Err(failure)
                if failure.errno().is_none_or(|errno| matches!(errno, Errno::ELOOP | Errno::EFBIG)) =>
            {
                Node::Volume(None)
            }
            Err(failure) => return Err(failure.into()),
        }),
        Some(Entry::Directory) => Ok(shared::at(work, path)?.map_or(Node::Folder, Node::Shared)),
    }
}

/// Reads all records, many at a time: the time goes into waiting for the server.
fn read_all(work: &ExportOp<'_>) -> Result<Found, OpError> {
    let mut records = Vec::new();
    for folder in [record::INTENTS, record::VOLUMES] {
        let names = work.root.names(&[record::BASE, folder])?;
        records.extend(names.iter().filter_map(|name| record::volume_of(name)).map(|name| (folder, name)));
    }
    let next = AtomicUsize::new(0);
    let read_some = || -> Result<Found, OpError> {
        let mut found = Vec::new();
        while let Some((folder, name)) = records.get(next.fetch_add(1, Ordering::Relaxed)) {
            let marker = match work.record(folder, name)? {
                // Committed in between, or gone.
                None => work.record(record::VOLUMES, name)?,
                found => found,
            };
            if let Some(marker) = marker {
                found.push((name.clone(), marker.path));
            }
        }
        Ok(found)
    };
    let parts = thread::scope(|scope| {
        let readers = READERS.min(records.len() / 64);
        let others: Vec<_> =
            (0..readers).filter_map(|_| thread::Builder::new().spawn_scoped(scope, read_some).ok()).collect();
        let mut parts = vec![read_some()];
        for other in others {
            parts
                .push(other.join().unwrap_or_else(|_| fail(Kind::Internal, "reading the records broke off")));
        }
        parts
    });
    let mut all = Vec::new();
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}
