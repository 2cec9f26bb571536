//! `meshwire group join|leave|list`

use clap::Subcommand;
use meshwire_peer::api::{ApiError, ErrorKind, Group, GroupMember, ListGroups, SetGroup};
use meshwire_peer::core::resolve::nearest;
use meshwire_signaling::group::{ALL, check_group_name};
use serde::Serialize;

use crate::context::Context;
use crate::exit::{Exit, invalid};
use crate::output::{Table, clean_lines};

/// Join or leave a group, or list groups and who is in them
///
/// A message to @NAME reaches who is in that group or in one below it: @ops reaches ops/db too. Every
/// member is in @all without joining it. A group is there as soon as somebody joins it. Members join,
/// not sessions; what they say of themselves is signed, so nobody else can put them in a group.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire group join ops/db --role lead\n  \
    meshwire group list ops\n  \
    meshwire send @ops 'the disk is full'")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Join(Join),
    Leave(Leave),
    List(List),
}

/// Join a group; joining again changes the role
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire group join ops --role lead")]
struct Join {
    /// The group's name, such as ops or ops/db; with or without @
    #[arg(value_parser = parse)]
    name: String,
    /// What you are there, in your own words
    #[arg(long)]
    role: Option<String>,
}

/// Leave a group
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire group leave ops")]
struct Leave {
    /// The group's name
    #[arg(value_parser = parse)]
    name: String,
}

/// List groups and who is in them
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire group list ops")]
struct List {
    /// Only this group and those below it
    #[arg(value_parser = parse)]
    name: Option<String>,
}

/// A group's name as clap's value parser, with or without its @.
fn parse(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('@').unwrap_or(text);
    let Err(e) = check_group_name(name) else { return Ok(name.to_owned()) };
    let lower = name.to_lowercase().replace(' ', "-");
    let tip = check_group_name(&lower).map(|()| format!("; did you mean {lower}?"));
    Err(format!("{e}{}", tip.unwrap_or_default()))
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.command {
        Command::Join(Join { name, role }) => change(cx, name, role, false).await,
        Command::Leave(Leave { name }) => change(cx, name, None, true).await,
        Command::List(List { name }) => list(cx, name).await,
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Changed {
    event: &'static str,
    group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// How many others are in it by their own word; groups below it are not counted.
    others: usize,
}

async fn change(
    cx: &Context,
    group: String,
    role: Option<String>,
    leave: bool,
) -> anyhow::Result<Exit> {
    let mesh = cx.mesh.clone();
    let ask = SetGroup { mesh: mesh.clone(), group: group.clone(), role: role.clone(), leave };
    let groups = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            agent.set_group(ask).await?;
            cx.settle(agent).await;
            Ok(agent.groups(ListGroups { mesh, group: Some(group.clone()) }).await?)
        })
        .await?;
    let members = groups.iter().filter(|g| g.name == group).flat_map(|g| &g.members);
    let others = members.filter(|m| !m.this_node).count();
    let event = if leave { "left" } else { "joined" };
    let changed = Changed { event, group, role, others };
    cx.out.show(&changed, || described(&changed))?;
    Ok(Exit::Ok)
}

fn described(Changed { event, group, role, others }: &Changed) -> String {
    let others = match others {
        0 => "nobody else is in it".to_owned(),
        1 => "one other is in it".to_owned(),
        n => format!("{n} others are in it"),
    };
    let role = role.as_ref().map(|r| format!(" as {r}")).unwrap_or_default();
    if *event == "left" {
        return format!("Left @{group}; {others}.");
    }
    clean_lines(&format!("Joined @{group}{role}; {others}.\nNext: meshwire send @{group} TEXT"))
}

