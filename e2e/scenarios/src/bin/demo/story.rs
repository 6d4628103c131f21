//! How a demonstration speaks: lines with the time since it began.

use std::time::Instant;

/// The one who tells.
pub(crate) struct Teller {
    began: Instant,
}

impl Teller {
    /// It begins now.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now() }
    }

    /// Something happened.
    pub(crate) fn say(&self, text: &str) {
        println!("{:6.2} s  {text}", self.began.elapsed().as_secs_f64());
    }
}

/// A line that belongs to the one before.
pub(crate) fn detail(text: &str) {
    println!("          {text}");
}
