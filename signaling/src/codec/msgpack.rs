//! The strict walk over MessagePack, on the bytes themselves: rmp-serde reads a `str` that is not
//! UTF-8 as if it were `bin`, so a walk through serde cannot refuse it.

use std::collections::HashSet;

use super::{Peek, Seen};
use crate::limits::{MAX_DEPTH, MAX_INT};

/// Walks one value that must fill `bytes`; the error says what is wrong.
pub(super) fn walk(bytes: &[u8]) -> Result<Peek, String> {
    let mut peek = Peek::default();
    let mut input = Input { rest: bytes };
    input.value(0, Some(&mut peek))?;
    match input.rest.len() {
        0 => Ok(peek),
        n => Err(format!("{n} bytes after the end")),
    }
}

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or("the input is cut off")?;
        self.rest = tail;
        Ok(head)
    }

    /// A big-endian number of 2^`log` bytes.
    fn uint(&mut self, log: u8) -> Result<u64, String> {
        Ok(self.take(1 << log)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn len(&mut self, log: u8) -> Result<usize, String> {
        Ok(usize::try_from(self.uint(log)?).unwrap_or(usize::MAX))
    }

    fn text(&mut self, n: usize) -> Result<&'a str, String> {
        std::str::from_utf8(self.take(n)?).map_err(|e| e.to_string())
    }

    /// `depth` counts the containers around the value; each value takes at least one byte, so a
    /// declared length that lies ends the walk, not the memory.
    fn value(&mut self, depth: usize, peek: Option<&mut Peek>) -> Result<Seen, String> {
        let marker = self.take(1)?[0];
        match marker {
            0x00..=0x7f => Ok(Seen::Int(marker.into())),
            0xcc..=0xcf => int(self.uint(marker - 0xcc)?, false),
            0xd0..=0xd3 => {
                let log = marker - 0xd0;
                let unused = 64 - (8 << log);
                let n = (self.uint(log)? << unused).cast_signed() >> unused;
                int(n.unsigned_abs(), n < 0)
            }
            0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => Ok(Seen::Other),
            0xa0..=0xbf => self.text((marker & 0x1f).into()).map(|s| Seen::text(depth, s)),
            0xd9..=0xdb => {
                let n = self.len(marker - 0xd9)?;
                self.text(n).map(|s| Seen::text(depth, s))
            }
            0xc4..=0xc6 => {
                let n = self.len(marker - 0xc4)?;
                self.take(n).map(|_| Seen::Other)
            }
            0x90..=0x9f => self.array((marker & 0x0f).into(), depth),
            0xdc | 0xdd => {
                let n = self.len(marker - 0xdb)?;
                self.array(n, depth)
            }
            0x80..=0x8f => self.map((marker & 0x0f).into(), depth, peek),
            0xde | 0xdf => {
                let n = self.len(marker - 0xdd)?;
                self.map(n, depth, peek)
            }
            0xca | 0xcb => Err("a floating-point number".into()),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => Err("an extension type".into()),
        }
    }

    fn array(&mut self, n: usize, depth: usize) -> Result<Seen, String> {
        deeper(depth)?;
        for _ in 0..n {
            self.value(depth + 1, None)?;
        }
        Ok(Seen::Other)
    }

    fn map(&mut self, n: usize, depth: usize, mut peek: Option<&mut Peek>) -> Result<Seen, String> {
        deeper(depth)?;
        let mut keys = HashSet::new();
        for _ in 0..n {
            let key = self.key()?;
            let seen = self.value(depth + 1, None)?;
            if let Some(peek) = peek.as_deref_mut() {
                peek.note(key, seen);
            }
            if !keys.insert(key) {
                return Err(super::twice(key));
            }
        }
        Ok(Seen::Other)
    }

    fn key(&mut self) -> Result<&'a str, String> {
        let marker = self.take(1)?[0];
        let n = match marker {
            0xa0..=0xbf => (marker & 0x1f).into(),
            0xd9..=0xdb => self.len(marker - 0xd9)?,
            _ => return Err("a key that is not a string".into()),
        };
        self.text(n)
    }
}

fn int(n: u64, negative: bool) -> Result<Seen, String> {
    match (n > MAX_INT, negative) {
        (true, _) => Err("integer over 2^53-1".into()),
        (false, true) => Ok(Seen::Other),
        (false, false) => Ok(Seen::Int(n)),
    }
}

fn deeper(depth: usize) -> Result<(), String> {
    if depth < MAX_DEPTH { Ok(()) } else { Err(format!("nested deeper than {MAX_DEPTH}")) }
}
