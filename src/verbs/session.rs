//! `meshwire session start|list|end`

use std::io::ErrorKind as IoKind;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command as Program;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use meshwire_peer::Agent;
use meshwire_peer::api::{
    ApiError, EndSession, ErrorKind, ListSessions, Session, SessionStarted, StartSession,
};
use meshwire_peer::client::SESSION_VARIABLE;
use meshwire_peer::core::session_name::check_session_name;
use meshwire_signaling::attest::{Capabilities, capability};
use meshwire_signaling::limits::MAX_NAME;

use crate::context::Context;
use crate::exit::{Exit, invalid};
use crate::output::{Table, clean};
use crate::when;

/// Run programs that are peers of their own, list them or end one
///
/// A session has a key and a name under this node's member: others see and address it as
/// member/name. It ends with its program. What is run inside it acts as it.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire session start -- bash\n  \
    meshwire session start --name builder --caps dm,presence -- ./agent --fast\n  \
    meshwire session list\n  \
    meshwire session end builder")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Start(Start),
    List(List),
    End(End),
}

/// Start a session and become a program in it; needs meshwire up
///
/// The program has MESHWIRE_SESSION and MESHWIRE_HOME in its environment, so that meshwire commands
/// and clients of the local API that it runs act as the session. MESHWIRE_SESSION is a secret.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire session start -- bash\n  \
    meshwire session start --name builder --caps dm,presence -- ./agent --fast")]
struct Start {
    /// What it may do, with commas in between [default: everything]
    #[arg(long, value_enum, value_name = "WORDS", value_delimiter = ',')]
    caps: Vec<Capability>,
    /// Its name [default: the program's]
    #[arg(long, value_parser = session_name)]
    name: Option<String>,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    command: Vec<std::ffi::OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Capability {
    /// Write to members, sessions and services
    Dm,
    /// Write to groups, @all included
    Group,
    /// Change its own status, summary and profile
    Presence,
    /// Read what is for the member, beside its own mail
    Inbox,
    /// Nothing but look around and read its own mail; stands alone
    None,
}

impl Capability {
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Dm => Some(capability::DM),
            Self::Group => Some(capability::GROUP),
            Self::Presence => Some(capability::PRESENCE),
            Self::Inbox => Some(capability::INBOX),
            Self::None => None,
        }
    }
}

/// List this node's sessions
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire session list --json")]
struct List {}

/// End a session; its program is left alone, but is no peer any more
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire session end builder")]
struct End {
    /// Its name, its key, or the unique start of its key
    session: String,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.command {
        Command::Start(start) => self::start(cx, start).await,
        Command::List(List {}) => list(cx).await,
        Command::End(End { session }) => end(cx, session).await,
    }
}

async fn start(cx: &Context, args: Start) -> anyhow::Result<Exit> {
    let capabilities = capabilities(&args.caps)?;
    let [program, arguments @ ..] = args.command.as_slice() else {
        return Err(invalid("no_command", "name the program to run, after --").into());
    };
    let ask = StartSession {
        mesh: cx.mesh.clone(),
        name: match args.name {
            Some(name) => name,
            None => base_name(program.as_ref())?,
        },
        capabilities,
        pid: std::process::id(),
    };
    let home = std::path::absolute(cx.home_path()?).context("the current folder")?;
    cx.ask(async |agent| {
        let SessionStarted { token, session } = {
            let _progress = cx.progress("starting the session");
            started(agent, ask).await?
        };
        // The process stays the same, so the session ends when the program does.
        let failed = Program::new(program)
            .args(arguments)
            .env(SESSION_VARIABLE, &token)
            .env("MESHWIRE_HOME", &home)
            .exec();
        // Nobody else would end it while this process lives, and it is of no use now.
        let ended = agent.end_session(EndSession { session: session.key.to_string() }).await;
        if let Err(e) = ended {
            tracing::warn!(error = %e, "the session is left to end with this process");
        }
        Err(not_run(program.as_ref(), &failed).into())
    })
    .await
}

async fn started(agent: &Agent, ask: StartSession) -> anyhow::Result<SessionStarted> {
    if agent.is_own() {
        let text = "a session needs the node in the background: run meshwire up first";
        return Err(invalid("no_node", text).into());
    }
    Ok(agent.start_session(ask).await?)
}

/// The words of capabilities for the node; none where all are meant.
fn capabilities(chosen: &[Capability]) -> Result<Option<Vec<String>>, ApiError> {
    match chosen {
        [] => Ok(None),
        [Capability::None] => Ok(Some(Vec::new())),
        _ if chosen.contains(&Capability::None) => {
            let text = "--caps none stands alone: leave it out, or leave the others out";
            Err(invalid("caps_conflict", text))
        }
        _ => Ok(Some(chosen.iter().filter_map(|c| c.word()).map(str::to_owned).collect())),
    }
}

/// A session's name as clap's value parser: what is wrong with it is said at once.
fn session_name(text: &str) -> Result<String, String> {
    check_session_name(text).map(|()| text.to_owned())
}

