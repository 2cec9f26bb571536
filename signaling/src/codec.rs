//! Strict MessagePack and JSON.
//!
//! Every decode walks the input once before building anything from it: duplicate keys, nesting over
//! [`MAX_DEPTH`], integers over 2^53−1, floating-point numbers, extension types, keys that are not
//! strings, truncated input and trailing bytes are errors, in fields that nobody knows as well.
//! Unknown fields themselves are accepted. MessagePack maps have named fields.

mod msgpack;

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, de};

use crate::limits::{MAX_DEPTH, MAX_INT};

/// How frames are written on one connection, chosen by its WebSocket subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// `meshwire.v2.msgpack`: binary messages.
    MsgPack,
    /// `meshwire.v2.json`: text messages.
    Json,
}

impl Encoding {
    /// The WebSocket subprotocol's name.
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::MsgPack => "meshwire.v2.msgpack",
            Self::Json => "meshwire.v2.json",
        }
    }
}

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Longer than allowed.
    #[error("{len} bytes are too many, at most {max} are allowed")]
    TooLong {
        /// How many there were.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// Not what it should be, in words.
    #[error("{0}")]
    Invalid(String),
}

/// What the strict walk learns on its way, for answers to frames that cannot be decoded further.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Peek {
    /// The top level's `type`.
    pub kind: Option<String>,
    /// The top level's `req`.
    pub req: Option<u64>,
}

/// Encodes with named fields.
#[must_use]
pub fn to_msgpack<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    match rmp_serde::to_vec_named(value) {
        Ok(bytes) => bytes,
        // Our types hold nothing that MessagePack cannot, and a Vec does not refuse bytes.
        Err(e) => unreachable!("encoding to memory failed: {e}"),
    }
}

/// Encodes for a connection.
#[must_use]
pub fn encode<T: Serialize + ?Sized>(encoding: Encoding, value: &T) -> Vec<u8> {
    match encoding {
        Encoding::MsgPack => to_msgpack(value),
        Encoding::Json => match serde_json::to_vec(value) {
            Ok(bytes) => bytes,
            Err(e) => unreachable!("encoding to memory failed: {e}"),
        },
    }
}

/// Decodes strictly from MessagePack.
///
/// # Errors
/// [`CodecError::Invalid`] says what is wrong.
pub fn from_msgpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode(Encoding::MsgPack, bytes)
}

/// Decodes strictly.
///
/// # Errors
/// [`CodecError::Invalid`] says what is wrong.
pub fn decode<T: DeserializeOwned>(encoding: Encoding, bytes: &[u8]) -> Result<T, CodecError> {
    check(encoding, bytes)?;
    decode_checked(encoding, bytes)
}

/// The second pass, for input that [`check`] has passed.
pub(crate) fn decode_checked<T: DeserializeOwned>(
    encoding: Encoding,
    bytes: &[u8],
) -> Result<T, CodecError> {
    match encoding {
        Encoding::MsgPack => rmp_serde::from_slice(bytes).map_err(invalid),
        Encoding::Json => serde_json::from_slice(bytes).map_err(invalid),
    }
}

/// The strict walk alone.
///
/// # Errors
/// [`CodecError::Invalid`] says what is wrong.
pub fn check(encoding: Encoding, bytes: &[u8]) -> Result<Peek, CodecError> {
    match encoding {
        Encoding::MsgPack => msgpack::walk(bytes).map_err(invalid),
        Encoding::Json => {
            let mut peek = Peek::default();
            let mut de = serde_json::Deserializer::from_slice(bytes);
            Walk { depth: 0, peek: Some(&mut peek) }.deserialize(&mut de).map_err(invalid)?;
            de.end().map_err(invalid)?;
            Ok(peek)
        }
    }
}

fn invalid(e: impl fmt::Display) -> CodecError {
    // Bounded: an error text may quote what a peer sent.
    CodecError::Invalid(e.to_string().chars().take(300).collect())
}

fn twice(key: &str) -> String {
    let key: String = key.chars().take(64).collect();
    format!("key {key:?} stands twice")
}

/// What a top-level value turned out to be, as far as [`Peek`] cares.
enum Seen {
    Text(String),
    Int(u64),
    Other,
}

impl Seen {
    /// A text in `depth` containers; only short ones of the top level are of interest.
    fn text(depth: usize, s: &str) -> Self {
        if depth == 1 && s.len() <= 64 { Self::Text(s.to_owned()) } else { Self::Other }
    }
}

impl Peek {
    fn note(&mut self, key: &str, seen: Seen) {
        match (key, seen) {
            ("type", Seen::Text(s)) => self.kind = Some(s),
            ("req", Seen::Int(n)) => self.req = Some(n),
            _ => {}
        }
    }
}

/// The walk over JSON; `depth` counts the containers around the value.
struct Walk<'p> {
    depth: usize,
    peek: Option<&'p mut Peek>,
}

