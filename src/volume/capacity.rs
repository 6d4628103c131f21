//! Sizes: [`Capacity`], bytes that cannot wrap, read from and written as a Kubernetes quantity.
//!
//! It follows `k8s.io/apimachinery/pkg/api/resource.Quantity`: decimal and binary suffixes, exponents, fractions rounded
//! up to whole bytes, values capped at `i64::MAX`. It does not know CPU units beyond reading their suffixes.

use std::{fmt, str::FromStr};

use super::Invalid;

/// A number of bytes, from 0 to `i64::MAX` (the range of a Kubernetes quantity's integer form).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capacity(i64);

impl Capacity {
    /// Exactly `bytes`, or the largest capacity where that is too much.
    pub fn from_bytes(bytes: u64) -> Self {
        Self(i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0.unsigned_abs()
    }
}

impl fmt::Display for Capacity {
    /// Canonical: the largest binary suffix that leaves a whole number, else plain bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let mut rest = self.0;
        let mut suffix = SUFFIXES.iter();
        let mut last = suffix.next().copied().unwrap_or_default();
        if rest != 0 {
            for next in suffix {
                if rest % 1024 != 0 {
                    break;
                }
                rest /= 1024;
                last = next;
            }
        }
        write!(f, "{rest}{last}")
    }
}

impl FromStr for Capacity {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse(text).map(Self).map_err(|why| Invalid::new("capacity", text, why))
    }
}

/// Powers of the suffix: `base^exponent`.
enum Scale {
    Binary(u32),
    Decimal(i32),
}

fn parse(text: &str) -> Result<i64, &'static str> {
    const SHAPE: &str = "must be a number with an optional suffix, such as 5Gi, 500M or 1.5Ti";
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let number_len = unsigned.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = unsigned.split_at_checked(number_len).ok_or(SHAPE)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(SHAPE);
    }
    let scale = match suffix {
        "Ki" => Scale::Binary(10),
        "Mi" => Scale::Binary(20),
        "Gi" => Scale::Binary(30),
        "Ti" => Scale::Binary(40),
        "Pi" => Scale::Binary(50),
        "Ei" => Scale::Binary(60),
        "n" => Scale::Decimal(-9),
        "u" => Scale::Decimal(-6),
        "m" => Scale::Decimal(-3),
        "" => Scale::Decimal(0),
        "k" => Scale::Decimal(3),
        "M" => Scale::Decimal(6),
        "G" => Scale::Decimal(9),
        "T" => Scale::Decimal(12),
        "P" => Scale::Decimal(15),
        "E" => Scale::Decimal(18),
        _ => Scale::Decimal(exponent(suffix).ok_or(SHAPE)?),
    };
    if negative && number.bytes().any(|b| b.is_ascii_digit() && b != b'0') {
        return Err("must not be negative");
    }
    Ok(scaled(whole, fraction, &scale))
}

/// The exponent of `e3` or `E-3`.
fn exponent(suffix: &str) -> Option<i32> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let numeric = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
    numeric.then(|| digits.parse().unwrap_or(if digits.starts_with('-') { -1000 } else { 1000 }))
}

