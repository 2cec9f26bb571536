//! `meshwire invite [list|revoke]`

mod qr;

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use meshwire_peer::Agent;
use meshwire_peer::api::{CreateInvite, Done, InviteRow, Invites};
use meshwire_signaling::invite::Role;
use meshwire_signaling::limits::{INVITE_USES, ms};
use meshwire_transport::url::BaseUrl;

use crate::context::Context;
use crate::exit::{Exit, invalid};
use crate::output::Table;
use crate::{addresses, duration, when};

/// Make an invite link for somebody else, list invites or end one
///
/// The part of the link behind # is a secret: whoever has it can join. It is never sent to servers.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "EXAMPLE:\n  \
        meshwire invite --expires 12h\n  \
        meshwire invite --uses 10 --role admin\n  \
        meshwire invite --qr\n  \
        meshwire invite list\n  \
        meshwire invite revoke 5f2c1a9e"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    make: Make,
}

#[derive(Debug, clap::Args)]
struct Make {
    /// How many may join with it
    #[arg(long, value_name = "N", default_value_t = INVITE_USES,
          value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it lives, such as 30m, 12h or 7d
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration::parse)]
    expires: Duration,
    /// What whoever joins becomes
    #[arg(long, value_enum, default_value_t = Becomes::Member)]
    role: Becomes,
    /// The broker's address as others reach it, if not the one that this node uses
    #[arg(long, value_name = "URL")]
    broker_url: Option<BaseUrl>,
    /// The invite is for this machine: its broker's address may be one that no other reaches
    #[arg(long)]
    local: bool,
    /// Also draw the link as a QR code, some 65 columns wide; --json has the link alone
    #[arg(long)]
    qr: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Becomes {
    /// Sends and receives
    Member,
    /// Also invites others
    Admin,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Revoke(Revoke),
}

/// List the mesh's invites
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire invite list")]
struct List {}

/// End an invite; who has joined with it stays
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire invite revoke 5f2c1a9e")]
struct Revoke {
    /// The invite's key as `meshwire invite list` shows it, or its unique start
    key: String,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.command {
        None => make(cx, args.make).await,
        Some(Command::List(List {})) => list(cx, None).await,
        Some(Command::Revoke(Revoke { key })) => list(cx, Some(key)).await,
    }
}

async fn make(cx: &Context, args: Make) -> anyhow::Result<Exit> {
    let ask = CreateInvite {
        mesh: cx.mesh.clone(),
        uses: args.uses,
        ttl_ms: ms(args.expires),
        role: match args.role {
            Becomes::Member => Role::Member,
            Becomes::Admin => Role::Admin,
        },
        broker_url: args.broker_url.as_ref().map(ToString::to_string),
    };
    let invite = cx
        .ask(async |agent| {
            if !args.local {
                let url = match args.broker_url {
                    Some(url) => Some(url),
                    None => broker_of(cx, agent).await?,
                };
                if let Some(url) = url {
                    reachable(&url)?;
                }
            }
            let _progress = cx.progress("registering the invite");
            Ok(agent.invite(ask).await?)
        })
        .await?;
    cx.out.show(&invite, || {
        let people = if invite.uses == 1 { "one".to_owned() } else { invite.uses.to_string() };
        let mut text = format!(
            "An invite to {} for {people}, as {}, until {}; it is a secret:\n\n{}\n\n\
             On the other machine: meshwire join '{}'",
            invite.mesh_name,
            invite.role.as_str(),
            when::utc(invite.expires_at),
            invite.link,
            invite.link,
        );
        if args.qr {
            text.push_str("\n\n");
            text.push_str(&code(&invite.link, cx.out.terminal));
        }
        text
    })?;
    Ok(Exit::Ok)
}

/// The link as a QR code, or why there is none.
fn code(link: &str, colours: bool) -> String {
    qr::draw(link, colours)
        .unwrap_or_else(|| "The link is too long for a QR code: hand over its text.".to_owned())
}

/// The broker's address of the mesh that is meant. None: that is unclear, as the node will say.
async fn broker_of(cx: &Context, agent: &Agent) -> anyhow::Result<Option<BaseUrl>> {
    let meshes = agent.status(Done {}).await?.meshes;
    let mut fits = meshes.iter().filter(|m| cx.means(&m.mesh));
    Ok(match (fits.next(), fits.next()) {
        (Some(mesh), None) => mesh.mesh.broker_url.parse().ok(),
        _ => None,
    })
}

/// Refuses an address that other machines cannot use, and says what they could.
fn reachable(url: &BaseUrl) -> anyhow::Result<()> {
    if !addresses::is_loopback(&url.host) {
        return Ok(());
    }
    let own = addresses::reachable();
    Err(invalid("broker_url_loopback", unreachable_text(url, &own)).into())
}

fn unreachable_text(url: &BaseUrl, own: &[std::net::IpAddr]) -> String {
    let mut text = format!(
        "the invite would name {url}, which is this machine for whoever opens it.\n\
         For a node on this same machine: meshwire invite --local\n"
    );
    if url.tls {
        text.push_str("For other machines, name an address that they reach:\n");
        for ip in own {
            let address = addresses::url(*ip, url.port);
            text.push_str(&format!("  meshwire invite --broker-url {address}\n"));
        }
    } else {
        text.push_str("For other machines, start the broker for them:\n");
        for ip in own {
            text.push_str(&format!("  {}\n", addresses::broker_command(*ip, url.port)));
        }
    }
    if own.is_empty() {
        text.push_str("  (this machine has no other address now: connect it to a network first)\n");
    }
    text.push_str(if url.tls {
        "or give the address of a proxy in front of it with --broker-url."
    } else {
        "and create a mesh at its https address; or, behind a proxy that others reach, give the \
         proxy's address with --broker-url."
    });
    text
}

async fn list(cx: &Context, revoke: Option<String>) -> anyhow::Result<Exit> {
    let ask = Invites { mesh: cx.mesh.clone(), revoke };
    let rows = cx
        .ask(async |agent| {
            let _progress = cx.progress("asking the broker");
            Ok(agent.invites(ask).await?)
        })
        .await?;
    cx.out.list("invites", &rows, "No invites.", || {
        let row = |r: &InviteRow| {
            let used = format!("{}/{}", r.used, r.uses);
            let role = r.role.as_str().to_owned();
            let until = when::utc(r.expires_at);
            [r.invite.short(), r.state.clone(), role, used, until, r.joined.join(", ")]
        };
        Table::new(["INVITE", "STATE", "ROLE", "USED", "UNTIL", "JOINED"], rows.iter().map(row))
            .render(cx.out.width())
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_refused_with_what_would_work() {
        let own = ["192.168.1.20".parse().unwrap()];
        let plain = unreachable_text(&"http://localhost:7901".parse().unwrap(), &own);
        let command =
            "meshwire broker --listen 0.0.0.0:7901 --public-url https://192.168.1.20:7901";
        assert!(plain.contains(command) && plain.contains("--local"), "{plain}");
        let tls = unreachable_text(&"https://127.0.0.1:7900".parse().unwrap(), &own);
        assert!(tls.contains("--broker-url https://192.168.1.20:7900"), "{tls}");
        assert!(reachable(&"https://broker.example".parse().unwrap()).is_ok());
        assert!(reachable(&"https://[::1]:7900".parse().unwrap()).is_err());
    }
}
