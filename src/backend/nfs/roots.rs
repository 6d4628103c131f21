//! What each export of this process leads to: [`Roots`]. Two that lead to the same directory would each give away what the
//! other has.

use std::{collections::BTreeMap, sync::Weak};

use parking_lot::Mutex;

use super::export::Export;
use crate::system::root::Seen;

/// Has the root of one export examined again.
pub(super) type Invalidate = dyn Fn() + Send + Sync;

/// Every export whose root was opened, by its name.
#[derive(Default)]
pub(super) struct Roots(Mutex<BTreeMap<String, Known>>);

struct Known {
    /// The export in words.
    shown: String,
    top: (u64, u64),
    identity: Option<String>,
    invalidate: Weak<Invalidate>,
}

impl Roots {
    /// Notes to what the export leads; an error says with which other one it is mixed up, and has that one examined again.
    pub(super) fn note(
        &self,
        export: &Export,
        top: Seen,
        identity: Option<&str>,
        invalidate: Weak<Invalidate>,
    ) -> Result<(), String> {
        let own = Known {
            shown: format!(
                "{:?} ({}:{} at {})",
                export.name,
                export.server,
                export.path,
                export.root.display()
            ),
            top: (top.device, top.inode),
            identity: identity.map(String::from),
            invalidate,
        };
        let mut known = self.0.lock();
        let mut found = None;
        for (_, other) in known.iter().filter(|(name, _)| **name != export.name) {
            let Some(invalidate) = other.invalidate.upgrade() else { continue };
            let why = if other.top == own.top {
                "lead to the same directory"
            } else if other.identity.is_some() && other.identity == own.identity {
                "have the same identity"
            } else {
                continue;
            };
            let message = format!(
                "the exports {} and {} {why}, so that each would give away what the other made; configure the directory \
                 once, with the other server name as an alias and the other path as a former path",
                own.shown, other.shown
            );
            found = Some((invalidate, message));
            break;
        }
        known.insert(export.name.clone(), own);
        drop(known);
        match found {
            None => Ok(()),
            Some((invalidate, message)) => {
                invalidate();
                Err(message)
            }
        }
    }

    /// Forgets an export whose root could not be opened.
    pub(super) fn forget(&self, name: &str) {
        self.0.lock().remove(name);
    }
}
