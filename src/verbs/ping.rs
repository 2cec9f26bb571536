//! `meshwire ping`

use std::time::Duration;

use meshwire_peer::api::{Ping, PingLegs, Pong};
use meshwire_signaling::limits::ms;

use crate::context::Context;
use crate::duration;
use crate::exit::{Exit, Failed};
use crate::output::{Table, align, clean, note};

/// Between two pings.
const PAUSE: Duration = Duration::from_secs(1);
/// Columns wide enough for what they hold, as rows are printed one by one.
const WIDTHS: [usize; 4] = [8, 9, 9, 9];

/// Measure the way to a peer and back, for each priority
///
/// Times are in milliseconds from the start: until the message is on this machine's disk (durable),
/// on the broker's disk (accepted), and confirmed by the peer's own receipt (delivered). The peer
/// shows nothing of it. Ends with exit code 1 if no receipt came.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire ping bob\n  \
    meshwire ping bob --count 10 --json")]
pub(crate) struct Args {
    /// Whom: a name, a key or its unique start
    peer: String,
    /// Longest wait for each ping's receipts, such as 5s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    timeout: Duration,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    count: u32,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let ask = Ping { mesh: cx.mesh.clone(), peer: args.peer, timeout_ms: Some(ms(args.timeout)) };
    let mut back = Vec::new();
    let mut sent = 0;
    cx.ask(async |agent| {
        cx.settle(agent).await;
        for turn in 0..args.count {
            let pong = {
                let _progress = cx.progress(format!("pinging {}", ask.peer));
                if turn > 0 {
                    tokio::time::sleep(PAUSE).await;
                }
                agent.ping(ask.clone()).await?
            };
            sent += pong.legs.len();
            back.extend(pong.legs.iter().filter_map(|l| l.delivered_us));
            cx.out.show(&pong, || describe(&pong, turn == 0, cx.out.terminal))?;
        }
        Ok(())
    })
    .await?;
    if args.count > 1 && cx.out.terminal {
        note(cx.out, &summary(&mut back, sent));
    }
    if back.is_empty() {
        let message = format!("no receipt came within {} s", args.timeout.as_secs());
        return Err(Failed { code: "no_answer", message }.into());
    }
    Ok(Exit::Ok)
}

/// A row per priority; a heading before the first on a terminal.
fn describe(pong: &Pong, first: bool, terminal: bool) -> String {
    if !terminal {
        let head = ["PEER", "PRIORITY", "DURABLE", "ACCEPTED", "DELIVERED"];
        let row = |l: &PingLegs| {
            let [priority, durable, accepted, delivered] = cells(l);
            [pong.name.clone(), priority, durable, accepted, delivered]
        };
        return Table::new(head, pong.legs.iter().map(row)).render(None);
    }
    let mut lines = Vec::new();
    if first {
        let (name, key) = (clean(&pong.name), pong.key.short());
        lines.push(format!("{name} {key} by {}, in milliseconds", clean(&pong.path)));
        let head = ["PRIORITY", "DURABLE", "ACCEPTED", "DELIVERED"].map(str::to_owned);
        lines.push(line(head));
    }
    lines.extend(pong.legs.iter().map(|l| line(cells(l))));
    lines.join("\n")
}

/// The first column to the left, numbers to the right.
fn line([priority, numbers @ ..]: [String; 4]) -> String {
    let [_, widths @ ..] = WIDTHS;
    let numbers = numbers.iter().zip(widths).map(|(n, width)| format!("{n:>width$}"));
    let row: Vec<String> = std::iter::once(priority).chain(numbers).collect();
    align(&row, &WIDTHS)
}

fn cells(legs: &PingLegs) -> [String; 4] {
    let leg = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), millis);
    let priority = legs.priority.as_str().to_owned();
    [priority, leg(legs.durable_us), leg(legs.accepted_us), leg(legs.delivered_us)]
}

/// Three digits or so, which is more than the next ping agrees with.
fn millis(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{:02}", us / 1_000, us % 1_000 / 10),
        10_000..100_000 => format!("{}.{}", us / 1_000, us % 1_000 / 100),
        _ => (us / 1_000).to_string(),
    }
}

fn summary(back: &mut [u64], sent: usize) -> String {
    back.sort_unstable();
    let lost = sent.saturating_sub(back.len());
    let at = |place: usize| back.get(place).copied().map(millis);
    match (at(0), at(back.len() / 2), at(back.len().saturating_sub(1))) {
        (Some(least), Some(middle), Some(most)) => format!(
            "delivered in {least} / {middle} / {most} ms (least / median / most), {lost} of {sent} \
             lost"
        ),
        _ => format!("{lost} of {sent} receipts did not come"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::{Priority, PublicKey};

    #[test]
    fn times_have_about_three_digits() {
        for (us, text) in [
            (0, "0.00"),
            (412, "0.41"),
            (9_999, "9.99"),
            (10_000, "10.0"),
            (99_999, "99.9"),
            (100_999, "100"),
            (5_000_000, "5000"),
        ] {
            assert_eq!(millis(us), text);
        }
    }

    #[test]
    fn legs_line_up_on_a_terminal_and_are_plain_in_a_pipe() {
        let legs = vec![
            PingLegs {
                priority: Priority::Now,
                durable_us: Some(1_234),
                accepted_us: Some(12_345),
                delivered_us: Some(123_456),
            },
            PingLegs {
                priority: Priority::Low,
                durable_us: Some(2_000),
                accepted_us: None,
                delivered_us: None,
            },
        ];
        let (name, key) = ("bob".to_owned(), PublicKey([1; 32]));
        let pong = Pong { name, key, path: "relay".into(), legs };
        assert_eq!(
            describe(&pong, true, true),
            "bob 0101010101010101 by relay, in milliseconds\n\
             PRIORITY    DURABLE   ACCEPTED  DELIVERED\n\
             now            1.23       12.3        123\n\
             low            2.00          -          -"
        );
        assert_eq!(
            describe(&pong, false, false),
            "bob\tnow\t1.23\t12.3\t123\nbob\tlow\t2.00\t-\t-"
        );
    }

    #[test]
    fn many_pings_are_summed_up() {
        let text = summary(&mut [3_000, 1_000, 2_000], 4);
        assert!(text.starts_with("delivered in 1.00 / 2.00 / 3.00 ms"), "{text}");
        assert!(text.ends_with("1 of 4 lost"), "{text}");
        assert!(summary(&mut [], 3).starts_with("3 of 3"));
    }
}
