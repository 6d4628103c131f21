//! Removing a volume that has a record, which was proved to be its own: [`Removing`].
//!
//! Every step says by what it leaves behind that it was done, so that the next attempt finishes what was begun and
//! [`restore`] undoes it.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    archive,
    entry::{self, SelfDescribingName},
    mounted,
    moves::{self, ActiveRecord, PathState, path_state},
    op_error::{OpError, fail, is_full, unless_full},
    parents::remove_parents,
    places::{self, Leaving, Occupied},
    record::{Marker, Trashed},
    restore,
    stage::{Stage, stage},
    work::{ExportOp, Rule},
};
use crate::{
    backend::{Kind, Removed, take_over},
    system::root::Errno,
    volume::{Disposal, Removal, UNRECORDED},
};

/// The removal of a volume that has a record, which was proved to be this volume's.
pub(super) struct Removing<'a> {
    pub(super) work: &'a ExportOp<'a>,
    pub(super) removal: &'a Removal,
    pub(super) active: ActiveRecord,
}

impl Removing<'_> {
    pub(super) fn run(mut self) -> Result<Removed, OpError> {
        let disposal = self.removal.disposal.of(self.active.marker.origin).of(self.removal.origin);
        if disposal == Disposal::Retain {
            return self.keep();
        }
        let by_inode = self.work.context.enforces(Rule::Inode);
        let inode = match stage(self.work, &self.active.marker)? {
            Stage::InPlace(inode) => inode,
            Stage::Another { found, recorded } => self.accepted(found, recorded)?,
            Stage::InTrash { entry, inode } => return self.resume(disposal, &entry, inode),
            Stage::Archived(inode) if self.active.marker.unarchived && by_inode => {
                return self.leave_archive(disposal, inode);
            }
            Stage::Archived(_) => {
                leave_place(self.work, &self.active.marker)?;
                return Ok(Removed::Archived(archive::finish(self.work, &self.active)?));
            }
            Stage::Missing => return self.missing(disposal),
            Stage::Mounted { inode, below } => return self.on_mount(disposal, inode, &below),
            Stage::NotADirectory => {
                let path = &self.active.marker.path;
                let message = format!("{path} is not a directory, but a file or a link; nothing was touched");
                return fail(Kind::Refused, message);
            }
        };
        if !self.clear_way()? {
            return self.forget(Removed::Kept);
        }
        match disposal {
            Disposal::Archive => {
                self.sign(inode)?;
                archive::choose(self.work, &mut self.active, Timestamp::now())?;
            }
            Disposal::Delete | Disposal::Retain => {
                archive::give_up(self.work, &self.active.marker)?;
                self.active.marker.archive = None;
            }
        }
        let entry = self.move_to_trash(inode)?;
        finish(self.work, &mut self.active, &entry, inode)
    }

    /// The directory at the place is another one than was recorded. An administrator may say that it is right.
    fn accepted(&self, found: u64, recorded: u64) -> Result<u64, OpError> {
        let marker = &self.active.marker;
        let owner = marker.cluster.as_deref().unwrap_or(UNRECORDED);
        if self.removal.pv_metadata.take_over.as_deref() == Some(owner) {
            return Ok(found);
        }
        let (path, file) = (&marker.path, self.active.file());
        let command = take_over(&self.removal.name, owner);
        fail(
            Kind::Refused,
            format!(
                "directory {path} is not the one that the record {file} is of (inode {found}, recorded {recorded}): it was \
                 replaced or copied; nothing was touched. If it holds this volume and nothing else: {command}"
            ),
        )
    }

    /// Makes sure that nothing of any cluster lies at, above or below the directory; `false` where others share it.
    fn clear_way(&self) -> Result<bool, OpError> {
        let (work, marker) = (self.work, &self.active.marker);
        if !work.context.enforces(Rule::Places) {
            return Ok(true);
        }
        let refused = |occupant: &places::Occupant| {
            let why = occupant.explained(&marker.path);
            fail(Kind::Refused, format!("{why}; nothing was touched"))
        };
        let noted = places::occupy(work, marker, &self.active.file(), &marker.path, marker.shared);
        match unless_full(noted)? {
            Some(Occupied::Taken(occupant)) => return refused(&occupant),
            Some(Occupied::Free | Occupied::Joined(_)) => {}
            // A full export takes no note. What is noted can be read.
            None => {
                if let Some(occupant) = places::overlapping(work, marker, &marker.path)? {
                    return refused(&occupant);
                }
            }
        }
        if marker.shared { self.leaves_last() } else { Ok(true) }
    }

    /// Whether nobody shares the directory any more, and nobody can come.
    fn leaves_last(&self) -> Result<bool, OpError> {
        let (work, marker) = (self.work, &self.active.marker);
        Ok(match unless_full(places::leave_shared(work, marker, &marker.path))? {
            Some(Leaving::Last | Leaving::NotThere) => true,
            Some(Leaving::Others(_)) => false,
            None => {
                let message = "the export is full, and a shared directory cannot be closed; free some space";
                return fail(Kind::Exhausted, message);
            }
        })
    }

    /// The record as it is from now on: of this object, this cluster, this claim.
    fn signed(&self, inode: u64) -> Result<Marker, OpError> {
        let (work, removal) = (self.work, self.removal);
        let marker = &self.active.marker;
        let uid = removal.pv_metadata.known_uid().map(String::from);
        Ok(Marker {
            claim: removal.claim.clone(),
            cluster: work.signature().or_else(|| marker.cluster.clone()),
            uid: uid.or_else(|| marker.uid.clone()),
            inode: Some(inode),
            base: Some(work.base()?),
            trash: None,
            ..marker.clone()
        })
    }

    fn sign(&mut self, inode: u64) -> Result<(), OpError> {
        self.active.marker = self.signed(inode)?;
        Ok(())
    }

    /// What the record is to say of the removal.
    fn trashed(&self, inode: u64) -> Trashed {
        let kube = &self.work.context.kube;
        let now = kube.now().and_then(|now| Timestamp::try_from(now).ok());
        let at = now.unwrap_or_else(Timestamp::now);
        let keep = self.removal.pv_metadata.retention.unwrap_or_else(|| kube.trash_retention());
        Trashed {
            entry: entry::recorded(&self.removal.name, at),
            inode,
            at,
            until: now.and_then(|now| now.checked_add(keep).ok()),
            keep: keep.as_secs(),
            below: Vec::new(),
        }
    }

    /// Writes the removal into the record, moves the directory to the trash, and tells as which entry. Where the export is
    /// full the name of the entry holds what the record should.
    fn move_to_trash(&mut self, inode: u64) -> Result<String, OpError> {
        let work = self.work;
        let trash = self.trashed(inode);
        let (entry, at, keep) = (trash.entry.clone(), trash.at, Duration::from_secs(trash.keep));
        let marker = Marker { trash: Some(trash), ..self.signed(inode)? };
        work.context.trash.moving(&entry);
        let written = unless_full(work.changes.write(&self.active.file(), &marker.to_json()))?;
        if written.is_some() {
            self.active.marker = marker;
            let path = &self.active.marker.path;
            if unless_full(moves::moved(work, path, &moves::in_trash(&entry), inode))?.is_some() {
                return Ok(entry);
            }
        }
        if self.active.marker.archive.is_some() {
            let message = "the export is full: there is no room for an archive. Free some space, or have the volume deleted";
            return fail(Kind::Exhausted, message);
        }
        let marker = self.signed(inode)?;
        move_as_whole(work, &marker, inode, at, keep)
    }

    /// Goes on with a volume that an earlier call moved to the trash.
    fn resume(mut self, disposal: Disposal, entry: &str, inode: u64) -> Result<Removed, OpError> {
        let entry = moves::rename_entry(self.work, &mut self.active, entry, inode)?;
        // Between the move and now a call that was delayed may have let others in.
        if self.active.marker.shared && self.work.context.enforces(Rule::Places) && !self.leaves_last()? {
            restore::back_from_trash(self.work, &self.active, &entry, inode)?;
            return self.forget(Removed::Kept);
        }
        if disposal != Disposal::Archive || self.active.marker.unarchived {
            self.no_archive()?;
        }
        if disposal == Disposal::Archive && self.active.marker.archive.is_none() {
            archive::choose(self.work, &mut self.active, Timestamp::now())?;
        }
        finish(self.work, &mut self.active, &entry, inode)
    }

    /// Removes a volume once more that was to be brought back from its archive: by a call that may hang, and would put it into
    /// the place of the next volume. So it leaves the archive, and goes to one of another name.
    fn leave_archive(mut self, disposal: Disposal, inode: u64) -> Result<Removed, OpError> {
        let work = self.work;
        let Some(target) = self.active.marker.archive.as_ref().map(|archive| archive.path.clone()) else {
            return fail(Kind::Internal, format!("nothing says where {} is archived", self.removal.name));
        };
        let trash = self.trashed(inode);
        let entry = trash.entry.clone();
        let marker = Marker { trash: Some(trash), ..self.signed(inode)? };
        work.context.trash.moving(&entry);
        work.changes.write(&self.active.file(), &marker.to_json())?;
        self.active.marker = marker;
        moves::moved(work, &target, &moves::in_trash(&entry), inode)?;
        self.no_archive()?;
        self.resume(disposal, &entry, inode)
    }

    /// Removes a volume in another file system: to the trash there, once the record lies in the export's.
    fn on_mount(mut self, disposal: Disposal, inode: u64, below: &[String]) -> Result<Removed, OpError> {
        let work = self.work;
        mounted::check(work, &self.active.marker, below, disposal == Disposal::Archive)?;
        if !self.clear_way()? {
            return self.forget(Removed::Kept);
        }
        let trash = Trashed { below: below.to_vec(), ..self.trashed(inode) };
        work.context.trash.moving(&trash.entry);
        let entry = trash.entry.clone();
        // Inodes are those of that file system, whatever the export's own are.
        let marker =
            Marker { trash: Some(trash), inode: None, base: None, archive: None, ..self.signed(inode)? };
        work.changes.write(&self.active.file(), &marker.to_json())?;
        self.active.marker = marker;
        places::vacate(work, &self.active.marker, &self.active.marker.path)?;
        work.changes.rename(&self.active.file(), &moves::trash_record(&entry))?;
        moves::forget_moved(work, &self.active.marker)?;
        let removed = mounted::finish(work, &self.active.marker)?;
        work.context.trash.added();
        Ok(removed)
    }

    /// It was to be archived there, and is to be deleted now, or to be archived elsewhere.
    fn no_archive(&mut self) -> Result<(), OpError> {
        if self.active.marker.archive.is_none() {
            return Ok(());
        }
        let marker = Marker { archive: None, ..self.active.marker.clone() };
        if unless_full(self.work.changes.write(&self.active.file(), &marker.to_json()))?.is_some() {
            archive::give_up(self.work, &self.active.marker)?;
            self.active.marker = marker;
        }
        Ok(())
    }

    /// Neither at its place nor where the record says: perhaps a call that was delayed moved it.
    fn missing(mut self, disposal: Disposal) -> Result<Removed, OpError> {
        let (work, name) = (self.work, &self.removal.name);
        let inode = self.active.marker.inode_in(work.base()?);
        let entry = match inode {
            Some(inode) => moves::entry_of(work, name, inode)?,
            None => None,
        };
        let top = match (&entry, inode) {
            (None, Some(inode)) => moves::entry_at_top(work, name, inode)?,
            (Some(_), _) | (None, None) => None,
        };
        if let Some(inode) = inode
            && (entry.is_some() || top.is_some())
        {
            let trash = self.trashed(inode);
            let entry = entry.unwrap_or_else(|| trash.entry.clone());
            let trash = Trashed { entry: entry.clone(), ..trash };
            let marker = Marker { trash: Some(trash), ..self.signed(inode)? };
            work.changes.write(&self.active.file(), &marker.to_json())?;
            self.active.marker = marker;
            if let Some(top) = top {
                work.context.trash.moving(&entry);
                moves::moved(work, &top, &moves::in_trash(&entry), inode)?;
                work.context.trash.taken(&top);
            }
            return self.resume(disposal, &entry, inode);
        }
        archive::give_up(work, &self.active.marker)?;
        leave_place(work, &self.active.marker)?;
        self.forget(Removed::Absent)
    }

    /// Leaves the bytes where they are. What was moved already goes back first.
    fn keep(self) -> Result<Removed, OpError> {
        restore::cancel(self.work, &self.active, None)?;
        unless_full(places::vacate(self.work, &self.active.marker, &self.active.marker.path))?;
        self.forget(Removed::Kept)
    }

    fn forget(&self, removed: Removed) -> Result<Removed, OpError> {
        moves::forget(self.work, &self.active.marker)?;
        Ok(removed)
    }
}