/// A session's name from its program's path.
fn base_name(program: &Path) -> Result<String, ApiError> {
    let base = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    let base: String = base.chars().take(MAX_NAME).collect();
    check_session_name(&base).map_err(|e| {
        let text = format!("{base:?} cannot be the session's name: {e}; give one with --name");
        invalid("bad_name", text)
    })?;
    Ok(base)
}

/// Why there is no program, in the words that a shell uses for its codes 127 and 126.
fn not_run(program: &Path, e: &std::io::Error) -> ApiError {
    let shown = program.display();
    let (kind, why) = match e.kind() {
        // A script whose interpreter is missing says the same as a missing program.
        IoKind::NotFound if program.is_file() => {
            (ErrorKind::NotFound, "its interpreter is missing: look at its first line".to_owned())
        }
        IoKind::NotFound if program.components().count() > 1 => {
            (ErrorKind::NotFound, "there is no such file".to_owned())
        }
        IoKind::NotFound => (ErrorKind::NotFound, "not found in PATH".to_owned()),
        IoKind::PermissionDenied => {
            (ErrorKind::Denied, "it may not be executed: see its permissions".to_owned())
        }
        _ => (ErrorKind::Io, e.to_string()),
    };
    ApiError::new(kind, "command_not_run", format!("cannot run {shown}: {why}"))
}

async fn list(cx: &Context) -> anyhow::Result<Exit> {
    let ask = ListSessions { mesh: cx.mesh.clone() };
    let sessions = cx.ask(async |agent| Ok(agent.sessions(ask).await?)).await?;
    let none = "No sessions. Next: meshwire session start -- COMMAND";
    cx.out.list("sessions", &sessions, none, || {
        let head = ["NAME", "KEY", "MAY", "PROCESS", "STARTED", "BROKER", "MESH"];
        let rows = sessions.iter().map(|s| row(s, cx.out.terminal, cx.net.unix_ms()));
        Table::new(head, rows).render(cx.out.width())
    })?;
    Ok(Exit::Ok)
}

fn row(s: &Session, terminal: bool, now: u64) -> [String; 7] {
    let this = if s.this_session { " (this session)" } else { "" };
    let started = if terminal {
        format!("{} ago", when::rough(now.saturating_sub(s.started_at)))
    } else {
        when::utc(s.started_at)
    };
    let broker = if s.bound { "knows it" } else { "not yet" };
    [
        format!("{}{this}", s.name),
        s.key.short(),
        may(&s.capabilities),
        s.pid.to_string(),
        started,
        broker.to_owned(),
        s.mesh_name.clone(),
    ]
}

/// What capabilities allow, in a word or a few.
fn may(capabilities: &Capabilities) -> String {
    match capabilities {
        Capabilities::All => "all".to_owned(),
        Capabilities::List(words) if words.is_empty() => "none".to_owned(),
        Capabilities::List(words) => words.join(","),
    }
}

async fn end(cx: &Context, session: String) -> anyhow::Result<Exit> {
    let session =
        cx.ask(async |agent| Ok(agent.end_session(EndSession { session }).await?)).await?;
    cx.out.show(&session, || {
        format!(
            "Ended session {} in {}; its program (process {}) goes on without it.",
            clean(&session.name),
            clean(&session.mesh_name),
            session.pid
        )
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_all_some_or_none() {
        use Capability::{Dm, Inbox, None};
        let words = |w: &[&str]| Some(w.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(capabilities(&[]), Ok(Option::None));
        assert_eq!(capabilities(&[None]), Ok(words(&[])));
        assert_eq!(capabilities(&[Dm, Inbox]), Ok(words(&["dm", "inbox"])));
        assert!(capabilities(&[Dm, None]).unwrap_err().message.contains("alone"));
        let all: Vec<_> = Capability::value_variants().iter().filter_map(|c| c.word()).collect();
        assert_eq!(all, capability::ALL);
    }

    #[test]
    fn a_session_is_named_after_its_program() {
        assert_eq!(base_name("/usr/bin/bash".as_ref()).unwrap(), "bash");
        assert_eq!(base_name("./agent.py".as_ref()).unwrap(), "agent.py");
        for bad in ["/x/deadbeef", "@x", ""] {
            assert!(base_name(bad.as_ref()).unwrap_err().message.contains("--name"), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_run_says_why() {
        let of = |path: &str, kind: IoKind| not_run(path.as_ref(), &kind.into());
        let missing = of("no-such-thing", IoKind::NotFound);
        assert_eq!((missing.kind, missing.code.as_str()), (ErrorKind::NotFound, "command_not_run"));
        assert_eq!(missing.message, "cannot run no-such-thing: not found in PATH");
        assert!(of("./no/such", IoKind::NotFound).message.contains("no such file"));
        assert!(of("/proc/version", IoKind::NotFound).message.contains("interpreter"));
        assert_eq!(of("/etc", IoKind::PermissionDenied).kind, ErrorKind::Denied);
    }
}
