//! `meshwire man`

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use serde::Serialize;

use crate::cli::Cli;
use crate::context::Context;
use crate::exit::Exit;

/// What the exit codes mean, for the main page (inventory C-042).
const EXIT_STATUS: [(&str, &str); 10] = [
    ("0", "done"),
    ("1", "not reached in time, not as it should be, or cancelled"),
    ("2", "token or invite missing, wrong or over"),
    ("3", "wrong arguments"),
    ("4", "broker not reached"),
    ("5", "not found, or ambiguous"),
    ("6", "exists already"),
    ("7", "refused"),
    ("8", "a fault of meshwire"),
    ("10", "a file or database fails"),
];

/// Print the manual page, or write one for each verb into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire man | man -l -\n  \
    meshwire man --dir ~/.local/share/man/man1         then: man meshwire-send")]
pub(crate) struct Args {
    /// Write meshwire.1, meshwire-send.1 and so on there; made if missing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Written {
    dir: PathBuf,
    pages: Vec<String>,
}

pub(crate) fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Gives subcommands their full names.
    command.build();
    let Some(dir) = args.dir else {
        cx.out.text(&page(&command)?.1)?;
        return Ok(Exit::Ok);
    };
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let mut pages = Vec::new();
    write(&command, &dir, &mut pages)?;
    pages.sort();
    let written = Written { dir, pages };
    cx.out.show(&written, || {
        format!("{} pages are in {}.", written.pages.len(), written.dir.display())
    })?;
    Ok(Exit::Ok)
}

fn write(command: &Command, dir: &Path, pages: &mut Vec<String>) -> anyhow::Result<()> {
    let (name, text) = page(command)?;
    let path = dir.join(&name);
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    pages.push(name);
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
    shown.into_iter().try_for_each(|c| write(c, dir, pages))
}

/// A command's page and its file's name.
fn page(command: &Command) -> anyhow::Result<(String, String)> {
    let version = concat!("meshwire ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(version).manual("meshwire");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    examples(command, &mut text)?;
    closing(command, &mut text)?;
    Ok((man.get_filename(), ascii(&String::from_utf8(text)?)))
}

/// Other characters by number: formatters do not agree on which encoding pages are in.
fn ascii(text: &str) -> String {
    let one = |c: char| {
        if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) }
    };
    text.chars().map(one).collect()
}

/// The examples with their lines as they are: the generator would fill them into a paragraph.
fn examples(command: &Command, text: &mut Vec<u8>) -> io::Result<()> {
    let Some(help) = command.get_after_help() else { return Ok(()) };
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in help.to_string().lines().filter(|l| *l != "EXAMPLE:") {
        roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    roff.control("fi", []);
    roff.to_writer(text)
}

/// On the main page exit codes, on the others the way back to it.
fn closing(command: &Command, text: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    if command.get_name() == "meshwire" {
        roff.control("SH", ["EXIT STATUS"]);
        for (code, meaning) in EXIT_STATUS {
            roff.control("TP", ["5"]).text([roman(code)]).text([roman(meaning)]);
        }
    } else {
        roff.control("SH", ["SEE ALSO"]).control("BR", ["meshwire", "(1)"]);
    }
    roff.to_writer(text)
}