async fn list(cx: &Context, name: Option<String>) -> anyhow::Result<Exit> {
    if name.as_deref() == Some(ALL) {
        let text = "every member is in @all: meshwire peers lists them";
        return Err(invalid("group_everybody", text).into());
    }
    let groups = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            let ask = ListGroups { mesh: cx.mesh.clone(), group: name.clone() };
            let found = agent.groups(ask).await?;
            let Some(name) = name.filter(|_| found.is_empty()) else { return Ok(found) };
            let all = agent.groups(ListGroups { mesh: cx.mesh.clone(), group: None }).await?;
            let names: Vec<String> = all.into_iter().map(|g| g.name).collect();
            Err(nobody_in(&name, &names).into())
        })
        .await?;
    let none = "Nobody is in a group yet. Next: meshwire group join NAME";
    cx.out.list("groups", &groups, none, || table(&groups, cx.out.width()))?;
    Ok(Exit::Ok)
}

fn nobody_in(name: &str, names: &[String]) -> ApiError {
    let tip = match nearest(name, names) {
        Some(near) => format!("did you mean @{near}?"),
        None if names.is_empty() => "there are no groups yet".to_owned(),
        None => "meshwire group list shows those that there are".to_owned(),
    };
    let text = format!("nobody is in @{name}; {tip}");
    ApiError::new(ErrorKind::NotFound, "group_not_found", text)
}

fn table(groups: &[Group], columns: Option<usize>) -> String {
    let terminal = columns.is_some();
    let several = groups.iter().any(|g| Some(&g.mesh_name) != groups.first().map(|f| &f.mesh_name));
    let row = |g: &Group, m: &GroupMember| {
        let this = if m.this_node && terminal { " (this node)" } else { "" };
        let mesh = if several || !terminal { g.mesh_name.clone() } else { String::new() };
        let role = m.role.clone().unwrap_or_default();
        [format!("@{}", g.name), format!("{}{this}", m.name), m.key.short(), role, mesh]
    };
    let rows = groups.iter().flat_map(|g| g.members.iter().map(move |m| row(g, m)));
    Table::new(["GROUP", "MEMBER", "KEY", "ROLE", "MESH"], rows).render(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::PublicKey;

    #[test]
    fn names_are_typed_with_or_without_their_sign() {
        assert_eq!(parse("@ops/db"), Ok("ops/db".into()));
        assert_eq!(parse("ops"), Ok("ops".into()));
        let e = parse("Ops Team").unwrap_err();
        assert!(e.contains("did you mean ops-team?"), "{e}");
        assert!(!parse("ops/").unwrap_err().contains("did you mean"));
    }

    #[test]
    fn a_group_that_nobody_is_in_suggests_the_nearest() {
        let names = ["ops".to_owned(), "dev".to_owned()];
        assert!(nobody_in("opz", &names).message.contains("@ops?"));
        assert!(nobody_in("xyzzy", &names).message.contains("group list"));
        assert!(nobody_in("ops", &[]).message.contains("no groups yet"));
    }

    #[test]
    fn a_row_per_member() {
        let member = |name: &str, role: Option<&str>, this_node| GroupMember {
            name: name.into(),
            key: PublicKey([1; 32]),
            role: role.map(str::to_owned),
            this_node,
        };
        let members = vec![member("ana", Some("lead"), true), member("bob", None, false)];
        let group = Group { mesh_name: "home".into(), name: "ops".into(), members };
        let text = table(std::slice::from_ref(&group), Some(80));
        assert_eq!(
            text,
            "GROUP  MEMBER           KEY               ROLE\n\
             @ops   ana (this node)  0101010101010101  lead\n\
             @ops   bob              0101010101010101"
        );
    }

    #[test]
    fn joining_says_who_else_is_there() {
        let role = Some("lead".to_owned());
        let joined = Changed { event: "joined", group: "ops".into(), role, others: 1 };
        assert!(described(&joined).starts_with("Joined @ops as lead; one other is in it.\nNext"));
        let left = Changed { event: "left", role: None, others: 0, ..joined };
        assert_eq!(described(&left), "Left @ops; nobody else is in it.");
    }
}
