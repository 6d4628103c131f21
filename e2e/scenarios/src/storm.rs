//! Kills berth.
