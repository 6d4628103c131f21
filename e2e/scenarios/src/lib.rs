//! Scenarios for berth.
