//! `meshwire inbox [delete]`

use std::time::Duration;

use clap::Subcommand;
use meshwire_peer::Agent;
use meshwire_peer::api::{Inbox, InboxDelete, InboxMessage};
use meshwire_signaling::limits::ms;

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Table, clean, clean_lines, join_within, note};
use crate::when::{self, When};

/// How long one request waits for messages when following; then it is asked again.
const FOLLOW: Duration = Duration::from_secs(30);

/// List messages that came in, or delete some
///
/// Without --all, what is for this node's member: its sessions read their own mail. What a session has
/// not listed before its end is the member's then. Inside a session, what is for the session and, if it
/// may, for its member. Mail that a status holds back is not listed until it shows up.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "EXAMPLE:\n  \
        meshwire inbox --unread\n  \
        meshwire inbox --from bob --since 2h\n  \
        meshwire inbox --follow --json | while read -r message; do …; done\n  \
        meshwire inbox delete --before 30d"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Go on and list messages as they come, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Only what was not listed before
    #[arg(long)]
    unread: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Leave what is listed unread
    #[arg(long)]
    peek: bool,
    /// Only by this peer: a name, a key or its unique start
    #[arg(long, value_name = "PEER")]
    from: Option<String>,
    /// Only what came since: so long ago, such as 2h, or a UTC date
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<When>,
    /// Only what came before: so long ago, such as 30d, or a UTC date
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    before: Option<When>,
    /// What is for this node's sessions too, also for those that have ended
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Delete(Delete),
}

/// Delete messages from this machine; that they came stays known, so they do not come again
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire inbox delete 01JQ4T5ZK0\n  \
    meshwire inbox delete --before 30d\n  \
    meshwire inbox delete --all --yes")]
#[command(group = clap::ArgGroup::new("which").required(true).args(["id", "before", "all"]))]
struct Delete {
    /// The message's id, or its unique start
    id: Option<String>,
    /// All that came before: so long ago, such as 30d, or a UTC date
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    before: Option<When>,
    /// All that came
    #[arg(long)]
    all: bool,
    /// With --all: do not ask
    #[arg(long, requires = "all")]
    yes: bool,
}

impl Args {
    /// Whether it goes on until Ctrl-C.
    pub(crate) fn follows(&self) -> bool {
        self.list.follow
    }
}

impl List {
    fn ask(&self, cx: &Context) -> Inbox {
        let now = cx.net.unix_ms();
        Inbox {
            mesh: cx.mesh.clone(),
            unread: self.unread,
            peek: self.peek,
            from: self.from.clone(),
            since: self.since.map(|t| t.at(now)),
            before: self.before.map(|t| t.at(now)),
            all: self.all,
            limit: Some(self.limit),
            ..Inbox::default()
        }
    }
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let list = match args.command {
        Some(Command::Delete(delete)) => return self::delete(cx, delete).await,
        None => args.list,
    };
    if list.follow {
        return follow(cx, list).await;
    }
    let messages = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            Ok(agent.inbox(list.ask(cx)).await?)
        })
        .await?;
    cx.out.list("messages", &messages, "No messages.", || describe(cx, &messages))?;
    Ok(Exit::Ok)
}

async fn delete(cx: &Context, args: Delete) -> anyhow::Result<Exit> {
    let now = cx.net.unix_ms();
    if args.all {
        let mesh = cx.mesh.as_ref().map(|m| format!(" of mesh {m}")).unwrap_or_default();
        confirm(cx, args.yes, format!("Delete all messages{mesh} that came in?")).await?;
    }
    let before = args.before.map(|t| t.at(now)).or(args.all.then_some(now.saturating_add(1)));
    let ask = InboxDelete { mesh: cx.mesh.clone(), id: args.id, before };
    let deleted = cx.ask(async |agent| Ok(agent.inbox_delete(ask).await?)).await?;
    cx.out.show(&deleted, || match deleted.deleted {
        1 => "Deleted 1 message.".to_owned(),
        n => format!("Deleted {n} messages."),
    })?;
    Ok(Exit::Ok)
}

async fn follow(cx: &Context, list: List) -> anyhow::Result<Exit> {
    cx.ask(async |agent| {
        if agent.is_own() {
            let text = "No node is up: other commands wait while this one follows. `meshwire up` \
                        in another terminal, before this, lets both work.";
            note(cx.out, text);
        }
        tokio::select! {
            ended = listen(cx, agent, list.ask(cx)) => ended,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
        }
    })
    .await
}

