//! `meshwire pipe`

mod ends;
mod flow;
mod show;
mod signals;

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _, stderr, stdin, stdout};
use std::time::Duration;

use clap::builder::FalseyValueParser;
use meshwire::direct::{Settings, paths};
use meshwire_peer::Agent;
use meshwire_peer::api::{
    AcceptStream, ApiError, Done, ErrorKind, OpenStream, PeerPath, SCHEMA_VERSION, StreamRow,
};
use meshwire_peer::client::{AgentStream, StreamFailure, StreamWatch};
use meshwire_peer::path::PathMode;
use meshwire_signaling::limits::ms;
use meshwire_signaling::stream::code;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::context::Context;
use crate::duration;
use crate::exit::{Exit, Failed};
use crate::output::{clean, note};
use crate::verbs::send::Urgency;
use flow::{Broken, Counted, Ends, both};
use show::{Rate, line, sum};
use signals::Signals;

/// How long one who opens waits for the other side to listen, if nobody says.
const OPEN: Duration = Duration::from_secs(60);
/// Between two tries at a peer that does not listen yet.
const AGAIN: Duration = Duration::from_millis(500);
/// The error of a try that took all its time.
const UNANSWERED: &str = "stream_unanswered";
/// What may be different at the next try.
const NOT_YET: [&str; 5] =
    ["peer_offline", "stream_refused", UNANSWERED, "stream_busy", "stream_lost"];
/// How often the line on the terminal is rewritten.
const LOOK: Duration = Duration::from_millis(250);
/// How long both sides have to agree that it is over; the bytes are there already.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long the other side has to hear that it has failed.
const LAST_WORD: Duration = Duration::from_millis(500);
/// What the other side hears of an end by hand.
const INTERRUPTED: &str = "interrupted";

/// Send standard input to a peer, and write what comes to standard output
///
/// One side listens, the other names it; bytes go both ways, end to end encrypted, over whatever path is up. Each
/// direction ends with its input; it is over when both have, so say --no-input where there is nothing to send. Input that
/// is typed on a terminal ends with the other direction at the latest. Exit code 0 means that the other side's node has
/// everything; its program may still fail to write it, and then fails itself. Where no node runs in the background, this
/// command is one until it ends.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("side").required(true).args(["peer", "listen"])))]
#[command(after_help = "EXAMPLE:\n  \
    meshwire pipe --listen -n > photos.tar             on one machine\n  \
    tar c photos | meshwire pipe bob                   on another\n  \
    meshwire pipe --listen -n --from ana --name logs   by her alone, and of this name\n  \
    tail -f app.log | meshwire pipe bob --name logs")]
pub(crate) struct Args {
    /// Whom: a name, a key or its unique start; member/session
    peer: Option<String>,
    /// Wait for a peer that names this one
    #[arg(long)]
    listen: bool,
    /// With --listen: for this peer alone
    #[arg(long, value_name = "PEER", conflicts_with = "peer")]
    from: Option<String>,
    /// Send nothing, and leave standard input to others, as ssh -n
    #[arg(short = 'n', long)]
    no_input: bool,
    /// What it is called: both sides say the same
    #[arg(long, value_name = "NAME", default_value = "pipe")]
    name: String,
    /// Longest wait for the other side, such as 10m [default: 60s, with --listen for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// How urgent what this side sends is beside this node's other streams; the other side says its own
    #[arg(long, value_enum, default_value_t = Urgency::Next)]
    priority: Urgency,
    /// Where no node runs in the background: which paths to take, as for meshwire up
    #[arg(long, env = "MESHWIRE_PATHS", value_name = "MODE", default_value_t)]
    paths: PathMode,
    #[arg(long, env = "MESHWIRE_UDP_PORT", value_name = "PORT", default_value_t = 0, hide = true)]
    udp_port: u16,
    #[arg(long, env = "MESHWIRE_NO_PORT_MAPPING", value_parser = FalseyValueParser::new(), hide = true)]
    no_port_mapping: bool,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let home = cx.home()?;
    let settings =
        Settings { mode: args.paths, udp_port: args.udp_port, port_mapping: !args.no_port_mapping };
    let direct = async || paths(cx.net.clone(), settings).await;
    let opening = Agent::open_with(cx.net.clone(), &home, direct);
    let agent = tokio::select! {
        agent = Box::pin(opening) => agent?,
        () = signals.any() => return Err(cancelled()),
    };
    let ended = Box::pin(pipe(cx, &agent, &args, &mut signals)).await;
    agent.close().await;
    ended.map(|()| Exit::Ok)
}

