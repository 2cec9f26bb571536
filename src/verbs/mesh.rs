//! `meshwire mesh create|list`

use clap::Subcommand;
use meshwire_peer::api::{ApiError, CreateMesh, Done, ErrorKind, MeshInfo};
use meshwire_transport::url::BaseUrl;

use crate::context::Context;
use crate::exit::Exit;
use crate::name;
use crate::output::Table;

/// Create a mesh, or list those that this node is in
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire mesh create home --broker http://127.0.0.1:7900 --admin-token mwadmin1.…\n  \
    meshwire mesh list")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    List(List),
}

/// Create a mesh on a broker; this node is its owner
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire mesh create home --broker http://127.0.0.1:7900 --admin-token mwadmin1.…")]
struct Create {
    /// The mesh's name
    #[arg(value_parser = name::parse)]
    name: String,
    /// The broker's address, as it prints it
    #[arg(long, value_name = "URL")]
    broker: BaseUrl,
    /// The broker's admin token, printed at its first start
    #[arg(long, value_name = "TOKEN", env = "MESHWIRE_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// This node's name in the mesh [default: user@host]
    #[arg(long = "name", value_name = "NAME", value_parser = name::parse)]
    member_name: Option<String>,
}

/// List the meshes that this node is in
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire mesh list --json")]
struct List {}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.command {
        Command::Create(create) => self::create(cx, create).await,
        Command::List(List {}) => list(cx).await,
    }
}

async fn create(cx: &Context, args: Create) -> anyhow::Result<Exit> {
    let Some(admin_token) = args.admin_token else {
        let text = "a broker lets only its admin create meshes: give the token that its first \
                    start printed with --admin-token or MESHWIRE_ADMIN_TOKEN (meshwire broker \
                    --new-admin-token prints a new one)";
        return Err(ApiError::new(ErrorKind::Auth, "admin_token_missing", text).into());
    };
    let ask = CreateMesh {
        name: args.name,
        broker_url: args.broker.to_string(),
        admin_token,
        member_name: args.member_name.unwrap_or_else(name::default_name),
    };
    let info = cx
        .ask(async |agent| {
            let _progress = cx.progress(format!("creating the mesh on {}", ask.broker_url));
            Ok(agent.create_mesh(ask).await?)
        })
        .await?;
    cx.out.show(&info, || {
        format!(
            "Created mesh {}; you are {}, its owner.\nNext: meshwire invite",
            info.name, info.member_name
        )
    })?;
    Ok(Exit::Ok)
}

async fn list(cx: &Context) -> anyhow::Result<Exit> {
    let status = cx.ask(async |agent| Ok(agent.status(Done {}).await?)).await?;
    let meshes: Vec<MeshInfo> = status.meshes.into_iter().map(|m| m.mesh).collect();
    cx.out.list("meshes", &meshes, "In no mesh yet. Next: meshwire join LINK", || {
        let row = |m: &MeshInfo| {
            let role = m.role.as_str().to_owned();
            [m.name.clone(), m.mesh.short(), m.member_name.clone(), role, m.broker_url.clone()]
        };
        Table::new(["MESH", "ID", "AS", "ROLE", "BROKER"], meshes.iter().map(row))
            .render(cx.out.width())
    })?;
    Ok(Exit::Ok)
}
