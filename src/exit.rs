//! Exit codes, which programs may rely on (inventory C-042), and how errors become them.

use std::io::{self, ErrorKind as IoKind, Write as _};
use std::process::ExitCode;

use clap::error::ErrorKind as ClapKind;
use meshwire_coord::BrokerError;
use meshwire_peer::api::{ApiError, ErrorKind, SCHEMA_VERSION};
use serde_json::json;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Failed for no reason below, cancelled, or not reached in time.
    Failed = 1,
    /// A token or invite is missing, wrong or over.
    Auth = 2,
    /// The arguments make no sense.
    Args = 3,
    /// The broker cannot be reached.
    Network = 4,
    /// No such thing, or more than one.
    NotFound = 5,
    /// It is there already.
    Exists = 6,
    /// Refused.
    Denied = 7,
    /// A fault of meshwire.
    Internal = 8,
    /// A file or database fails. (9 is not used.)
    Io = 10,
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Timeout | ErrorKind::Busy => Self::Failed,
            ErrorKind::Auth => Self::Auth,
            ErrorKind::Invalid => Self::Args,
            ErrorKind::Unreachable => Self::Network,
            ErrorKind::NotFound | ErrorKind::Ambiguous => Self::NotFound,
            ErrorKind::Exists => Self::Exists,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::Internal => Self::Internal,
            ErrorKind::Io => Self::Io,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A verb did what it could, and it was not what was asked for: exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failed {
    /// A word for programs.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// An error as it is reported.
struct Report {
    exit: Exit,
    kind: &'static str,
    code: String,
    message: String,
}

/// The arguments make no sense: an [`ErrorKind::Invalid`] that says what would.
pub(crate) fn invalid(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Invalid, code, message)
}

/// The word of a kind, as the local API writes it.
fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Ambiguous => "ambiguous",
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::Denied => "denied",
        ErrorKind::Auth => "auth",
        ErrorKind::Exists => "exists",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Busy => "busy",
        ErrorKind::Io => "io",
        ErrorKind::Internal => "internal",
    }
}

fn report(error: &anyhow::Error) -> Report {
    let of = |kind: ErrorKind, code: &str| Report {
        exit: kind.into(),
        kind: word(kind),
        code: code.to_owned(),
        message: format!("{error:#}"),
    };
    if let Some(e) = error.downcast_ref::<Failed>() {
        return Report { exit: Exit::Failed, kind: "failed", ..of(ErrorKind::Timeout, e.code) };
    }
    if let Some(e) = error.downcast_ref::<ApiError>() {
        return of(e.kind, &e.code);
    }
    if let Some(e) = error.downcast_ref::<BrokerError>() {
        return match e {
            BrokerError::Listen { .. } => of(ErrorKind::Unreachable, "listen"),
            BrokerError::Tls(_) => of(ErrorKind::Invalid, "tls"),
            BrokerError::Config(_) => of(ErrorKind::Invalid, "config"),
            BrokerError::Store(_) => of(ErrorKind::Io, "database"),
            _ => of(ErrorKind::Io, "io"),
        };
    }
    let io = error.chain().any(|e| e.is::<io::Error>());
    if io { of(ErrorKind::Io, "io") } else { of(ErrorKind::Internal, "internal") }
}

/// Reports a verb's end on stderr and gives the process's exit code.
pub(crate) fn finish(json: bool, ended: anyhow::Result<Exit>) -> ExitCode {
    let error = match ended {
        Ok(exit) => return exit.into(),
        Err(e) => e,
    };
    // Who reads our output has read enough, as `head` does.
    let closed = |e: &io::Error| e.kind() == IoKind::BrokenPipe;
    if error.downcast_ref::<io::Error>().is_some_and(closed) {
        return Exit::Ok.into();
    }
    let report = report(&error);
    say(json, &report);
    report.exit.into()
}

fn say(json: bool, report: &Report) {
    let text = if json {
        let Report { kind, code, message, .. } = report;
        let error = json!({ "kind": kind, "code": code, "message": message });
        json!({ "schema_version": SCHEMA_VERSION, "error": error }).to_string()
    } else {
        format!("error: {}", crate::output::clean_lines(&report.message))
    };
    // Nobody is left to tell that stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Reports what clap says about the arguments: help and version as they are, errors with exit
/// code 3, as JSON if `--json` is among the arguments.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) {
        let _ = error.print();
        return Exit::Ok.into();
    }
    if std::env::args_os().any(|a| a == "--json") {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        let code = "usage".to_owned();
        say(true, &Report { exit: Exit::Args, kind: word(ErrorKind::Invalid), code, message });
    } else {
        let _ = error.print();
    }
    Exit::Args.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [(ErrorKind, u8); 10] = [
        (ErrorKind::Timeout, 1),
        (ErrorKind::Auth, 2),
        (ErrorKind::Invalid, 3),
        (ErrorKind::Unreachable, 4),
        (ErrorKind::NotFound, 5),
        (ErrorKind::Ambiguous, 5),
        (ErrorKind::Exists, 6),
        (ErrorKind::Denied, 7),
        (ErrorKind::Internal, 8),
        (ErrorKind::Io, 10),
    ];

    #[test]
    fn exit_codes_are_the_inventorys() {
        for (kind, code) in KINDS {
            assert_eq!(Exit::from(kind) as u8, code, "{kind:?}");
        }
    }

    #[test]
    fn kinds_have_the_local_apis_words() {
        for (kind, _) in KINDS {
            assert_eq!(serde_json::to_value(kind).unwrap(), word(kind));
        }
    }

    #[test]
    fn errors_keep_their_kind_behind_context() {
        let api = ApiError::new(ErrorKind::Ambiguous, "ambiguous_peer", "which bob?");
        let r = report(&anyhow::Error::from(api).context("send"));
        assert_eq!(
            (r.exit, r.kind, r.code.as_str()),
            (Exit::NotFound, "ambiguous", "ambiguous_peer")
        );
        assert_eq!(r.message, "send: which bob?");
        let r = report(&anyhow::Error::from(io::Error::other("disk")).context("log"));
        assert_eq!(r.exit, Exit::Io);
        let r = report(&Failed { code: "not_delivered", message: "no".into() }.into());
        assert_eq!((r.exit, r.kind, r.code.as_str()), (Exit::Failed, "failed", "not_delivered"));
        assert_eq!(report(&anyhow::anyhow!("odd")).exit, Exit::Internal);
        let full = BrokerError::Config("x".into());
        assert_eq!(report(&full.into()).exit, Exit::Args);
    }
}
