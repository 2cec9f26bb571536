//! What a process did in which order, as strace saw it: pure functions over its output.
//!
//! [`Trace::parse`] reads what `strace -f -y -xx -s SIZE -o FILE` writes (calls of several threads,
//! interleaved; every string in hex). [`Trace::covered`] is the check: between the arrival of a
//! request and the first byte of its answer, the file that the answer speaks of was written, and an
//! fsync or fdatasync that began after that write has returned.
//!
//! Lines stand in the order in which strace let the threads go on. What a thread does because of
//! another one's call comes after the line that ends that call, so comparing line numbers is exact.
//! A check can only fail by what is missing, never pass by it: each [`Uncovered`] says what that is.

// Helpers panic, which is what they are for.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use std::collections::HashMap;

mod tests;

/// The calls that [`Trace`] understands, for `-e trace=`: what sockets, pipes and files are read,
/// written and synced with here. Others would be missed, and missing is failing.
pub const CALLS: &str = "read,readv,recvfrom,write,writev,sendto,pwrite64,pwritev,fsync,fdatasync";

/// A system call that has returned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    what: What,
    /// What its descriptor was: a path, `socket:[INODE]`, `pipe:[INODE]`.
    on: String,
    /// What was read or written, as far as it was.
    bytes: Vec<u8>,
    /// The line where it began.
    began: usize,
    /// The line where it returned.
    ended: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    In,
    Out,
    Sync,
}

/// Something that went in or out through a socket or pipe: a WebSocket frame, or what one call
/// carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether it went out.
    pub out: bool,
    /// The frame's payload, unmasked, or the call's bytes.
    pub bytes: Vec<u8>,
    /// The line where the call with its first byte began.
    pub began: usize,
    /// The line where the call with its last byte returned.
    pub ended: usize,
}

impl Message {
    /// Whether it holds all of these.
    pub fn has(&self, needles: &[&[u8]]) -> bool {
        needles.iter().all(|n| holds(&self.bytes, n))
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || bytes.windows(needle.len()).any(|w| w == needle)
}

/// A frame's type as MessagePack has it: `accepted_at` is not taken for `accepted`.
pub fn frame(kind: &str) -> Vec<u8> {
    let length = u8::try_from(kind.len()).unwrap();
    assert!(length < 32, "a fixstr");
    [b"\xa4type".as_slice(), &[0xa0 | length], kind.as_bytes()].concat()
}

/// An answer, and what it promises to be on disk.
pub struct Promise<'a> {
    /// What came in; none: what the process was started for.
    pub request: Option<&'a [&'a [u8]]>,
    /// What went out.
    pub answer: &'a [&'a [u8]],
    /// The end of the file's path.
    pub file: &'a str,
    /// What was written to it; empty for anything.
    pub holding: &'a [u8],
}

/// Why a trace does not show that a promise was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncovered {
    /// The answer is not in the trace.
    NoAnswer,
    /// Nothing before the answer is its request.
    NoRequest,
    /// The file was not written in between.
    NotWritten,
    /// It was written, but no sync has returned before the answer.
    NotSynced,
}

/// Everything a process did, in order.
#[derive(Debug)]
pub struct Trace {
    calls: Vec<Call>,
    messages: Vec<Message>,
}

impl Trace {
    /// Reads strace's output.
    ///
    /// # Panics
    /// Where strace cut a string short: the trace would not show everything.
    pub fn parse(text: &str) -> Self {
        let mut calls = Vec::new();
        let mut open: HashMap<&str, (usize, &str)> = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            if let Some(start) = rest.strip_suffix("<unfinished ...>") {
                open.insert(thread, (at, start));
            } else if rest.starts_with("<... ") {
                let end = rest.split_once("resumed>").map(|(_, end)| end);
                if let (Some((began, start)), Some(end)) = (open.remove(thread), end) {
                    calls.extend(call(&format!("{start}{end}"), began, at));
                }
            } else {
                calls.extend(call(rest, at, at));
            }
        }
        // The bytes of a stream go in the order of the calls' beginnings.
        calls.sort_by_key(|c| c.began);
        let messages = messages(&calls);
        Self { calls, messages }
    }

    /// Whether the trace shows that the promise was kept.
    pub fn covered(&self, p: &Promise<'_>) -> Result<(), Uncovered> {
        let answer = self.messages.iter().find(|m| m.out && m.has(p.answer));
        let answer = answer.ok_or(Uncovered::NoAnswer)?;
        let from = match p.request {
            None => 0,
            Some(request) => {
                let fits = |m: &&Message| !m.out && m.ended < answer.began && m.has(request);
                self.messages.iter().rfind(fits).ok_or(Uncovered::NoRequest)?.ended
            }
        };
        let mut on_file = self.calls.iter().filter(|c| c.on.ends_with(p.file));
        let written = on_file.clone().find(|c| {
            let between = c.began >= from && c.began < answer.began;
            c.what == What::Out && between && holds(&c.bytes, p.holding)
        });
        let written = written.ok_or(Uncovered::NotWritten)?;
        let synced = on_file
            .any(|c| c.what == What::Sync && c.began > written.ended && c.ended < answer.began);
        if synced { Ok(()) } else { Err(Uncovered::NotSynced) }
    }
}

