//! How the fields of a line of the log for people are written: [`Fields`]. Text stands in double quotes, numbers and truth
//! values stand bare, whatever the place that logs them does; a line stays one line.
//!
//! It does not touch the JSON format, which quotes by itself.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// Writes the message as it is, then each field as `name="text"` or `name=number`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, empty: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    empty: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, field: &Field, value: &str) {
        // What the bridge from the crate `log` adds stands in the head of the line already.
        if field.name().starts_with("log.") || self.result.is_err() {
            return;
        }
        let gap = if std::mem::replace(&mut self.empty, false) { "" } else { " " };
        let name = field.name();
        self.result = match name {
            "message" => write!(self.writer, "{gap}{value}"),
            name => write!(self.writer, "{gap}{}={value}", name.strip_prefix("r#").unwrap_or(name)),
        };
    }

    fn text(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            self.write(field, &on_one_line(text));
        } else {
            self.write(field, &format!("{text:?}"));
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        // The debug form of a text has its quotes already.
        if text.len() > 1 && text.starts_with('"') && text.ends_with('"') {
            self.write(field, &text);
        } else {
            self.text(field, &text);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, if value { "true" } else { "false" });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, &value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.write(field, &value.to_string());
    }
}

/// Control characters would end the line, or speak to the terminal.
fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(work: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(Fields)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_target(false)
            .with_level(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn fields_have_one_style_of_quotes_however_they_are_recorded() {
        let text = "a b";
        let error = io::Error::other("went wrong");
        let line = logged(|| {
            tracing::info!(
                str = text,
                owned = String::from("c"),
                display = %text,
                debug = ?text,
                word = ?std::net::Shutdown::Both,
                %error,
                count = 3,
                flag = true,
                quoted = "say \"no\"",
                "it happened"
            );
        });
        assert_eq!(
            line.trim_end(),
            "it happened str=\"a b\" owned=\"c\" display=\"a b\" debug=\"a b\" word=\"Both\" error=\"went wrong\" \
             count=3 flag=true quoted=\"say \\\"no\\\"\""
        );
    }

    #[test]
    fn a_line_of_the_log_stays_one_line() {
        let hostile = "a\n2026-01-01 ERROR forged\u{1b}[2J";
        let line = logged(|| tracing::warn!(name = hostile, "told of {hostile}"));
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}
