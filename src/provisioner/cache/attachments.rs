//! What is kept of the `VolumeAttachment`s of our drivers: [`Attachments`].
//!
//! It says which volumes are attached, so that none is removed before and none is attached twice that one node alone may use.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::wakeups::Wakeups;
use crate::provisioner::{key::Key, names, objects::AttachmentObject};

/// What waits for all attachments to be known waits for what has this id, which no object can have as its name.
const LISTED: &str = "/attachments";

/// What is kept of a `VolumeAttachment`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the object, independent of the others")]
pub(in crate::provisioner) struct Attachment {
    pub(in crate::provisioner) uid: Box<str>,
    pub(in crate::provisioner) version: Box<str>,
    /// The CSI driver of the volume.
    pub(in crate::provisioner) driver: Box<str>,
    pub(in crate::provisioner) node: Box<str>,
    /// The name of the volume; `None` for one that has no PV.
    pub(in crate::provisioner) volume: Option<Arc<str>>,
    pub(in crate::provisioner) attached: bool,
    pub(in crate::provisioner) deleting: bool,
    /// Whether our finalizer keeps it in the API until it is detached.
    pub(in crate::provisioner) held: bool,
    /// What was told last of a failure to attach it.
    pub(in crate::provisioner) attach_error: Option<Box<str>>,
    /// Whether its status tells of a failure to detach it.
    pub(in crate::provisioner) detach_failed: bool,
    /// This process has decided to attach it: the node may use the volume, whether or not that is known already.
    pub(in crate::provisioner) granted: bool,
    round: u32,
}

impl Attachment {
    fn new(object: &AttachmentObject, round: u32) -> Self {
        let AttachmentObject { metadata, spec, status } = object;
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        let finalizer = names::attachment_finalizer(&spec.attacher);
        let volume = spec.source.persistent_volume_name.as_deref().filter(|name| !name.is_empty());
        Self {
            uid: text(&metadata.uid),
            version: text(&metadata.resource_version),
            driver: spec.attacher.as_str().into(),
            node: spec.node_name.as_str().into(),
            volume: volume.map(Into::into),
            attached: status.attached,
            deleting: metadata.deletion_timestamp.is_some(),
            held: metadata.finalizers.iter().flatten().any(|name| *name == finalizer),
            attach_error: status.attach_error.as_ref().map(|error| error.message.as_str().into()),
            detach_failed: status.detach_error.is_some(),
            granted: false,
            round,
        }
    }

    /// Whether anything is to be done about it.
    fn needs_work(&self) -> bool {
        if self.deleting { self.held } else { !self.attached }
    }

    /// Whether its node may be using the volume.
    pub(in crate::provisioner) fn is_used(&self) -> bool {
        self.attached || self.granted
    }
}

/// The attachments of our drivers' volumes, by name and by volume.
#[derive(Debug, Default)]
pub(in crate::provisioner) struct Attachments {
    /// The CSI drivers whose volumes we attach.
    drivers: Vec<String>,
    by_name: HashMap<Arc<str>, Attachment>,
    by_volume: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Whether they may be read.
    readable: bool,
    /// Counts the lists: what a new one does not have is gone.
    round: u32,
    listed: bool,
}

impl Attachments {
    /// Attaches the volumes of these drivers.
    pub(in crate::provisioner) fn of(drivers: Vec<String>) -> Self {
        Self { drivers, readable: true, ..Self::default() }
    }

    /// Whether there are any to look after.
    pub(in crate::provisioner) fn served(&self) -> bool {
        !self.drivers.is_empty()
    }

    /// The attachment of this name.
    pub(in crate::provisioner) fn get(&self, name: &str) -> Option<&Attachment> {
        self.by_name.get(name)
    }

    /// The attachments of this volume, by name.
    pub(in crate::provisioner) fn of_volume(
        &self,
        volume: &str,
    ) -> impl Iterator<Item = (&Arc<str>, &Attachment)> {
        let names = self.by_volume.get(volume).into_iter().flatten();
        names.filter_map(|name| self.by_name.get_key_value(name))
    }

    /// The node of this attachment may use its volume from now on.
    pub(in crate::provisioner) fn grant(&mut self, name: &str) {
        if let Some(known) = self.by_name.get_mut(name) {
            known.granted = true;
        }
    }

