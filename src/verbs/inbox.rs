//! `meshwire inbox`

use std::time::Duration;

use meshwire_peer::Agent;
use meshwire_peer::api::{Inbox, InboxMessage};
use meshwire_signaling::limits::ms;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Table, clean, clean_lines, note};
use crate::when;

/// How long one request waits for messages when following; then it is asked again.
const FOLLOW: Duration = Duration::from_secs(30);

/// List messages that came in
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire inbox --unread\n  \
    meshwire inbox --follow --json | while read -r message; do …; done")]
pub(crate) struct Args {
    /// Go on and list messages as they come, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
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
}

impl Args {
    fn ask(&self, cx: &Context) -> Inbox {
        Inbox {
            mesh: cx.mesh.clone(),
            unread: self.unread,
            peek: self.peek,
            limit: Some(self.limit),
            ..Inbox::default()
        }
    }
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    if args.follow {
        return follow(cx, args).await;
    }
    let messages = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            Ok(agent.inbox(args.ask(cx)).await?)
        })
        .await?;
    cx.out.list("messages", &messages, "No messages.", || describe(cx, &messages))?;
    Ok(Exit::Ok)
}

async fn follow(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    cx.ask(async |agent| {
        if agent.is_own() {
            let text = "No node is up: other commands wait while this one follows. `meshwire up` \
                        in another terminal, before this, lets both work.";
            note(cx.out, text);
        }
        tokio::select! {
            ended = listen(cx, agent, args.ask(cx)) => ended,
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
    if cx.out.terminal {
        messages.iter().map(block).collect::<Vec<_>>().join("\n")
    } else {
        let row = |m: &InboxMessage| {
            [m.id.to_string(), when::utc(m.received_at), m.from.clone(), m.message.clone()]
        };
        Table::new(["ID", "CAME", "FROM", "MESSAGE"], messages.iter().map(row)).render(false)
    }
}

/// A message as people read it on a terminal.
fn block(m: &InboxMessage) -> String {
    let unread = if m.unread { "* " } else { "" };
    let answers = m.reply_to.map(|id| format!("  answers {id}")).unwrap_or_default();
    let head = format!(
        "{unread}{} in {}  {}  {}  {}{answers}",
        clean(&m.from),
        clean(&m.mesh_name),
        when::utc(m.received_at),
        m.priority.as_str(),
        m.id
    );
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
        };
        let text = block(&message);
        assert!(
            text.starts_with("* bob\\nana in home in home  1970-01-01 00:00:00Z  now"),
            "{text}"
        );
        // What stands in a message is indented, headings are not.
        assert!(text.contains("\n    * ana in home\\u{1b}[2K"), "{text}");
    }
}
