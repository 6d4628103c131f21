//! The trash: moves there and back, purges, and `rbd rm`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{Image, Played, Space, State, Trashed, ok, recorded};
use crate::backend::rbd::entry;

impl State {
    /// In the steps of the real one: an entry in the trash, then the image has no name, which leaves the list, and the entry
    /// is complete. What was interrupted is gone on with, also by a name that is in the trash alone.
    pub(super) fn trash(&mut self, spec: &str, until: &str) -> Played {
        let (space, name) = spec.rsplit_once('/').unwrap();
        let listed = |space: &Space| space.images.get(name).filter(|image| !image.unlisted).cloned();
        let moving = |space: &Space| {
            let mut entries = space.trash.iter();
            let entry = entries.find(|entry| entry.state == entry::State::Moving && entry.name == name);
            entry.map(|entry| entry.image.clone())
        };
        let found = self.space(space).map(|space| listed(space).or_else(|| moving(space)));
        let image = match found {
            Ok(Some(_)) if self.is_full(space) => return recorded("rbd-trash-mv-full"),
            Ok(Some(image)) => image,
            Ok(None) => return recorded("rbd-trash-mv-no-image"),
            Err(_) => return recorded("rbd-trash-mv-no-pool"),
        };
        let at = self.now();
        let until = match until.strip_suffix(" seconds") {
            Some(seconds) => at + SignedDuration::from_secs(seconds.parse().unwrap()),
            None => until.parse().unwrap(),
        };
        self.move_there(spec, image, (at, until))
    }

    fn move_there(&mut self, spec: &str, image: Image, (at, until): (Timestamp, Timestamp)) -> Played {
        let (space, name) = spec.rsplit_once('/').unwrap();
        let id = image.id.clone();
        self.step(|state| {
            let space = state.space_mut(space);
            space.has_trash = true;
            if !space.trash.iter().any(|entry| entry.image.id == id) {
                let (name, state) = (name.to_owned(), entry::State::Moving);
                space.trash.push(Trashed { name, image, state, by_rm: false, at, until });
            }
        })?;
        self.step(|state| {
            if let Some(image) = state.space_mut(space).images.get_mut(name) {
                image.without_header = true;
            }
        })?;
        self.step(|state| state.space_mut(space).images.remove(name))?;
        self.step(|state| state.entry_mut(space, &id).state = entry::State::Whole)?;
        ok("")
    }

    fn entry_mut(&mut self, space: &str, id: &str) -> &mut Trashed {
        self.space_mut(space).trash.iter_mut().find(|entry| entry.image.id == id).unwrap()
    }

    fn entry(&self, space: &str, id: &str) -> Option<&Trashed> {
        self.space(space).ok()?.trash.iter().find(|entry| entry.image.id == id)
    }

    /// In the steps of the real one: the entry says so, what the name stands for, the list of names, and the entry goes.
    pub(super) fn restore(&mut self, spec: &str, name: &str) -> Played {
        let (space, id) = spec.rsplit_once('/').unwrap();
        let Some(entry) = self.entry(space, id) else { return recorded("rbd-trash-restore-no-image") };
        if matches!(entry.state, entry::State::Moving | entry::State::Removing) {
            return recorded("rbd-trash-restore-half-moved");
        }
        let image = entry.image.clone();
        if self.spaces[space].images.get(name).is_some_and(|there| there.id != id) {
            return recorded("rbd-trash-restore-exists");
        }
        if self.is_full(space) {
            return recorded("rbd-trash-mv-full");
        }
        self.step(|state| state.entry_mut(space, id).state = entry::State::Restoring)?;
        self.step(|state| {
            let image = Image { unlisted: true, without_header: false, ..image };
            state.space_mut(space).images.insert(name.to_owned(), image);
        })?;
        self.step(|state| state.space_mut(space).images.get_mut(name).unwrap().unlisted = false)?;
        self.step(|state| state.space_mut(space).trash.retain(|entry| entry.image.id != id))?;
        ok("")
    }

    pub(super) fn purge(&mut self, spec: &str) -> Played {
        let now = self.now();
        let (space, id) = spec.rsplit_once('/').unwrap();
        let Some(entry) = self.entry(space, id) else { return recorded("rbd-trash-rm-no-image") };
        if entry.until > now {
            return recorded("rbd-trash-rm-not-expired");
        }
        if entry.state == entry::State::Moving {
            return recorded("rbd-trash-rm-half-moved");
        }
        if !entry.image.snapshots.is_empty() {
            return recorded("rbd-trash-rm-snapshots");
        }
        if !entry.image.watchers.is_empty() {
            return recorded("rbd-rm-watched");
        }
        self.step(|state| state.entry_mut(space, id).state = entry::State::Removing)?;
        self.step(|state| {
            let space = state.space_mut(space);
            space.trash.retain(|entry| entry.image.id != id);
            // What names of it were left stand for nothing now.
            space
                .images
                .values_mut()
                .filter(|image| image.id == id)
                .for_each(|image| image.without_header = true);
        })?;
        ok("")
    }

    /// As it is told to: into the trash, also where the pool is full, or at once. What was interrupted it goes on with by the name.
    pub(super) fn remove(&mut self, spec: &str, options: &BTreeMap<&str, &str>) -> Played {
        let (space, name) = spec.rsplit_once('/').unwrap();
        let keeps = options.get("--rbd-move-to-trash-on-remove") == Some(&"true") && !self.keeps_nothing;
        let Ok(there) = self.space(space) else { return recorded("rbd-rm-no-pool") };
        let Some(image) = there.images.get(name).cloned() else {
            let left = there.trash.iter().find(|entry| entry.by_rm && entry.name == name);
            let Some(id) = left.map(|entry| entry.image.id.clone()) else {
                return recorded("rbd-rm-no-image");
            };
            self.step(|state| state.space_mut(space).trash.retain(|entry| entry.image.id != id))?;
            return ok("");
        };
        if self.is_full(space) && !there.has_trash {
            return recorded("rbd-rm-keeps-no-trash");
        }
        if keeps {
            let seconds = options["--rbd-move-to-trash-on-remove-expire-seconds"].parse().unwrap();
            let at = self.now();
            return self.move_there(spec, image, (at, at + SignedDuration::from_secs(seconds)));
        }
        if !self.may_remove {
            self.complaints.push(format!("a whole image was removed at once: {spec}"));
        }
        let (at, id) = (self.now(), image.id.clone());
        self.step(|state| {
            let space = state.space_mut(space);
            space.images.remove(name);
            let (name, state) = (name.to_owned(), entry::State::Removing);
            space.trash.push(Trashed { name, image, state, by_rm: true, at, until: at });
        })?;
        self.step(|state| state.space_mut(space).trash.retain(|entry| entry.image.id != id))?;
        ok("")
    }
}

impl Trashed {
    /// Whether it is kept still for at least a day.
    pub(crate) fn is_kept(&self) -> bool {
        self.until > self.at + SignedDuration::from_hours(24)
    }
}
