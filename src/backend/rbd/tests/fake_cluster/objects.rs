//! What `rados` prints and writes: the list of the trash, headers of images, and objects that are none of RBD's.

use std::fmt::Write as _;

use super::{Answer, Played, State, Trashed, ok, play::Call, recorded};
use crate::backend::rbd::{entry, header};

impl State {
    /// The keys and values of an object. No answer tells a namespace that is not there from one without the object.
    pub(super) fn dumped(&self, call: &Call<'_>, object: &str) -> Played {
        if !self.spaces.contains_key(call.options["-p"]) {
            return recorded("rados-omap-no-pool");
        }
        let none = || recorded("rados-omap-no-object");
        let Some(space) = self.spaces.get(&call.space()) else { return none() };
        let pairs: Vec<(String, Vec<u8>)> = if object == entry::OBJECT {
            if !space.has_trash {
                return none();
            }
            let mut entries: Vec<&Trashed> = space.trash.iter().collect();
            entries.sort_by(|a, b| a.image.id.cmp(&b.image.id));
            entries.into_iter().map(Trashed::written).collect()
        } else if let Some(id) = object.strip_prefix("rbd_header.") {
            let images = space.images.values().filter(|image| !image.without_header);
            let mut all = images.chain(space.trash.iter().map(|entry| &entry.image));
            let Some(image) = all.find(|image| image.id == id && !image.without_header) else {
                return none();
            };
            header::written(image.size, image.snapshots.len() + usize::from(image.mirrored), &image.metadata)
        } else {
            let Some(keys) = space.objects.get(object) else { return none() };
            keys.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        ok(pairs.iter().map(|(key, value)| dump(key, value)).collect::<String>())
    }

    /// Writes a key of an object; what it is an object of is not asked.
    pub(super) fn set_key(&mut self, space: &str, object: &str, key: &str, value: &str) -> Played {
        if self.is_full(space) {
            return Ok(Answer(
                1,
                String::new(),
                "error setting omap value: (110) Connection timed out\n".into(),
            ));
        }
        let (key, value) = (key.to_owned(), value.to_owned());
        if let Some(id) = object.strip_prefix("rbd_header.") {
            let id = id.to_owned();
            self.step(|state| {
                let space = state.space_mut(space);
                let in_trash = space.trash.iter_mut().map(|entry| &mut entry.image);
                let mut all = space.images.values_mut().chain(in_trash);
                let image = all.find(|image| image.id == id).unwrap();
                image.metadata.insert(key.strip_prefix("metadata_").unwrap().to_owned(), value);
            })?;
        } else {
            self.step(|state| {
                let objects = &mut state.space_mut(space).objects;
                objects.entry(object.to_owned()).or_default().insert(key, value.into_bytes());
            })?;
        }
        ok("")
    }

    pub(super) fn make_trash(&mut self, space: &str) -> Played {
        if self.spaces[space].has_trash {
            return recorded("rados-create-exists");
        }
        self.step(|state| state.space_mut(space).has_trash = true)?;
        ok("")
    }
}

impl Trashed {
    fn written(&self) -> (String, Vec<u8>) {
        let source = if self.by_rm { 3 } else { 0 };
        let value = entry::written(&self.name, source, self.at.into(), self.until.into(), self.state);
        (format!("id_{}", self.image.id), value)
    }
}

/// A key with its value as `rados` dumps them.
fn dump(key: &str, value: &[u8]) -> String {
    let mut text = format!("{key}\nvalue ({} bytes) :\n", value.len());
    for (row, bytes) in value.chunks(16).enumerate() {
        let hexadecimal = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "{:08x}  {hexadecimal}  |.|", row * 16);
    }
    let _ = write!(text, "{:08x}\n\n", value.len());
    text
}
