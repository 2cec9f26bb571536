//! The check on canned traces: what it accepts, and that it cannot pass by what it does not see.

use super::*;

/// The middle of a broker's life, in strace's format with readable strings: [`hex`] makes it real.
/// Thread 2 reads a masked frame, thread 3 writes and syncs, thread 2 answers.
const GOOD: &str = r#"
2 recvfrom(9<socket:[7]>, "GET / HTTP/1.1{r}{n}Upgrade: websocket{r}{n}{r}{n}", 8192, 0, NULL, NULL) = 41
2 sendto(9<socket:[7]>, "HTTP/1.1 101 X{r}{n}Upgrade: websocket{r}{n}{r}{n}", 41, MSG_NOSIGNAL, NULL, 0) = 41
2 recvfrom(9<socket:[7]>,  <unfinished ...>
3 pwrite64(5</data/broker.db-wal>, "before", 6, 0) = 6
2 <... recvfrom resumed>"{82}{87}{00}{00}{00}{00}send 42", 8192, 0, NULL, NULL) = 13
2 recvfrom(9<socket:[7]>, 0x55d0, 8192, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
3 pwrite64(5</data/broker.db-wal>, "envelope 42", 11, 4096) = 11
3 fdatasync(5</data/broker.db-wal> <unfinished ...>
4 write(2</data/log>, "accepted 42", 11) = 11
3 <... fdatasync resumed>) = 0
2 sendto(9<socket:[7]>, "{82}{0b}accepted 42", 13, MSG_NOSIGNAL, NULL, 0) = 13
2 +++ killed by SIGKILL +++
"#;

const PROMISE: Promise<'_> = Promise {
    request: Some(&[b"send", b"42"]),
    answer: &[b"accepted", b"42"],
    file: "broker.db-wal",
    holding: b"envelope 42",
};

/// Turns strings and descriptors into hex, as -xx does; `{r}`, `{n}` and `{82}` are one byte each.
fn hex(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(end), c) if c == end => {
                quote = None;
                out.push(c);
            }
            (Some(_), '{') => {
                let name: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let byte = match name.as_str() {
                    "r" => b'\r',
                    "n" => b'\n',
                    hex => u8::from_str_radix(hex, 16).unwrap(),
                };
                out.push_str(&format!("\\x{byte:02x}"));
            }
            (Some(_), c) => out.push_str(&format!("\\x{:02x}", c as u32)),
            (None, '"') => {
                quote = Some('"');
                out.push(c);
            }
            // A descriptor's name follows its number; `<unfinished` and `<...` do not.
            (None, '<') if out.ends_with(|c: char| c.is_ascii_digit()) => {
                quote = Some('>');
                out.push(c);
            }
            (None, c) => out.push(c),
        }
    }
    out
}

fn check(text: &str) -> Result<(), Uncovered> {
    Trace::parse(&hex(text)).covered(&PROMISE)
}

/// The canned trace without the lines that have `word`.
fn without(word: &str) -> String {
    let lines: Vec<&str> = GOOD.lines().filter(|l| !l.contains(word)).collect();
    lines.join("\n")
}

/// The canned trace with its line that has `word` moved before the one that has `mark`.
fn moved(word: &str, mark: &str) -> String {
    let find = |word: &str| GOOD.lines().find(|l| l.contains(word)).unwrap();
    let (line, mark) = (find(word), find(mark));
    let rest = GOOD.replace(&format!("{line}\n"), "");
    rest.replace(mark, &format!("{line}\n{mark}"))
}

#[test]
fn a_kept_promise_is_seen() {
    assert_eq!(check(GOOD), Ok(()));
}

#[test]
fn what_is_missing_is_said() {
    assert_eq!(check(""), Err(Uncovered::NoAnswer));
    assert_eq!(check(&without("{0b}accepted")), Err(Uncovered::NoAnswer), "the log is no answer");
    assert_eq!(check(&without("send 42")), Err(Uncovered::NoRequest));
    assert_eq!(check(&without("envelope 42")), Err(Uncovered::NotWritten));
    assert_eq!(check(&without("fdatasync")), Err(Uncovered::NotSynced));
}

#[test]
fn a_sync_counts_from_its_return_and_for_what_was_written_before_it() {
    let late = moved("{0b}accepted", "fdatasync resumed");
    assert_eq!(check(&late), Err(Uncovered::NotSynced), "it had begun, but not returned");
    let early = moved("envelope 42", "fdatasync resumed");
    assert_eq!(check(&early), Err(Uncovered::NotSynced), "written while it was under way");
    let elsewhere = GOOD.replace("fdatasync(5</data/broker.db-wal>", "fdatasync(5</data/other>");
    assert_eq!(check(&elsewhere), Err(Uncovered::NotSynced));
    let failed = GOOD.replace("fdatasync resumed>) = 0", "fdatasync resumed>) = -1 EIO (error)");
    assert_eq!(check(&failed), Err(Uncovered::NotSynced));
}

#[test]
fn what_was_written_before_the_request_does_not_count() {
    let early = moved("envelope 42", "recvfrom resumed");
    assert_eq!(check(&early), Err(Uncovered::NotWritten));
    let late = moved("{0b}accepted", "envelope 42");
    assert_eq!(check(&late), Err(Uncovered::NotWritten), "answered before the write");
}

#[test]
fn frames_are_put_together_and_taken_apart() {
    let masked =
        GOOD.replace("{00}{00}{00}{00}send 42", "{01}{02}{03}{04}{72}{67}{6d}{60}{21}{36}{31}");
    assert_eq!(check(&masked), Ok(()));
    let whole = r#"2 sendto(9<socket:[7]>, "{82}{0b}accepted 42", 13, MSG_NOSIGNAL, NULL, 0) = 13"#;
    let split = r#"2 sendto(9<socket:[7]>, "{82}{01}x{82}{0b}acce", 20, MSG_NOSIGNAL, NULL, 0) = 9
2 writev(9<socket:[7]>, [{iov_base="pted", iov_len=4}, {iov_base=" 42", iov_len=3}], 2) = 7"#;
    // Braces outside of strings are strace's own.
    assert!(GOOD.contains(whole));
    assert_eq!(check(&GOOD.replace(whole, split)), Ok(()));
    let torn = split.lines().next().unwrap();
    assert_eq!(check(&GOOD.replace(whole, torn)), Err(Uncovered::NoAnswer), "never finished");
}

#[test]
fn a_process_without_a_request_promises_from_its_start() {
    let text = hex(r#"
1 pwrite64(5</home/peer.db-wal>, "row 42", 6, 0) = 6
1 fsync(5</home/peer.db-wal>) = 0
1 write(1<pipe:[3]>, "queued 42", 9) = 9
"#);
    let promise =
        Promise { request: None, answer: &[b"queued 42"], file: "peer.db-wal", holding: b"row 42" };
    assert_eq!(Trace::parse(&text).covered(&promise), Ok(()));
}

#[test]
#[should_panic(expected = "cut short")]
fn a_trace_that_shows_not_everything_is_refused() {
    let _ = check(r#"1 write(1<pipe:[3]>, "queued"..., 9) = 9"#);
}

#[test]
fn the_type_of_a_frame_is_a_whole_word() {
    assert_eq!(frame("accepted"), b"\xa4type\xa8accepted");
    assert!(!holds(b"\xa4type\xabaccepted_at", &frame("accepted")));
}
