//! What the queue holds: [`Key`], one object that needs work.

use std::sync::Arc;

/// One object that needs work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// The claim with this UID wants a volume, or what was begun for it must be ended.
    Claim(Arc<str>),
    /// The PV for the claim with this UID is stored, and the storage does not know it yet.
    Commit(Arc<str>),
    /// The volume of this name may have to be removed, or is to stay although its removal was begun, or has our finalizer without
    /// need.
    Volume(Arc<str>),
    /// The claim with this UID asks for more than it has.
    Expand(Arc<str>),
    /// The volume of this name lacks our finalizer.
    AddFinalizer(Arc<str>),
    /// The storage may not know that the volume of this name is in use.
    Register(Arc<str>),
    /// The `VolumeAttachment` of this name is to be attached or detached.
    Attachment(Arc<str>),
}
