//! Whether an export can be written, for readiness: [`Usability`].
//!
//! What the file system says of itself (a read-only mount, rights, space, inodes) is asked every few seconds and changes nothing. A
//! quota or a failing server shows in an operation alone: one that failed for such a reason is a suspicion, and only then a small file
//! is written beside our records and removed again, under the permit of that operation.
//!
//! It stops no operation: on a full export volumes are still removed.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{
    op_error::{OpError, explained},
    record::BASE,
    work::{Context, Opened},
};
use crate::{
    system::root::{Condition, Errno, Failure, Step},
    volume::Permit,
};

/// How often an export that can be written is looked at, and one that cannot.
const EVERY: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(3);

/// The file that a suspicion is tried with, below our own directory, and how much is written: what a file system keeps beside the
/// inode may fit where nothing else does.
const TRIAL: &str = "trial";
const TRIAL_BYTES: usize = 4096;

/// What is known of one export.
#[derive(Debug, Default)]
pub(super) struct Usability {
    known: Mutex<Known>,
    /// Wakes whoever looks.
    news: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// Why it cannot be written, as of the last look.
    unusable: Option<String>,
    /// Since when it is being looked at.
    looking: Option<Instant>,
    /// An operation could not write, with this permit.
    suspicion: Option<Permit>,
    /// Nobody needs it any more.
    over: bool,
    /// Tests that count steps want no others.
    #[cfg(test)]
    trials: bool,
}

impl Usability {
    /// Why the export cannot be written, if so. A look that has not returned for so long says that the server does not answer.
    pub(super) fn verdict(&self, silent: Duration) -> Result<(), String> {
        let known = self.known.lock();
        match (&known.unusable, known.looking.map(|since| since.elapsed())) {
            (_, Some(age)) if age >= silent => {
                Err(format!("it has not said for {}s whether it can be written", age.as_secs()))
            }
            (Some(why), _) => Err(why.clone()),
            (None, _) => Ok(()),
        }
    }

    /// An operation has ended like this.
    pub(super) fn note<T>(&self, result: &Result<T, OpError>, permit: &Permit) {
        let Err(OpError::Step(failure)) = result else { return };
        if cannot_write(failure) {
            self.known.lock().suspicion = Some(permit.clone());
            self.news.notify_all();
        }
    }

    /// Nobody asks any more.
    pub(super) fn end(&self) {
        self.known.lock().over = true;
        self.news.notify_all();
    }

    /// Lets what failed be tried by writing.
    #[cfg(test)]
    pub(super) fn try_by_writing(&self) {
        self.known.lock().trials = true;
    }

    /// Whether something failed and was not tried yet.
    #[cfg(test)]
    pub(super) fn suspects(&self) -> bool {
        self.known.lock().suspicion.is_some()
    }

    /// Notes that the export is being looked at.
    pub(super) fn begin_look(&self) {
        self.known.lock().looking = Some(Instant::now());
    }

    /// Notes what the look found, and returns what the one before it had found.
    pub(super) fn end_look(&self, unusable: Option<String>) -> Option<String> {
        let mut known = self.known.lock();
        known.looking = None;
        std::mem::replace(&mut known.unusable, unusable)
    }

    /// Why the export cannot be written, if so.
    pub(super) fn look(&self, context: &Context, opened: &Opened) -> Result<Option<String>, Failure> {
        let condition = opened.root.condition(&[BASE])?;
        Ok(says(&condition).or_else(|| self.try_suspicion(context, opened)))
    }

    /// Writes a file, if an operation could not: what is wrong with one directory is not wrong with the export.
    fn try_suspicion(&self, context: &Context, opened: &Opened) -> Option<String> {
        let known = self.known.lock();
        #[cfg(test)]
        if !known.trials {
            return None;
        }
        let permit = known.suspicion.clone()?;
        drop(known);
        let gate = |step: &Step<'_>| context.gate(&permit, step);
        let changes = opened.root.changing(&gate);
        let file = [BASE, TRIAL];
        let tried = changes
            .make_directory(&[BASE], 0o700)
            .and_then(|_| changes.write(&file, &[b'.'; TRIAL_BYTES]))
            .and_then(|()| changes.remove_file(&file));
        match tried {
            Err(failure) if cannot_write(&failure) => {
                let what = format!("try to write on export {}", context.export.name);
                Some(explained(&what, failure.into()).chain())
            }
            // What else fails says nothing; without a permit another process finds out.
            Ok(_) | Err(_) => {
                self.known.lock().suspicion = None;
                None
            }
        }
    }

    /// Waits for the time of the next look, or until there is a new suspicion; `false` when nobody needs it any more.
    pub(super) fn wait(&self) -> bool {
        let mut known = self.known.lock();
        let pause = if known.unusable.is_some() { AGAIN } else { EVERY };
        let had = known.suspicion.is_some();
        let waiting = |known: &mut Known| !known.over && (had || known.suspicion.is_none());
        self.news.wait_while_for(&mut known, waiting, pause);
        !known.over
    }
}

/// Whether a step failed for a reason that may be one of the whole export.
fn cannot_write(failure: &Failure) -> bool {
    matches!(
        failure.errno(),
        Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::EIO)
    )
}

/// What the state of a file system means, if it cannot be written.
fn says(condition: &Condition) -> Option<String> {
    let Condition { read_only, refused, bytes, inodes } = condition;
    let none_left = |left: &Option<(u64, u64)>| left.is_some_and(|(free, _)| free == 0);
    if *read_only {
        Some("it is mounted read-only; mount it read-write".to_owned())
    } else if let Some((path, errno)) = refused {
        Some(format!(
            "{path} may not be written ({}); export it read-write and with no_root_squash, or let it belong to the user that the \
             server maps berth to",
            errno.desc()
        ))
    } else if none_left(bytes) {
        Some("no space is left".to_owned())
    } else if none_left(inodes) {
        Some("no inodes are left".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_state_of_an_export_means() {
        let good = Condition { read_only: false, refused: None, bytes: Some((1, 9)), inodes: Some((1, 9)) };
        let refused = Some(("/exports/a".to_owned(), Errno::EACCES));
        let table = [
            ("space and inodes are left", good.clone(), None),
            (
                "a file system that tells neither",
                Condition { bytes: None, inodes: None, ..good.clone() },
                None,
            ),
            ("read-only", Condition { read_only: true, ..good.clone() }, Some("mounted read-only")),
            (
                "not ours to write",
                Condition { refused, ..good.clone() },
                Some("/exports/a may not be written"),
            ),
            ("full", Condition { bytes: Some((0, 9)), ..good.clone() }, Some("no space is left")),
            ("without inodes", Condition { inodes: Some((0, 9)), ..good }, Some("no inodes are left")),
        ];
        for (row, condition, expected) in table {
            let found = says(&condition);
            assert_eq!(found.is_some(), expected.is_some(), "{row}: {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{row}");
        }
    }

    #[test]
    fn a_look_that_does_not_return_says_that_the_server_does_not_answer() {
        let usability = Usability::default();
        usability.known.lock().looking = Some(Instant::now());
        assert_eq!(usability.verdict(Duration::from_hours(1)), Ok(()));
        assert!(usability.verdict(Duration::ZERO).unwrap_err().contains("has not said"));
    }
}