    /// The work that there is.
    pub(super) fn work(&self) -> impl Iterator<Item = Key> {
        let waiting = self.by_name.iter().filter(|(_, known)| known.needs_work());
        waiting.map(|(name, _)| Key::Attachment(Arc::clone(name)))
    }

    /// This process leads no more: what it had decided and not written, another process decides.
    pub(super) fn rest(&mut self) {
        for known in self.by_name.values_mut() {
            known.granted = false;
        }
    }

    /// Whether an attachment holds this volume of this driver; if so, `key` is worked on again when that is over.
    ///
    /// Where attachments may not be read, none holds anything: the backend still looks who uses the volume.
    pub(in crate::provisioner) fn hold(
        &self,
        driver: &str,
        volume: &str,
        key: Key,
        wakeups: &mut Wakeups,
    ) -> Option<Held> {
        if !self.drivers.iter().any(|one| one == driver) || !self.readable {
            return None;
        }
        if !self.listed {
            wakeups.wait(&LISTED.into(), key);
            return Some(Held::Unknown);
        }
        let (name, held) = self.of_volume(volume).next()?;
        wakeups.wait(&waited(name), key);
        Some(Held::By(Arc::clone(name), held.node.clone()))
    }

    /// Whether attachments may be read.
    pub(in crate::provisioner) fn read(&mut self, readable: bool, wakeups: &mut Wakeups) {
        let lost = self.readable && !readable;
        self.readable = readable;
        if lost {
            wakeups.gone(LISTED);
            for name in self.by_name.keys() {
                wakeups.gone(&waited(name));
            }
        }
    }

    /// A complete list begins.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// The list is complete: what it did not have is gone.
    pub(super) fn complete(&mut self, wakeups: &mut Wakeups) {
        let gone = self.by_name.iter().filter(|(_, known)| known.round != self.round);
        let gone: Vec<_> = gone.map(|(name, _)| Arc::clone(name)).collect();
        for name in gone {
            self.forget(&name, wakeups);
        }
        self.listed = true;
        wakeups.gone(LISTED);
    }

    /// An attachment is there, or has changed.
    pub(in crate::provisioner) fn see(&mut self, object: &AttachmentObject, wakeups: &mut Wakeups) {
        let Some(name) = object.metadata.name.as_deref() else { return };
        if !self.drivers.contains(&object.spec.attacher) {
            return;
        }
        let mut now = Attachment::new(object, self.round);
        match self.by_name.get(name).filter(|known| known.uid == now.uid) {
            Some(known) => now.granted = known.granted && !now.attached,
            // Another object of this name is another attachment.
            None => self.forget(name, wakeups),
        }
        let changed = self.by_name.get(name).is_none_or(|before| {
            before.deleting != now.deleting || before.attached && !now.attached && !now.deleting
        });
        let work = changed && now.needs_work();
        let name: Arc<str> = name.into();
        if let Some(volume) = &now.volume {
            self.by_volume.entry(Arc::clone(volume)).or_default().insert(Arc::clone(&name));
        }
        self.by_name.insert(Arc::clone(&name), now);
        if work {
            wakeups.wake(Key::Attachment(name));
        }
    }

    /// The attachment of this name is gone.
    pub(in crate::provisioner) fn forget(&mut self, name: &str, wakeups: &mut Wakeups) {
        let Some((name, known)) = self.by_name.remove_entry(name) else { return };
        if let Some(volume) = &known.volume
            && let Some(names) = self.by_volume.get_mut(volume)
        {
            names.remove(&name);
            if names.is_empty() {
                self.by_volume.remove(volume);
            }
        }
        wakeups.forget(&Key::Attachment(Arc::clone(&name)));
        wakeups.gone(&waited(&name));
    }
}

/// What waits for this attachment to go waits for what has this id, which no object can have as its name.
pub(in crate::provisioner) fn waited(attachment: &str) -> Arc<str> {
    format!("/attachment/{attachment}").into()
}

/// Why a volume must not be removed, as far as attachments go.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::provisioner) enum Held {
    /// By this attachment, to this node.
    By(Arc<str>, Box<str>),
    /// It is not known yet whether it is attached.
    Unknown,
}
