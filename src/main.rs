//! The `meshwire` command.
//!
//! | module | what it holds |
//! |---|---|
//! | `cli` | what can be typed |
//! | `verbs` | a file per verb |
//! | `context` | what every verb knows: home, mesh, output, net |
//! | `output`, `progress`, `when`, `confirm` | what people and programs see, and are asked |
//! | `logging` | the log on stderr |
//! | `exit` | exit codes, and how errors become them |
//! | `duration`, `name`, `addresses` | small readings of the outside |

mod addresses;
mod cli;
mod confirm;
mod context;
mod duration;
mod exit;
mod logging;
mod name;
mod output;
mod progress;
mod verbs;
mod when;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(e) => exit::usage(&e),
    }
}
