//! What a tool wrote to its standard error, taken apart: [`Stderr`].
//!
//! Ceph's libraries write time-stamped log lines to the same place, also into the middle of a sentence of the tool, and each ends
//! with an empty line. Here the sentences are put together again, and the log lines are kept aside.

/// The sentences of a tool, and what its libraries logged.
#[derive(Debug)]
pub(super) struct Stderr {
    text: String,
    logged: String,
}

/// How much of it is shown.
const SHOWN: usize = 400;

impl Stderr {
    pub(super) fn read(stderr: &str) -> Self {
        let (mut text, mut logged) = (String::new(), String::new());
        let mut rest = stderr;
        while let Some(at) = log_line(rest) {
            let (before, log) = rest.split_at(at);
            text.push_str(before);
            let (line, after) = log.split_once('\n').unwrap_or((log, ""));
            logged.push_str(message(line));
            logged.push('\n');
            rest = after.strip_prefix('\n').unwrap_or(after);
        }
        text.push_str(rest);
        Self { text: text.replace('\r', "\n"), logged }
    }

    /// The sentences without what was logged.
    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether any of these stands anywhere in it.
    pub(super) fn any(&self, parts: &[&str]) -> bool {
        parts.iter().any(|part| self.text.contains(part) || self.logged.contains(part))
    }

    /// Whether one line of it has `before`, something, and `after`.
    pub(super) fn around(&self, before: &str, after: &str) -> bool {
        self.text
            .lines()
            .chain(self.logged.lines())
            .any(|line| line.split_once(before).is_some_and(|(_, rest)| rest.contains(after)))
    }

    /// Whether it is one sentence, and this.
    pub(super) fn is(&self, sentence: &str) -> bool {
        self.lines().eq([sentence])
    }

    /// The number behind `before`.
    pub(super) fn number_after(&self, before: &str) -> Option<i32> {
        let (_, rest) = self.text.split_once(before)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// The sentences.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.ends_with("% complete..."))
    }

    /// The one or two sentences that matter, on one line.
    pub(super) fn summary(&self) -> String {
        // What a tool says before a list of all commands that there are.
        let wrong = self.lines().find(|line| line.starts_with("Invalid command:"));
        let error =
            self.lines().find(|line| line.starts_with("Error ") && !line.ends_with(": invalid command"));
        let told: Vec<&str> = match wrong.or(error) {
            Some(line) => vec![line],
            None => self.lines().take(2).collect(),
        };
        let mut summary = told.join("; ");
        let logged = self.logged.lines().rfind(|line| summary.is_empty() || line.starts_with("librbd"));
        if let Some(logged) = logged {
            let words = logged.split(' ').filter(|word| !word.starts_with("0x"));
            let logged = words.collect::<Vec<_>>().join(" ");
            summary = if summary.is_empty() { logged } else { format!("{summary} [{}]", logged.trim()) };
        }
        let plain = summary.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut shown: String = plain.clone().take(SHOWN).collect();
        if plain.count() > SHOWN {
            shown.push('…');
        }
        shown
    }
}

/// Where the next log line begins: `2026-01-02T03:04:05.678+0000 7f0123456789 -1 `, wherever on a line.
fn log_line(text: &str) -> Option<usize> {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00.";
    text.as_bytes().windows(SHAPE.len()).position(|window| {
        window.iter().zip(SHAPE).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            mark => byte == mark,
        })
    })
}

/// A log line without time, thread and level.
fn message(line: &str) -> &str {
    let mut rest = line;
    for _ in 0..3 {
        rest = rest.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
    }
    rest.trim()
}

/// `text` without `key`, and without anything else that has the shape of a `CephX` key.
pub(super) fn without_keys(text: &str, key: &str) -> String {
    let text = if key.is_empty() { text.to_owned() } else { text.replace(key, HIDDEN) };
    let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = BEGINNINGS.iter().filter_map(|beginning| rest.find(beginning)).min() {
        let (before, from) = rest.split_at(at);
        let (word, after) = from.split_at(from.find(|c| !base64(c)).unwrap_or(from.len()));
        clean.push_str(before);
        // What is as long as a key is one, be it a path or not.
        let key = word.len() >= 38;
        clean.push_str(if key { HIDDEN } else { word });
        rest = if key { after.trim_start_matches('=') } else { after };
    }
    clean.push_str(rest);
    clean
}

const HIDDEN: &str = "(key not shown)";

/// How keys begin: those of AES with 128 bits, and those of AES with 256 bits that Ceph makes from version 20 on.
const BEGINNINGS: &[&str] = &["AQ", "Ag"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_that_a_log_line_splits_is_put_together() {
        let text = "rbd: create error: 2026-01-02T03:04:05.678+0000 7f01 -1 librbd::Request: 0x01 data pool x does not \
                    exist\n\n(2) No such file or directory\n";
        let stderr = Stderr::read(text);
        assert!(stderr.is("rbd: create error: (2) No such file or directory"), "{stderr:?}");
        assert!(stderr.around("data pool ", " does not exist"));
        assert_eq!(
            stderr.summary(),
            "rbd: create error: (2) No such file or directory [librbd::Request: data pool x does not exist]"
        );
    }

    #[test]
    fn the_summary_is_what_matters() {
        let rows = [
            ("nothing", "", ""),
            (
                "a log line alone",
                "2026-01-02T03:04:05.678+0000 7f01 -1 monclient: lost\n\n",
                "monclient: lost",
            ),
            (
                "progress",
                "Resizing image: 50% complete...\rResizing image: 100% complete...done.\n",
                "Resizing image: 100% complete...done.",
            ),
            (
                "a list of all commands",
                "no valid command found\npg stat\nInvalid command: bad / in a/b\nError EINVAL: invalid command\n",
                "Invalid command: bad / in a/b",
            ),
            (
                "a warning and an error",
                "a warning\nError ENOENT: FS 'x' not found\n",
                "Error ENOENT: FS 'x' not found",
            ),
            ("control characters", "rbd: a\u{7}b\tc", "rbd: a b c"),
        ];
        for (row, text, summary) in rows {
            assert_eq!(Stderr::read(text).summary(), summary, "{row}");
        }
        let long = Stderr::read(&"ü".repeat(1000)).summary();
        assert_eq!(long.chars().count(), SHOWN + 1, "a long one is cut between characters");
    }

    /// Proves: case 57
    #[test]
    fn a_key_is_not_shown() {
        let key = "AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCB3cm9uZw==";
        let long = "AgCJZ1hnAAAAACAAcGxhdXNpYmxlLCB3cm9uZywgYW5kIDMyIGJ5dGVzISE=";
        let rows = [
            (
                "our key",
                format!("failed to decode key '{key}'"),
                key,
                "failed to decode key '(key not shown)'",
            ),
            ("another key", format!("key={key}, done"), "other", "key=(key not shown), done"),
            (
                "a longer key, as newer versions of Ceph make them",
                format!("bad key {long}\n"),
                "",
                "bad key (key not shown)\n",
            ),
            ("both", format!("{key} {long} Agnes AQ"), "", "(key not shown) (key not shown) Agnes AQ"),
            ("a word", "path /dev/null".to_owned(), "", "path /dev/null"),
            ("a short word like a key's beginning", "AQ==".to_owned(), "", "AQ=="),
        ];
        for (row, text, known, shown) in rows {
            let clean = without_keys(&text, known);
            assert_eq!(clean, shown, "{row}");
        }
    }
}
