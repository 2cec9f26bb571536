//! `meshwire completions`

use clap::{CommandFactory as _, ValueEnum};
use clap_complete::{Shell, generate};

use crate::cli::Cli;
use crate::context::Context;
use crate::exit::Exit;

/// Print a script that lets a shell complete meshwire's verbs and options
///
/// Where each shell looks for it:
///
///   bash        ~/.local/share/bash-completion/completions/meshwire
///   zsh         _meshwire in a folder of $fpath, then run compinit again
///   fish        ~/.config/fish/completions/meshwire.fish
///   elvish      ~/.config/elvish/lib/meshwire.elv, and `use meshwire` in rc.elv
///   powershell  at the end of the file that $PROFILE names
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "EXAMPLE:\n  \
        meshwire completions bash > ~/.local/share/bash-completion/completions/meshwire\n  \
        meshwire completions fish > ~/.config/fish/completions/meshwire.fish"
)]
pub(crate) struct Args {
    /// For which shell
    shell: Kind,
}

// clap_complete's own type spells it `power-shell` in some versions; this list is ours.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Bash,
    Zsh,
    Fish,
    Elvish,
    Powershell,
}

impl From<Kind> for Shell {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Bash => Self::Bash,
            Kind::Zsh => Self::Zsh,
            Kind::Fish => Self::Fish,
            Kind::Elvish => Self::Elvish,
            Kind::Powershell => Self::PowerShell,
        }
    }
}

pub(crate) fn run(cx: &Context, args: &Args) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    generate(Shell::from(args.shell), &mut Cli::command(), "meshwire", &mut script);
    // The script is what was asked for, for programs too: a shell cannot read it in JSON.
    cx.out.text(&String::from_utf8(script)?)?;
    Ok(Exit::Ok)
}
