//! Truth values and times in the syntax of Go, as Kubernetes and the older provisioners read them: [`parse_bool`],
//! [`parse_duration`], [`duration_text`].

use std::{fmt::Write as _, time::Duration};

const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A truth value as Go's `strconv.ParseBool` reads it.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// A duration as Go's `time.ParseDuration` reads it, without the negative ones: `1h30m`, `500ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end)?;
        let unit = if matches!(unit, "µs" | "μs") { "us" } else { unit };
        let (_, unit) = *UNITS.iter().find(|(name, _)| *name == unit)?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?;
        // Beyond the nineteenth digit a fraction of an hour is less than a nanosecond.
        let mut scale = unit;
        for digit in fraction.bytes().take(19) {
            scale /= 10;
            nanos = nanos.checked_add(u64::from(digit - b'0') * scale)?;
        }
        rest = after;
    }
    // Go's durations are signed.
    i64::try_from(nanos).is_ok().then(|| Duration::from_nanos(nanos))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// A duration as [`parse_duration`] reads it, in whole units: `24h`, `1m30s`, `0s`.
pub fn duration_text(duration: Duration) -> String {
    let mut nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, unit) in UNITS {
        if nanos >= unit {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{name}", nanos / unit);
            nanos %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let rows = [
            ("0", Duration::ZERO),
            ("+5s", Duration::from_secs(5)),
            ("15s", Duration::from_secs(15)),
            ("1h30m", Duration::from_mins(90)),
            ("1m30.5s", Duration::from_millis(90_500)),
            (".5s", Duration::from_millis(500)),
            ("1.s", Duration::from_secs(1)),
            ("300ms", Duration::from_millis(300)),
            ("1.5ms2us3µs4μs5ns", Duration::from_nanos(1_509_005)),
            ("1.00000000000000000000000001s", Duration::from_secs(1)),
            ("0.1h", Duration::from_mins(6)),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_duration(text), Some(expected), "{text}");
            assert_eq!(parse_duration(&duration_text(expected)), Some(expected), "{text}");
        }
        for bad in ["", "+", "5", "s", ".s", "5 s", "5d", "-5s", "5S", "1h30", "1..5s", "99999999999h", "٣s"]
        {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_duration_is_shown_in_the_units_that_an_administrator_would_write() {
        let rows = [
            ("0s", Duration::ZERO),
            ("24h", Duration::from_hours(24)),
            ("10m", Duration::from_mins(10)),
            ("1h30m", Duration::from_mins(90)),
            ("1m30s500ms", Duration::from_millis(90_500)),
        ];
        for (text, duration) in rows {
            assert_eq!(duration_text(duration), text);
        }
    }
}