impl Walk<'_> {
    fn deeper<E: de::Error>(&self) -> Result<(), E> {
        if self.depth < MAX_DEPTH {
            return Ok(());
        }
        Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Seen;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Seen, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, boolean, null, integer, array or map")
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::Other)
    }
    fn visit_unit<E: de::Error>(self) -> Result<Seen, E> {
        Ok(Seen::Other)
    }
    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Seen, E> {
        if n > MAX_INT { Err(E::custom("integer over 2^53-1")) } else { Ok(Seen::Int(n)) }
    }
    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Seen, E> {
        self.visit_u64(n.unsigned_abs()).map(|_| Seen::Other)
    }
    fn visit_str<E: de::Error>(self, s: &str) -> Result<Seen, E> {
        Ok(Seen::text(self.depth, s))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Seen, A::Error> {
        self.deeper()?;
        while seq.next_element_seed(Walk { depth: self.depth + 1, peek: None })?.is_some() {}
        Ok(Seen::Other)
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Seen, A::Error> {
        self.deeper()?;
        let mut keys = HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            let seen = map.next_value_seed(Walk { depth: self.depth + 1, peek: None })?;
            if let Some(peek) = self.peek.as_deref_mut() {
                peek.note(&key, seen);
            }
            if let Some(key) = keys.replace(key) {
                return Err(de::Error::custom(twice(&key)));
            }
        }
        Ok(Seen::Other)
    }
}

/// A map's key: text only.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string as key")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Key, E> {
                Ok(Key(s.to_owned()))
            }
        }
        d.deserialize_str(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Probe {
        a: u64,
        b: Option<String>,
    }

    fn json(s: &str) -> Result<Probe, CodecError> {
        decode(Encoding::Json, s.as_bytes())
    }

    #[test]
    fn unknown_fields_pass_and_known_ones_arrive() {
        let got = json(r#"{"a":1,"b":"x","later":{"deep":[1,2,{"y":null}]}}"#);
        assert_eq!(got, Ok(Probe { a: 1, b: Some("x".into()) }));
    }

    #[test]
    fn duplicate_keys_are_refused_even_where_unknown() {
        for s in [r#"{"a":1,"a":2}"#, r#"{"a":1,"z":{"q":1,"q":1}}"#] {
            assert!(json(s).unwrap_err().to_string().contains("stands twice"), "{s}");
        }
        // {"a":1,"z":0,"z":0}
        let bytes = b"\x83\xa1a\x01\xa1z\x00\xa1z\x00";
        assert!(from_msgpack::<Probe>(bytes).unwrap_err().to_string().contains("stands twice"));
    }

    #[test]
    fn integers_stop_at_two_to_the_53() {
        assert!(json(&format!(r#"{{"a":{MAX_INT}}}"#)).is_ok());
        assert!(json(&format!(r#"{{"a":{}}}"#, MAX_INT + 1)).is_err());
        assert!(json(&format!(r#"{{"a":1,"z":-{}}}"#, MAX_INT + 1)).is_err());
        assert!(json(r#"{"a":1,"z":1.5}"#).is_err());
        assert!(from_msgpack::<Probe>(&to_msgpack(&Probe { a: u64::MAX, b: None })).is_err());
    }

    #[test]
    fn nesting_stops_at_sixteen() {
        let nest = |n: usize| format!(r#"{{"a":1,"z":{}{}}}"#, "[".repeat(n), "]".repeat(n));
        assert!(json(&nest(MAX_DEPTH - 1)).is_ok());
        assert!(json(&nest(MAX_DEPTH)).is_err());
        assert!(json(&nest(50_000)).is_err());
        let packed = |n: usize| [&b"\x82\xa1a\x01\xa1z"[..], &vec![0x91; n - 1], b"\x90"].concat();
        assert!(from_msgpack::<Probe>(&packed(MAX_DEPTH - 1)).is_ok());
        assert!(from_msgpack::<Probe>(&packed(MAX_DEPTH)).is_err());
        let mut deep = vec![0x91; 100_000];
        deep.push(0);
        assert!(from_msgpack::<Probe>(&deep).is_err());
    }

    #[test]
    fn truncated_trailing_and_lying_lengths_are_errors() {
        let good = to_msgpack(&Probe { a: 1, b: Some("hello".into()) });
        for cut in 0..good.len() {
            assert!(from_msgpack::<Probe>(&good[..cut]).is_err(), "cut at {cut}");
        }
        let mut more = good;
        more.push(0xc0);
        assert!(from_msgpack::<Probe>(&more).unwrap_err().to_string().contains("after the end"));
        for huge in [&b"\xdf\xff\xff\xff\xff"[..], b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
        {
            assert!(from_msgpack::<Probe>(huge).is_err());
        }
        assert!(json(r#"{"a":1} x"#).is_err());
        assert!(from_msgpack::<Probe>(b"\x81\xa1b\xa2\xff\xfe").is_err(), "invalid UTF-8");
        assert!(
            from_msgpack::<Probe>(b"\x82\xa1a\x01\xa1z\xa2\xff\xfe").is_err(),
            "in an unknown field"
        );
        assert!(from_msgpack::<Probe>(b"\x82\xa1a\x01\x02\x03").is_err(), "integer as key");
        assert!(
            from_msgpack::<Probe>(b"\x82\xa1a\x01\xa1z\xd4\x01\x00").is_err(),
            "extension type"
        );
    }

    #[test]
    fn peek_reads_type_and_req_of_the_top_level_only() {
        let peek = check(Encoding::Json, br#"{"x":{"type":"no","req":9},"type":"send","req":7}"#);
        assert_eq!(peek, Ok(Peek { kind: Some("send".into()), req: Some(7) }));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = from_msgpack::<Probe>(&bytes);
            let _ = decode::<Probe>(Encoding::Json, &bytes);
        }

        #[test]
        fn both_codecs_round_trip(a in 0..=MAX_INT, b in prop::option::of(".{0,40}")) {
            let probe = Probe { a, b };
            for e in [Encoding::MsgPack, Encoding::Json] {
                prop_assert_eq!(&decode::<Probe>(e, &encode(e, &probe)).unwrap(), &probe);
            }
        }
    }
}