fn cancelled() -> anyhow::Error {
    Failed { code: "cancelled", message: "cancelled".to_owned() }.into()
}

/// From the first try to the last byte.
async fn pipe(
    cx: &Context,
    agent: &Agent,
    args: &Args,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let connecting = async {
        match &args.peer {
            Some(peer) => open(cx, agent, args, peer).await,
            None => accept(cx, agent, args).await,
        }
    };
    let stream = tokio::select! {
        stream = Box::pin(connecting) => stream?,
        () = signals.any() => return Err(cancelled()),
    };
    Box::pin(flow(cx, stream, args.no_input, signals)).await
}

/// Opens a stream, once the other side listens.
async fn open(cx: &Context, agent: &Agent, args: &Args, peer: &str) -> anyhow::Result<AgentStream> {
    let until = Instant::now() + args.timeout.unwrap_or(OPEN);
    let progress = cx.progress(format!("connecting to {}", clean(peer)));
    let mut earlier = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let ask = OpenStream {
            mesh: cx.mesh.clone(),
            to: peer.to_owned(),
            name: args.name.clone(),
            timeout_ms: Some(ms(left.min(OPEN)).max(1)),
            priority: args.priority.into(),
        };
        let error = match agent.open_stream(ask).await {
            Ok(stream) => return Ok(stream),
            Err(e) if NOT_YET.contains(&e.code.as_str()) => e,
            Err(e) => return Err(e.into()),
        };
        if Instant::now() + AGAIN >= until {
            // The last try may have been too short for an answer.
            let said = earlier.filter(|_| error.code == UNANSWERED).unwrap_or(error);
            return Err(unheard(&said, args, peer).into());
        }
        progress.say(format!("waiting for {} to listen ({})", clean(peer), clean(&error.message)));
        if error.code != UNANSWERED {
            earlier = Some(error);
        }
        sleep(AGAIN).await;
    }
}

/// What somebody there can do about it.
fn unheard(error: &ApiError, args: &Args, peer: &str) -> ApiError {
    let name = match args.name.as_str() {
        "pipe" => String::new(),
        name => format!(" --name {name}"),
    };
    let text = format!("{}; {peer} listens with: meshwire pipe --listen{name}", error.message);
    ApiError::new(error.kind, &error.code, text)
}

/// Waits for a stream that a peer opens.
async fn accept(cx: &Context, agent: &Agent, args: &Args) -> anyhow::Result<AgentStream> {
    cx.settle(agent).await;
    if agent.is_own() {
        let status = agent.status(Done {}).await?;
        for mesh in status.meshes.iter().filter(|m| cx.means(&m.mesh) && m.reason.is_some()) {
            let why = mesh.reason.as_deref().unwrap_or_default();
            note(cx.out, &format!("mesh {} cannot be reached now: {why}", mesh.mesh.name));
        }
    }
    let whom = args.from.as_deref().unwrap_or("anybody");
    let _progress = cx.progress(format!("waiting for {} to connect", clean(whom)));
    let ask = AcceptStream {
        mesh: cx.mesh.clone(),
        from: args.from.clone(),
        name: Some(args.name.clone()),
        priority: args.priority.into(),
        ..AcceptStream::default()
    };
    let accepting = agent.accept_stream(ask);
    let Some(patience) = args.timeout else { return Ok(accepting.await?) };
    match timeout(patience, accepting).await {
        Ok(stream) => Ok(stream?),
        Err(_) => {
            let name = &args.name;
            let message =
                format!("{whom} opened no stream named {name:?} within {} s", patience.as_secs());
            Err(Failed { code: "no_stream", message }.into())
        }
    }
}

