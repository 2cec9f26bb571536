//! The log on stderr, away from what verbs answer: lines for people, or one JSON object per event.
//!
//! A JSON line has `ts` (RFC 3339, UTC), `level`, `target` (where in the program), `message` and
//! `fields`, an object with whatever else the event says (inventory B-170). Nothing secret is ever
//! logged: keys, tokens and invites have no `Display` or `Debug` that shows them.

use std::fmt;

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl LogFormat {
    /// Its word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Logs from now on what passes `filter` (`RUST_LOG`'s syntax).
pub(crate) fn start(format: LogFormat, filter: &str) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            log.with_ansi(terminal).init();
        }
        LogFormat::Json => log.with_ansi(false).event_format(Json).init(),
    }
}

struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut ts = String::new();
        SystemTime.format_time(&mut Writer::new(&mut ts))?;
        writeln!(out, "{}", object(ts, event))
    }
}

/// An event as it is logged.
fn object(ts: String, event: &Event<'_>) -> Value {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let meta = event.metadata();
    json!({
        "ts": ts,
        "level": meta.level().as_str(),
        "target": meta.target(),
        "message": fields.message,
        "fields": fields.others,
    })
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.others.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.put(field, text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let sink = Sink::default();
        let to = sink.clone();
        let log = tracing_subscriber::fmt().with_writer(move || to.clone()).event_format(Json);
        tracing::subscriber::with_default(log.finish(), || {
            let who = "a\nb\u{1b}[31m\"";
            tracing::warn!(who, peers = 3_u64, down = true, delta = -1, "two\nlines {}", 1);
            tracing::info!(target: "meshwire::events::x", error = %"disk");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], "two\nlines 1");
        assert_eq!(
            (lines[0]["level"].as_str(), lines[1]["level"].as_str()),
            (Some("WARN"), Some("INFO"))
        );
        let fields = json!({"who": "a\nb\u{1b}[31m\"", "peers": 3, "down": true, "delta": -1});
        assert_eq!(lines[0]["fields"], fields);
        assert_eq!(
            (lines[1]["target"].as_str(), lines[1]["message"].as_str()),
            (Some("meshwire::events::x"), Some(""))
        );
        assert_eq!(lines[1]["fields"]["error"], "disk");
        let ts = lines[0]["ts"].as_str().unwrap();
        assert!(ts.ends_with('Z') && ts.as_bytes()[10] == b'T', "{ts}");
    }
}
