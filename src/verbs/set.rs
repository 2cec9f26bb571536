//! `meshwire set status|summary|profile|visible`

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use meshwire_peer::Agent;
use meshwire_peer::api::{Presence, SetPresence};
use meshwire_signaling::frame::{Profile, Status as Doing};
use meshwire_signaling::limits::ms;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::clean;
use crate::{duration, when};

/// Say what you are doing, work on and who you are, or be listed or not
///
/// In all meshes, or in the one that --mesh names; inside a session, of that session. It is kept
/// until it is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire set status dnd --for 30m\n  \
    meshwire set summary 'porting the parser'\n  \
    meshwire set profile --title 'build agent'\n  \
    meshwire set visible off")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
    Summary(Summary),
    Profile(About),
    Visible(Visible),
}

/// Say what you are doing; it decides which mail shows up
///
/// What is held back stays on this machine, is confirmed to its sender, and shows up in order when the
/// status is idle again.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire set status dnd --for 30m")]
struct Status {
    /// What you are doing
    #[arg(value_enum)]
    status: Word,
    /// Idle again after so long, such as 30m [default: until it is changed]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    lasts: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    /// All mail shows up
    Idle,
    /// Only mail of priority now shows up
    Working,
    /// Do not disturb: only mail of priority now shows up
    Dnd,
}

/// Say what you work on, in a sentence
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire set summary porting the parser\n  \
    meshwire set summary ''                            says nothing any more")]
struct Summary {
    /// The text; several words are joined by spaces, an empty one clears it
    #[arg(required = true)]
    text: Vec<String>,
}

/// Say who you are; what is not given stays, an empty text clears it
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "meshwire set profile [--title TEXT] [--bio TEXT] [--avatar TEXT]",
    after_help = "EXAMPLE:\n  \
        meshwire set profile --title 'build agent' --avatar 🛠\n  \
        meshwire set profile --bio 'Builds what is pushed.'"
)]
#[group(required = true, multiple = true)]
struct About {
    /// A few words
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// A few sentences
    #[arg(long, value_name = "TEXT")]
    bio: Option<String>,
    /// A picture's address, or an emoji
    #[arg(long, value_name = "TEXT")]
    avatar: Option<String>,
}

/// Be listed among peers, or not
///
/// Who is hidden is left out of other members' lists and of groups, with its sessions. Who knows its
/// name or key reaches it all the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire set visible off")]
struct Visible {
    /// Whether you are listed
    #[arg(value_enum)]
    visible: Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let none = SetPresence { mesh: cx.mesh.clone(), ..SetPresence::default() };
    let said = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            let ask = match args.command {
                Command::Profile(profile) => return set_profile(agent, none, profile).await,
                Command::Status(Status { status, lasts }) => {
                    let status = match status {
                        Word::Idle => Doing::Idle,
                        Word::Working => Doing::Working,
                        Word::Dnd => Doing::Dnd,
                    };
                    SetPresence { status: Some(status), status_for_ms: lasts.map(ms), ..none }
                }
                Command::Summary(Summary { text }) => {
                    SetPresence { summary: Some(text.join(" ").trim().to_owned()), ..none }
                }
                Command::Visible(Visible { visible }) => {
                    SetPresence { visible: Some(visible == Switch::On), ..none }
                }
            };
            Ok(agent.set_presence(ask).await?)
        })
        .await?;
    let none = "In no mesh yet. Next: meshwire join LINK";
    cx.out.list("presence", &said, none, || {
        said.iter().map(describe).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Ok)
}

/// A profile is set as a whole: what is not given is taken from what each mesh was told.
async fn set_profile(
    agent: &Agent,
    none: SetPresence,
    change: About,
) -> anyhow::Result<Vec<Presence>> {
    let mut said = Vec::new();
    for now in agent.set_presence(none).await? {
        let profile = merged(now.profile.unwrap_or_default(), &change);
        let mesh = Some(now.mesh_name);
        let ask = SetPresence { mesh, profile: Some(profile), ..SetPresence::default() };
        said.extend(agent.set_presence(ask).await?);
    }
    Ok(said)
}

fn merged(old: Profile, change: &About) -> Profile {
    let part = |old: Option<String>, new: &Option<String>| match new {
        Some(text) => Some(text.clone()).filter(|t| !t.is_empty()),
        None => old,
    };
    Profile {
        avatar: part(old.avatar, &change.avatar),
        title: part(old.title, &change.title),
        bio: part(old.bio, &change.bio),
    }
}

/// What is said in a mesh, on a line.
pub(super) fn describe(p: &Presence) -> String {
    let mut parts = vec![p.status.as_str().to_owned()];
    if let Some(until) = p.status_until {
        parts[0].push_str(&format!(" until {}", when::utc(until)));
    }
    parts.extend(p.summary.as_ref().map(|s| format!("summary {s:?}")));
    if let Some(Profile { avatar, title, bio }) = &p.profile {
        let named = [("title", title), ("bio", bio), ("avatar", avatar)];
        parts.extend(named.iter().filter_map(|(n, v)| Some(format!("{n} {:?}", v.as_ref()?))));
    }
    if !p.visible {
        parts.push("hidden".to_owned());
    }
    if !p.announced {
        parts.push("others hear of it at the next connection".to_owned());
    }
    clean(&format!("{}: {}", p.mesh_name, parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::PublicKey;

    #[test]
    fn a_profile_keeps_what_is_not_given() {
        let some = |t: &str| Some(t.to_owned());
        let old = Profile { avatar: some("x"), title: some("old"), bio: some("b") };
        let change = About { title: some("new"), bio: some(""), avatar: None };
        let new = Profile { avatar: some("x"), title: some("new"), bio: None };
        assert_eq!(merged(old, &change), new);
    }

    #[test]
    fn what_is_said_fits_on_a_line() {
        let mut said = Presence {
            mesh_name: "home".into(),
            key: PublicKey([1; 32]),
            status: Doing::Dnd,
            status_until: Some(0),
            summary: Some("one\ntwo".into()),
            profile: None,
            visible: false,
            announced: false,
        };
        assert_eq!(
            describe(&said),
            "home: dnd until 1970-01-01 00:00:00Z, summary \"one\\ntwo\", hidden, \
             others hear of it at the next connection"
        );
        said =
            Presence { summary: None, status_until: None, visible: true, announced: true, ..said };
        assert_eq!(describe(&said), "home: dnd");
    }
}
