//! The text of `/metrics` in the two formats that scrapers ask for.
//!
//! prometheus-client writes `OpenMetrics`. Scrapers that do not ask for it get the older text format, in which a counter's
//! `# TYPE` line carries the name with `_total`, whole bucket bounds have no fraction, and nothing ends the text.

use prometheus_client::{encoding::text, registry::Registry};

/// A format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposition {
    OpenMetrics,
    Text,
}

impl Exposition {
    /// The format that an `Accept` header asks for.
    pub(super) fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            Some(_) | None => Self::Text,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// All metrics of the registry as text.
    pub(super) fn render(self, registry: &Registry) -> Result<String, std::fmt::Error> {
        let mut encoded = String::new();
        text::encode(&mut encoded, registry)?;
        Ok(match self {
            Self::OpenMetrics => encoded,
            Self::Text => plain(&encoded),
        })
    }
}

/// `OpenMetrics` text as Prometheus text.
fn plain(openmetrics: &str) -> String {
    let mut plain = String::with_capacity(openmetrics.len());
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            // HELP comes before TYPE, and needs the name that TYPE decides.
            let kind = lines.peek().and_then(|next| next.strip_prefix("# TYPE ")).and_then(kind_of);
            let (name, help) = help.split_once(' ').unwrap_or((help, ""));
            let suffix = kind.map_or("", suffix);
            plain.extend(["# HELP ", name, suffix, " ", help, "\n"]);
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap_or((described, "untyped"));
            let shown = match kind {
                "info" => "gauge",
                "unknown" => "untyped",
                other => other,
            };
            plain.extend(["# TYPE ", name, suffix(kind), " ", shown, "\n"]);
        } else if !line.starts_with('#') {
            match whole_bound(line) {
                Some((before, after)) => plain.extend([before, after, "\n"]),
                None => plain.extend([line, "\n"]),
            }
        }
    }
    plain
}

fn kind_of(described: &str) -> Option<&str> {
    described.split_once(' ').map(|(_, kind)| kind)
}

/// What the samples of this kind append to the name of their family.
fn suffix(kind: &str) -> &'static str {
    match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    }
}

/// Splits a line around the `.0` of a whole bucket bound. The bound is the first label.
fn whole_bound(line: &str) -> Option<(&str, &str)> {
    const BOUND: &str = "_bucket{le=\"";
    let (before, after) = line.split_at_checked(line.find(BOUND)? + BOUND.len())?;
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let rest = after.get(digits..)?.strip_prefix(".0").filter(|rest| rest.starts_with('"'))?;
    Some((line.get(..before.len() + digits)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_served_only_to_those_who_ask_for_it() {
        use Exposition::{OpenMetrics, Text};
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let rows = [
            ("no header", None, Text),
            ("a browser", Some("text/html,*/*"), Text),
            ("curl", Some("*/*"), Text),
            ("an old Prometheus", Some("text/plain;version=0.0.4"), Text),
            ("a present Prometheus", Some(prometheus), OpenMetrics),
        ];
        for (row, accept, expected) in rows {
            assert_eq!(Exposition::accepted(accept), expected, "{row}");
        }
    }

    #[test]
    fn the_older_text_format_differs_in_names_bounds_and_end() {
        let openmetrics = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n\
            a_seconds_sum{class=\"x.0\"} 1.0\na_seconds_count{class=\"x.0\"} 1\n\
            a_seconds_bucket{le=\"0.5\",class=\"x.0\"} 0\na_seconds_bucket{le=\"1.0\",class=\"x.0\"} 1\n\
            a_seconds_bucket{le=\"10.0\",class=\"x.0\"} 1\na_seconds_bucket{le=\"+Inf\",class=\"x.0\"} 1\n\
            # HELP b Things.\n# TYPE b counter\nb_total 3\n\
            # HELP c Version.\n# TYPE c info\nc_info{version=\"1.0\"} 1\n# EOF\n";
        let text = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n\
            a_seconds_sum{class=\"x.0\"} 1.0\na_seconds_count{class=\"x.0\"} 1\n\
            a_seconds_bucket{le=\"0.5\",class=\"x.0\"} 0\na_seconds_bucket{le=\"1\",class=\"x.0\"} 1\n\
            a_seconds_bucket{le=\"10\",class=\"x.0\"} 1\na_seconds_bucket{le=\"+Inf\",class=\"x.0\"} 1\n\
            # HELP b_total Things.\n# TYPE b_total counter\nb_total 3\n\
            # HELP c_info Version.\n# TYPE c_info gauge\nc_info{version=\"1.0\"} 1\n";
        assert_eq!(plain(openmetrics), text);
    }
}
