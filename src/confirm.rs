//! Asks a person before something that cannot be taken back.

use std::io::{self, IsTerminal as _, Write as _};

use crate::context::Context;
use crate::exit::{Failed, invalid};

/// Goes on if `yes`, or if a person at a terminal agrees to `what`, such as "Delete all messages?".
///
/// # Errors
/// `needs_yes` where nobody can be asked; `cancelled` where the answer is no.
pub(crate) async fn confirm(cx: &Context, yes: bool, what: String) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if cx.out.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let text = format!("{what} Nobody is at a terminal to be asked: say it with --yes");
        return Err(invalid("needs_yes", text).into());
    }
    let asked = tokio::task::spawn_blocking(move || -> io::Result<String> {
        write!(io::stderr(), "{what} [y/N] ")?;
        io::stderr().flush()?;
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        Ok(line)
    });
    if agrees(&asked.await??) {
        return Ok(());
    }
    Err(Failed { code: "cancelled", message: "nothing was done".to_owned() }.into())
}

fn agrees(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(agrees("y\n") && agrees(" Yes\r\n"));
        for no in ["", "\n", "n\n", "no\n", "yep\n", "ja\n"] {
            assert!(!agrees(no), "{no:?}");
        }
    }
}
