//! Images: what is told of them, and what is done to them.

use std::{cmp::Ordering, collections::BTreeMap};

use serde_json::json;

use super::{Answer, Image, Played, State, import::Stream, ok, recorded};

impl State {
    /// What is told of an image, if that is asked for.
    pub(super) fn tell_of_image(&self, words: &[&str]) -> Option<Played> {
        Some(match words {
            ["info", spec] => self.described(spec, |name, image| info(name, image).to_string()),
            ["status", spec] => self.described(spec, |_, image| {
                let watchers = image.watchers.iter();
                let watchers =
                    watchers.map(|address| json!({"address": address, "client": 4123, "cookie": 1}));
                json!({"watchers": watchers.collect::<Vec<_>>()}).to_string()
            }),
            ["diff", spec] => self.described(spec, |_, image| {
                let extent = json!({"offset": 0, "length": 65_536, "exists": "true"});
                if image.content { json!([extent]).to_string() } else { "[]".to_owned() }
            }),
            ["snap", "ls", spec] => self.described(spec, |_, image| {
                let of = |name: &String, kind| json!({"id": 4, "name": name, "namespace": {"type": kind}});
                let snapshots = image.snapshots.iter().map(|name| of(name, "user"));
                let mirror = image.mirrored.then(|| of(&".mirror.primary.1".to_owned(), "mirror"));
                json!(snapshots.chain(mirror).collect::<Vec<_>>()).to_string()
            }),
            ["children", spec] => self.described(spec, |_, image| {
                let child =
                    |name| json!({"pool": "rbd", "pool_namespace": "", "image": name, "trash": false});
                json!(image.clones.iter().map(child).collect::<Vec<_>>()).to_string()
            }),
            _ => return None,
        })
    }

    pub(super) fn set_metadata(&mut self, spec: &str, key: &str, value: &str) -> Played {
        if self.image(spec).is_err() {
            return recorded("rbd-meta-set-no-image");
        }
        if self.is_full(spec) {
            return recorded("rbd-meta-set-full");
        }
        self.step(|state| state.image_mut(spec).metadata.insert(key.to_owned(), value.to_owned()))?;
        ok("")
    }

    /// In the steps of the real one: the name in the list, what it stands for, an image of one object, each entry of its metadata,
    /// its size.
    pub(super) fn import(&mut self, spec: &str, options: &BTreeMap<&str, &str>, stdin: &[u8]) -> Played {
        let (space, name) = spec.rsplit_once('/').unwrap();
        match self.space(space) {
            Err(failure) => return recorded(failure),
            Ok(space) if space.images.contains_key(name) => return recorded("rbd-import-exists"),
            Ok(_) if self.is_full(space) => return recorded("rbd-create-full"),
            Ok(_) => {}
        }
        let Some(read) = Stream::read(stdin) else {
            self.complaints.push("an import cannot be read".into());
            return Ok(Answer(22, String::new(), "rbd: import failed: (22) Invalid argument\n".into()));
        };
        if let Some(pool) = options.get("--data-pool")
            && !self.spaces.contains_key(*pool)
        {
            return recorded("rbd-create-no-data-pool");
        }
        let id = self.id();
        let data_pool = options.get("--data-pool").map(|pool| (*pool).to_owned());
        self.step(|state| {
            let image = Image { id: id.clone(), without_header: true, ..Image::default() };
            state.spaces.get_mut(space).unwrap().images.insert(name.to_owned(), image);
        })?;
        self.step(|_| ())?;
        self.step(|state| {
            let image = state.image_mut(spec);
            *image = Image {
                id,
                size: 4 << 20,
                features: read.features,
                // Its own is not written down.
                data_pool: data_pool.filter(|pool| pool != space.split('/').next().unwrap_or_default()),
                ..Image::default()
            };
        })?;
        for (key, value) in read.metadata {
            self.step(|state| state.image_mut(spec).metadata.insert(key, value))?;
        }
        self.step(|state| state.image_mut(spec).size = read.size)?;
        ok("")
    }

    pub(super) fn resize(&mut self, spec: &str, size: &str, may_shrink: bool) -> Played {
        let size: u64 = size.strip_suffix('B').unwrap().parse().unwrap();
        if self.is_full(spec) {
            return recorded("rbd-meta-set-full");
        }
        match self.image(spec).map(|image| image.size.cmp(&size)) {
            Err(failure) => recorded(failure),
            Ok(Ordering::Equal) => recorded("rbd-resize-same"),
            Ok(Ordering::Greater) if !may_shrink => recorded("rbd-resize-shrink"),
            Ok(Ordering::Less | Ordering::Greater) => {
                self.step(|state| state.image_mut(spec).size = size)?;
                ok("")
            }
        }
    }

    /// In the steps of the real one: what the new name stands for, the list of names, what the old name stands for.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Played {
        let ((space, old), (_, new)) = (from.rsplit_once('/').unwrap(), to.rsplit_once('/').unwrap());
        if self.image(from).is_err() {
            return recorded("rbd-rename-no-image");
        }
        if self.spaces[space].images.contains_key(new) {
            return recorded("rbd-rename-exists");
        }
        if self.is_full(space) {
            return recorded("rbd-meta-set-full");
        }
        self.step(|state| {
            let images = &mut state.space_mut(space).images;
            let image = Image { unlisted: true, ..images[old].clone() };
            images.insert(new.to_owned(), image);
        })?;
        if self.spaces[space].images[old].unlisted {
            return recorded("rbd-rename-no-image");
        }
        self.step(|state| {
            let images = &mut state.space_mut(space).images;
            images.get_mut(old).unwrap().unlisted = true;
            images.get_mut(new).unwrap().unlisted = false;
        })?;
        self.step(|state| state.space_mut(space).images.remove(old))?;
        ok("")
    }
}

fn info(name: &str, image: &Image) -> serde_json::Value {
    let names = [
        (0, "layering"),
        (2, "exclusive-lock"),
        (3, "object-map"),
        (4, "fast-diff"),
        (5, "deep-flatten"),
        (6, "journaling"),
    ];
    let features = names.iter().filter(|(bit, _)| image.features & (1 << bit) != 0).map(|(_, name)| *name);
    let mut features: Vec<&str> = features.collect();
    features.extend(image.data_pool.as_ref().map(|_| "data-pool"));
    let mut info = json!({
        "name": name, "id": image.id, "size": image.size, "objects": image.size.div_ceil(4 << 20), "order": 22,
        "object_size": 4 << 20, "snapshot_count": image.snapshots.len() + usize::from(image.mirrored), "format": 2, "features": features,
        "op_features": [], "flags": []
    });
    if let Some(pool) = &image.data_pool {
        info["data_pool"] = json!(pool);
    }
    if let Some(group) = &image.group {
        info["group"] = json!(group);
    }
    if image.mirrored {
        info["mirroring"] = json!({"mode": "snapshot", "state": "enabled", "primary": true});
    }
    info
}
