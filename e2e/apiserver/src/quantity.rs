//! Kubernetes quantities: `1Gi`, `500m`, `1e3`.
//!
//! Entry points: [`parse`] for comparing, [`canonical`] for the form in which the API server stores a quantity
//! (`1024Mi` becomes `1Gi`), [`canonicalise`] for a whole object. Deliberately not here: arithmetic.

use serde_json::Value;

const NANO: i128 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// The value in billionths; fractions of a billionth are rounded up.
pub(crate) fn parse(text: &str) -> Option<i128> {
    split(text).map(|(nanos, _)| nanos)
}

fn split(text: &str) -> Option<(i128, Format)> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let mut mantissa: i128 = 0;
    for digit in whole.chars().chain(fraction.chars()) {
        mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit.to_digit(10)?))?;
    }
    let scale = i32::try_from(fraction.len()).ok()?;
    let (numerator, exponent, format) = if let Some((_, shift)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        (mantissa.checked_mul(1_i128 << shift)?, 0, Format::Binary)
    } else if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        (mantissa, *exponent, Format::Decimal)
    } else {
        let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
        (mantissa, exponent, Format::Exponent)
    };
    let power = 9 + exponent - scale;
    let nanos = if power >= 0 {
        numerator.checked_mul(10_i128.checked_pow(u32::try_from(power).ok()?)?)?
    } else {
        match 10_i128.checked_pow(power.unsigned_abs()) {
            Some(divisor) => numerator.checked_add(divisor - 1)? / divisor,
            None => i128::from(numerator != 0),
        }
    };
    Some((if negative { -nanos } else { nanos }, format))
}

/// The canonical text, or `None` when `text` is no quantity.
pub(crate) fn canonical(text: &str) -> Option<String> {
    let (nanos, format) = split(text)?;
    if nanos == 0 {
        return Some("0".to_owned());
    }
    let units = nanos / NANO;
    if format == Format::Binary && units.abs() >= 1024 {
        let mut value = if nanos % NANO == 0 { units } else { units + nanos.signum() };
        let mut suffix = "";
        for (name, _) in BINARY {
            if value % 1024 != 0 {
                break;
            }
            value /= 1024;
            suffix = name;
        }
        return Some(format!("{value}{suffix}"));
    }
    let mut value = nanos;
    let mut exponent = -9;
    while exponent < 18 && value % 1000 == 0 {
        value /= 1000;
        exponent += 3;
    }
    if format == Format::Exponent {
        return Some(if exponent == 0 { value.to_string() } else { format!("{value}e{exponent}") });
    }
    let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("", |(s, _)| s);
    Some(format!("{value}{suffix}"))
}

/// Brings every quantity of an object into its canonical form; returns the first text that is none.
pub(crate) fn canonicalise(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Object(fields) => {
            for (name, child) in fields.iter_mut() {
                let holds_quantities = matches!(
                    name.as_str(),
                    "requests" | "limits" | "capacity" | "allocatable" | "allocatedResources"
                );
                match child {
                    Value::Object(amounts) if holds_quantities => {
                        for amount in amounts.values_mut() {
                            canonicalise_one(amount)?;
                        }
                    }
                    other => canonicalise(other)?,
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(canonicalise),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn canonicalise_one(amount: &mut Value) -> Result<(), String> {
    let text = match amount {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Ok(()),
    };
    match canonical(&text) {
        Some(canonical) => {
            *amount = Value::String(canonical);
            Ok(())
        }
        None => Err(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_take_the_form_in_which_the_api_server_stores_them() {
        for (given, stored) in [
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("1Gi", "1Gi"),
            ("1000", "1k"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1e3", "1e3"),
            ("1500e0", "1500"),
            ("0", "0"),
            ("0Gi", "0"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1Ei", "1Ei"),
            ("5G", "5G"),
            ("-1", "-1"),
        ] {
            assert_eq!(canonical(given).as_deref(), Some(stored), "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "Gi", "1.2.3", "1 Gi", "1GiB", "abc", "1e", "--1"] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }
}