/// Reads `name(fd<on>, …, "bytes", …) = result`; none for other calls and those that failed.
fn call(text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let what = match name {
        "read" | "readv" | "recvfrom" => What::In,
        "write" | "writev" | "sendto" | "pwrite64" | "pwritev" => What::Out,
        "fsync" | "fdatasync" => What::Sync,
        _ => return None,
    };
    let (args, result) = rest.rsplit_once(" = ")?;
    let result: usize = result.split_whitespace().next()?.parse().ok()?;
    let on = args.split_once('<')?.1.split_once('>')?.0;
    let on = String::from_utf8_lossy(&unhex(on)).into_owned();
    let mut bytes = Vec::new();
    // Strings are the odd pieces; what follows one begins with "..." if it was cut short.
    let pieces: Vec<&str> = args.split('"').collect();
    for pair in pieces[1..].chunks(2) {
        assert!(!pair[1..].iter().any(|after| after.starts_with("...")), "cut short: {text:.80}");
        bytes.extend(unhex(pair[0]));
    }
    bytes.truncate(result);
    Some(Call { what, on, bytes, began, ended })
}

/// Reads `\x2f\x74…`.
fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.split("\\x").skip(1);
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("strace -xx")).collect()
}

/// One direction of a socket or pipe.
#[derive(Default)]
struct Stream {
    /// Whether it has become a WebSocket.
    frames: bool,
    /// Bytes of an unfinished frame, each with its call's beginning.
    bytes: Vec<(u8, usize)>,
}

fn messages(calls: &[Call]) -> Vec<Message> {
    let mut streams: HashMap<(&str, What), Stream> = HashMap::new();
    let mut found = Vec::new();
    for call in calls {
        // Paths are files; what goes in or out elsewhere is seen by others.
        if call.on.starts_with('/') || call.what == What::Sync {
            continue;
        }
        let stream = streams.entry((&call.on, call.what)).or_default();
        let out = call.what == What::Out;
        let (began, ended) = (call.began, call.ended);
        let mut fresh = call.bytes.as_slice();
        if !stream.frames {
            let head = fresh.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
            let (first, rest) = fresh.split_at(head);
            stream.frames = holds(&first.to_ascii_lowercase(), b"upgrade: websocket");
            let bytes = if stream.frames { first } else { fresh }.to_vec();
            fresh = if stream.frames { rest } else { &[] };
            found.push(Message { out, bytes, began, ended });
        }
        stream.bytes.extend(fresh.iter().map(|b| (*b, began)));
        while let Some((began, bytes)) = take_frame(&mut stream.bytes) {
            found.push(Message { out, bytes, began, ended });
        }
    }
    found
}

/// Takes a whole frame (RFC 6455 section 5.2) off the stream: its beginning and its payload.
fn take_frame(stream: &mut Vec<(u8, usize)>) -> Option<(usize, Vec<u8>)> {
    let byte = |at: usize| stream.get(at).map(|b| b.0);
    let number = |at: usize, len: usize| {
        (at..at + len).try_fold(0usize, |n, i| Some((n << 8) | usize::from(byte(i)?)))
    };
    let (masked, short) = (byte(1)? & 0x80 != 0, usize::from(byte(1)? & 0x7f));
    let (len, mut at) = match short {
        126 => (number(2, 2)?, 4),
        127 => (number(2, 8)?, 10),
        len => (len, 2),
    };
    let mut mask = [0; 4];
    if masked {
        for (i, m) in mask.iter_mut().enumerate() {
            *m = byte(at + i)?;
        }
        at += 4;
    }
    if stream.len() < at + len {
        return None;
    }
    let frame: Vec<_> = stream.drain(..at + len).collect();
    let payload = frame[at..].iter().zip(mask.iter().cycle()).map(|((b, _), m)| b ^ m);
    Some((frame[0].1, payload.collect()))
}