/// Prints what is there, then what comes.
async fn listen(cx: &Context, agent: &Agent, mut ask: Inbox) -> anyhow::Result<Exit> {
    loop {
        let messages = agent.inbox(ask.clone()).await?;
        if cx.out.json {
            for message in &messages {
                cx.out.object(message)?;
            }
        } else if !messages.is_empty() {
            cx.out.text(&describe(cx, &messages))?;
        }
        if let Some(last) = messages.iter().map(|m| m.order).max() {
            ask.after = ask.after.max(Some(last));
        }
        ask.wait_ms = Some(ms(FOLLOW));
    }
}

fn describe(cx: &Context, messages: &[InboxMessage]) -> String {
    if let Some(columns) = cx.out.width() {
        messages.iter().map(|m| block(m, columns)).collect::<Vec<_>>().join("\n")
    } else {
        let row = |m: &InboxMessage| {
            let (id, came) = (m.id.to_string(), when::utc(m.received_at));
            let group = m.group.as_ref().map_or_else(|| "-".to_owned(), |g| format!("@{g}"));
            [id, came, group, from(m), m.message.clone()]
        };
        let head = ["ID", "CAME", "GROUP", "FROM", "MESSAGE"];
        Table::new(head, messages.iter().map(row)).render(None)
    }
}

/// Who wrote it, down to the session.
fn from(m: &InboxMessage) -> String {
    match m.from_session {
        Some(key) if !m.from.contains('/') => format!("{}/{}", m.from, key.short()),
        _ => m.from.clone(),
    }
}

/// A message as people read it on a terminal. A heading's further lines are indented by less than
/// what stands in the message, so that neither can be taken for the other.
fn block(m: &InboxMessage, columns: usize) -> String {
    let unread = if m.unread { "* " } else { "" };
    let group = m.group.as_ref().map(|g| format!(" to @{}", clean(g))).unwrap_or_default();
    let who = format!("{unread}{}{group} in {}", clean(&from(m)), clean(&m.mesh_name));
    let mut parts =
        vec![who, when::utc(m.received_at), m.priority.as_str().to_owned(), m.id.to_string()];
    let over = if m.session_ended { ", which has ended" } else { "" };
    parts.extend(m.to_session.map(|k| format!("for session {}{over}", k.short())));
    parts.extend(m.reply_to.map(|id| format!("answers {id}")));
    let head = join_within(parts.iter().map(String::as_str), "  ", columns, 0, 2);
    let lines = clean_lines(&m.message);
    let body: Vec<String> = lines.lines().map(|l| format!("    {l}")).collect();
    format!("{head}\n{}", body.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::{EnvelopeId, Priority, PublicKey};

    #[test]
    fn messages_cannot_pose_as_something_else() {
        let message = InboxMessage {
            order: 1,
            id: EnvelopeId::new(1, 2),
            mesh_name: "home".into(),
            from: "bob\nana in home".into(),
            from_key: PublicKey([1; 32]),
            priority: Priority::Now,
            content_type: "text/plain".into(),
            message: "one\n* ana in home\u{1b}[2K".into(),
            reply_to: None,
            sent_at: 0,
            received_at: 0,
            unread: true,
            from_session: None,
            to_session: None,
            session_ended: false,
            group: None,
        };
        let text = block(&message, 200);
        assert!(
            text.starts_with("* bob\\nana in home in home  1970-01-01 00:00:00Z  now"),
            "{text}"
        );
        // What stands in a message is indented, headings are not.
        assert!(text.contains("\n    * ana in home\\u{1b}[2K"), "{text}");
    }

    #[test]
    fn groups_and_sessions_are_named() {
        let message = InboxMessage {
            order: 1,
            id: EnvelopeId::new(1, 2),
            mesh_name: "home".into(),
            from: "bob".into(),
            from_key: PublicKey([1; 32]),
            from_session: Some(PublicKey([0xab; 32])),
            to_session: Some(PublicKey([0xcd; 32])),
            session_ended: false,
            group: Some("ops".into()),
            priority: Priority::Next,
            content_type: "text/plain".into(),
            message: "hi".into(),
            reply_to: None,
            sent_at: 0,
            received_at: 0,
            unread: false,
        };
        let text = block(&message, 200);
        assert!(text.starts_with("bob/abababababababab to @ops in home  "), "{text}");
        assert!(text.contains("  for session cdcdcdcdcdcdcdcd\n"), "{text}");
        let left = block(&InboxMessage { session_ended: true, ..message.clone() }, 200);
        assert!(left.contains("  for session cdcdcdcdcdcdcdcd, which has ended\n"), "{left}");
        let narrow = block(&message, 80);
        assert!(narrow.lines().all(|l| l.chars().count() <= 80), "{narrow}");
        assert!(narrow.lines().nth(1).is_some_and(|l| l.starts_with("  000000")), "{narrow}");
        let named = InboxMessage { from: "bob/agent".into(), ..message };
        assert_eq!(from(&named), "bob/agent");
    }
}
