//! What is printed: one JSON object, or the same as a table.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};

/// Figures in the order in which they are to be read.
#[derive(Clone, Debug, Default)]
pub struct Report {
    title: String,
    figures: Vec<Figure>,
}

#[derive(Clone, Debug)]
struct Figure {
    name: &'static str,
    value: Value,
    meaning: &'static str,
}

impl Report {
    /// A report without figures. The title is the first line of the table and no part of the JSON.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), figures: Vec::new() }
    }

    /// Adds a figure; `meaning` says what it is, and its unit.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>, meaning: &'static str) -> Self {
        self.figures.push(Figure { name, value: value.into(), meaning });
        self
    }

    /// Adds a measured number, rounded to what can be meant.
    #[must_use]
    pub fn measured(self, name: &'static str, value: f64, meaning: &'static str) -> Self {
        self.with(name, round(value), meaning)
    }

    /// One figure.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name)?.value.as_f64()
    }

    /// One JSON object.
    pub fn json(&self) -> Value {
        let fields: Map<String, Value> =
            self.figures.iter().map(|figure| (figure.name.to_owned(), figure.value.clone())).collect();
        Value::Object(fields)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let rows: Vec<(&str, String, &str)> = self
            .figures
            .iter()
            .filter(|figure| !figure.value.is_array())
            .map(|figure| (figure.name, text(&figure.value), figure.meaning))
            .collect();
        let width = |of: fn(&(&str, String, &str)) -> usize| rows.iter().map(of).max().unwrap_or_default();
        let name = width(|row| row.0.len());
        let value = width(|row| if row.1.contains(' ') { 0 } else { row.1.len() });
        for row in &rows {
            writeln!(f, "  {:name$}  {:>value$}  {}", row.0, row.1, row.2)?;
        }
        for figure in &self.figures {
            if let Value::Array(objects) = &figure.value {
                writeln!(f, "  {} ({}):", figure.name, figure.meaning)?;
                columns(f, objects)?;
            }
        }
        Ok(())
    }
}

/// Objects with the same keys, one a line.
fn columns(f: &mut fmt::Formatter<'_>, objects: &[Value]) -> fmt::Result {
    let Some(Value::Object(first)) = objects.first() else {
        return Ok(());
    };
    let keys: Vec<&str> = first.keys().map(String::as_str).collect();
    let cell = |object: &Value, key: &str| text(object.get(key).unwrap_or(&Value::Null));
    let width = |key: &str| {
        objects.iter().map(|object| cell(object, key).len()).max().unwrap_or_default().max(key.len())
    };
    let line = |f: &mut fmt::Formatter<'_>, cells: &dyn Fn(&str) -> String| {
        f.write_str("   ")?;
        keys.iter().try_for_each(|key| write!(f, " {:>width$}", cells(key), width = width(key)))?;
        f.write_str("\n")
    };
    line(f, &|key| key.to_owned())?;
    objects.iter().try_for_each(|object| line(f, &|key| cell(object, key)))
}

/// Three digits after the point, more for what is small.
pub fn round(value: f64) -> f64 {
    let factor = if value.abs() < 0.1 { 1e6 } else { 1e3 };
    (value * factor).round() / factor
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let mut text = String::new();
            for (key, value) in fields {
                let comma = if text.is_empty() { "" } else { ", " };
                let _ = write!(text, "{comma}{key}: {value}");
            }
            text
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_shows_what_the_json_holds() {
        let runs = json!([{ "name": "a", "s": 1.25 }, { "name": "b", "s": 10 }]);
        let report = Report::new("provision")
            .with("claims", 10, "claims")
            .measured("ratio", 1.234_567, "berth : bare client")
            .with("requests", json!({ "create events": 10 }), "by kind")
            .with("runs", runs.clone(), "each run");
        assert_eq!(
            report.json(),
            json!({ "claims": 10, "ratio": 1.235, "requests": { "create events": 10 }, "runs": runs })
        );
        assert_eq!(report.get("ratio"), Some(1.235));
        let table = report.to_string();
        assert!(table.starts_with("provision\n  claims       10  claims\n"), "{table}");
        assert!(table.contains("1.235  berth : bare client"), "{table}");
        assert!(
            table.ends_with("  runs (each run):\n    name    s\n       a 1.25\n       b   10\n"),
            "{table}"
        );
    }

    #[test]
    fn small_numbers_keep_their_digits() {
        assert!((round(0.012_345_678) - 0.012_346).abs() < 1e-12);
        assert!((round(12.345_678) - 12.346).abs() < 1e-12);
    }
}