/// Does what remains once the directory lies in the trash.
pub(super) fn finish(
    work: &ExportOp<'_>,
    active: &mut ActiveRecord,
    entry: &str,
    inode: u64,
) -> Result<Removed, OpError> {
    leave_place(work, &active.marker)?;
    if let Some(archive) = active.marker.archive.clone() {
        if path_state(work, &archive.path)? != PathState::Nothing {
            archive::choose(work, active, archive.at)?;
        }
        return Ok(Removed::Archived(archive::settle(work, active, entry, inode)?));
    }
    put_record(work, active, entry)?;
    work.context.trash.added();
    Ok(Removed::Trashed)
}

/// Gives up the place in the mirror and the parents that we made. A full export keeps the note; without a record it counts as
/// left over.
fn leave_place(work: &ExportOp<'_>, marker: &Marker) -> Result<(), OpError> {
    unless_full(places::vacate(work, marker, &marker.path))?;
    remove_parents(work, &marker.path)
}

/// Moves the record of a removed volume beside its entry. A full export may not take it: then the name tells.
pub(super) fn put_record(work: &ExportOp<'_>, active: &ActiveRecord, entry: &str) -> Result<(), OpError> {
    match unless_full(work.changes.rename(&active.file(), &moves::trash_record(entry))) {
        Ok(Some(())) => {}
        Ok(None) => return Ok(()),
        // A volume of an older provisioner on a full export has none.
        Err(OpError::Step(failure)) if failure.errno() == Some(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    moves::forget_moved(work, &active.marker)
}

/// Moves a directory to the trash under a name that holds the record: where nothing can be written.
pub(super) fn move_as_whole(
    work: &ExportOp<'_>,
    marker: &Marker,
    inode: u64,
    at: Timestamp,
    keep: Duration,
) -> Result<String, OpError> {
    let whole = SelfDescribingName {
        volume: marker.id.name().clone(),
        at,
        uid: marker.uid.clone(),
        cluster: marker.cluster.clone(),
        inode,
        keep: keep.as_secs(),
    };
    let Some(name) = whole.name() else {
        let message = "the export is full, and what must be noted of the volume is too long for a name; free some space";
        return fail(Kind::Exhausted, message);
    };
    work.context.trash.moving(&name);
    match moves::moved(work, &marker.path, &moves::in_trash(&name), inode) {
        Ok(()) => return Ok(name),
        Err(OpError::Step(failure)) if is_full(&failure) || failure.errno() == Some(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    let top = entry::at_top(entry::AT_TOP, &name);
    work.context.trash.put_at_top(&top.to_string());
    moves::moved(work, &marker.path, &top, inode)?;
    Ok(name)
}