/// Moves the bytes, and shows that they move.
async fn flow(
    cx: &Context,
    stream: AgentStream,
    no_input: bool,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let row = stream.row().clone();
    let (reader, mut writer, watch) = stream.split();
    let (begun, counted) = (Instant::now(), Counted::default());
    let seen = !cx.out.json && stderr().is_terminal();
    let typed = !no_input && stdin().is_terminal();
    if cx.out.json {
        tell(json!({ "event": "stream", "stream": &row }));
    } else if seen && stdout().is_terminal() {
        note(cx.out, &format!("connected with {}", row.peer));
    }
    let input = if no_input { ends::nothing() } else { ends::input()? };
    let ends = Ends { input, output: ends::Output::standard()?, typed };
    // A line that is rewritten would get in the way of what is shown there.
    let live = seen && !stdout().is_terminal();
    let path = Cell::new(row.progress.path);
    let ended = {
        let moving = both(reader, &mut writer, ends, &counted);
        let showing = look(cx, &counted, &watch, &path, live);
        tokio::select! {
            biased;
            () = signals.any() => None,
            ended = moving => Some(ended),
            () = showing => None,
        }
    };
    let path = watch.progress().path.or(path.get());
    let done = conclude(ended, &row, &watch).await;
    let (sent, received) = counted.get();
    if cx.out.json {
        tell(json!({
            "event": "end", "id": row.id, "sent": sent, "received": received,
            "elapsed_ms": ms(begun.elapsed()), "path": path, "complete": done.is_ok(),
        }));
    } else if seen {
        note(cx.out, &sum(&counted, &row.peer, begun.elapsed(), path));
    }
    done
}

/// Ends what has not ended, and says how it went; no word means that it was interrupted.
async fn conclude(
    ended: Option<Result<(), Broken>>,
    row: &StreamRow,
    watch: &StreamWatch,
) -> anyhow::Result<()> {
    let reset = async |reason: &str| watch.reset(code::APPLICATION, reason).await;
    let done = match ended {
        Some(Ok(())) => Ok(()),
        None => {
            reset(INTERRUPTED).await;
            Err(cancelled())
        }
        Some(Err(Broken::Input(e))) => {
            reset("its input cannot be read").await;
            Err(anyhow::Error::from(e).context("standard input cannot be read"))
        }
        Some(Err(Broken::Output(e))) => {
            reset("its output cannot be written").await;
            Err(anyhow::Error::from(e).context("standard output cannot be written"))
        }
        Some(Err(Broken::Stream(failure))) => Err(failed(&row.peer, &failure)),
    };
    // A node that ends before that would leave the other side in doubt.
    let patience = if done.is_ok() { FAREWELL } else { LAST_WORD };
    let _ = timeout(patience, watch.over()).await;
    done
}

/// How a stream failed, for people and as an exit code.
fn failed(peer: &str, failure: &StreamFailure) -> anyhow::Error {
    let code = match failure {
        StreamFailure::Reset { .. } => "stream_reset",
        StreamFailure::Closed { .. } => "stream_closed",
        StreamFailure::Stopped { .. } => "stream_stopped",
        StreamFailure::Silent => {
            let text =
                format!("nothing has been heard from {peer} for too long: it is not complete");
            return ApiError::new(ErrorKind::Unreachable, "stream_silent", text).into();
        }
        StreamFailure::Node(_) => {
            return ApiError::new(ErrorKind::Io, "node_socket", failure.to_string()).into();
        }
        _ => "stream_failed",
    };
    let message = match failure {
        StreamFailure::Stopped { .. } => {
            format!("{peer} reads no more: it may not have everything")
        }
        other => format!("with {peer}: {other}; it is not complete"),
    };
    Failed { code, message }.into()
}

/// Looks which path is in use and rewrites the line on the terminal, for ever. A stream that is over has no path.
async fn look(
    cx: &Context,
    counted: &Counted,
    watch: &StreamWatch,
    path: &Cell<Option<PeerPath>>,
    live: bool,
) {
    let progress = live.then(|| cx.progress("0 B"));
    let mut rate = Rate::default();
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        tick.tick().await;
        let now = Instant::now();
        rate.look(counted.all(), now.saturating_duration_since(last));
        last = now;
        let used = watch.progress().path;
        path.set(used.or(path.get()));
        if let Some(progress) = &progress {
            progress.say(line(counted, &rate, used));
        }
    }
}

/// Says something to programs, on stderr: stdout has the bytes.
fn tell(mut object: serde_json::Value) {
    object["schema_version"] = SCHEMA_VERSION.into();
    // Not worth failing for.
    let _ = writeln!(stderr(), "{object}");
}