/// `whole.fraction × scale`, rounded up, capped at `i64::MAX`.
///
/// Works on decimal digits, one at a time, so that no length of input can overflow.
fn scaled(whole: &str, fraction: &str, scale: &Scale) -> i64 {
    let (shift, factor): (i64, u128) = match scale {
        Scale::Binary(bits) => (0, 1 << bits),
        Scale::Decimal(power) => (i64::from(*power), 1),
    };
    let digits = || whole.bytes().chain(fraction.bytes()).map(|b| u128::from(b - b'0'));
    let point = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(shift);
    let cap = u128::from(i64::MAX.unsigned_abs());

    let mut integer: u128 = 0;
    // The fraction is kept as numerator over denominator, as far as it can matter; `inexact` remembers the rest.
    let (mut numerator, mut denominator, mut inexact) = (0_u128, 1_u128, false);
    let mut position: i64 = 0;
    for digit in digits() {
        if position < point {
            integer = integer.saturating_mul(10).saturating_add(digit).min(cap + 1);
        } else if denominator < FRACTION_LIMIT && position >= 0 {
            // Zeros between the point and the first digit count where the exponent moved the point to the left.
            for _ in point.min(0)..0 {
                if denominator >= FRACTION_LIMIT || position > 0 {
                    break;
                }
                denominator *= 10;
            }
            numerator = numerator * 10 + digit;
            denominator *= 10;
        } else {
            inexact |= digit != 0;
        }
        position += 1;
    }
    while position < point && integer != 0 && integer <= cap {
        integer = integer.saturating_mul(10).min(cap + 1);
        position += 1;
    }
    // `numerator < denominator <= 10^19` and `factor <= 2^60`: the product stays below 2^128.
    let product = numerator * factor;
    let fraction_bytes = product / denominator + u128::from(product % denominator != 0 || inexact);
    let total = integer.min(cap + 1).saturating_mul(factor).saturating_add(fraction_bytes).min(cap);
    i64::try_from(total).unwrap_or(i64::MAX)
}

/// Digits behind the point beyond this many powers of ten only decide whether to round up.
const FRACTION_LIMIT: u128 = 1_000_000_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values of Go's `resource.MustParse(text).Value()`.
    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let table: &[(&str, u64)] = &[
            ("0", 0),
            ("1", 1),
            ("+5", 5),
            ("-0", 0),
            ("1.1", 2),
            ("100m", 1),
            ("1500m", 2),
            ("1n", 1),
            ("1u", 1),
            ("0.5", 1),
            ("5.", 5),
            (".5Gi", 536_870_912),
            ("1Ki", 1024),
            ("1.5Gi", 1_610_612_736),
            ("1Gi", 1_073_741_824),
            ("10Ti", 10_995_116_277_760),
            ("1Ei", 1_152_921_504_606_846_976),
            ("5Ei", 5_764_607_523_034_234_880),
            ("8Ei", 9_223_372_036_854_775_807),
            ("1k", 1_000),
            ("500M", 500_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1e3", 1_000),
            ("1E3", 1_000),
            ("1e-3", 1),
            ("12e-1", 2),
            ("1.25e1", 13),
            ("9007199254740993", 9_007_199_254_740_993),
            ("99999999999999999999999999", 9_223_372_036_854_775_807),
            ("1e999999999999", 9_223_372_036_854_775_807),
            ("1e-999999999999", 1),
            ("0e999999999999", 0),
            ("0.0000000000000000000000000001", 1),
            ("1.0000000000000000000000000000Gi", 1_073_741_824),
        ];
        for (text, bytes) in table {
            assert_eq!(text.parse::<Capacity>().map(Capacity::bytes), Ok(*bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused_with_an_example() {
        for bad in
            ["", " ", "Gi", "1 Gi", "1gi", "1KI", "1.2.3", ".", "1e", "1e+", "e3", "0x10", "1GiB", "٣", "1é"]
        {
            let error = bad.parse::<Capacity>().unwrap_err().to_string();
            assert!(error.contains("5Gi"), "{bad:?}: {error}");
        }
        assert!("-1".parse::<Capacity>().unwrap_err().to_string().contains("negative"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in 0..=i64::MAX.unsigned_abs()) {
            let capacity = Capacity::from_bytes(bytes);
            prop_assert_eq!(capacity.to_string().parse::<Capacity>(), Ok(capacity));
        }

        #[test]
        fn no_text_panics(text in "[-+]?[0-9.]{0,40}(e[-+]?[0-9]{0,12}|[KMGTPEnumk]i?)?") {
            let _ = text.parse::<Capacity>();
        }

        #[test]
        fn fractions_round_up_and_never_by_more_than_one(milli in 0..10_000_000_u64) {
            let parsed = format!("{milli}m").parse::<Capacity>().unwrap().bytes();
            prop_assert_eq!(parsed, milli.div_ceil(1000));
        }
    }
}
