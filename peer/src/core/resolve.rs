//! Whom a person means: a member's name, its key, or the start of its key (design section 3); for
//! sessions and services `member/name`, their key or its start, or their plain name where no member
//! has it.
//!
//! A name wins over nothing: two members of one name, in one mesh or in two, are an error that
//! lists both, and so is a prefix of two keys. What is listed can be typed back.

use std::fmt;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::{MeshId, PublicKey};

/// Shortest accepted start of a key, in hex characters (design section 3).
pub const MIN_PREFIX: usize = 8;
/// Most candidates that an error lists.
const MAX_LISTED: usize = 10;
/// Names less alike than this are no suggestion (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;
/// Longest text that is compared with names: comparing costs the product of the lengths.
const MAX_COMPARED: usize = 128;

/// A member, session or service that could be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its mesh.
    pub mesh: MeshId,
    /// The mesh's name, for people.
    pub mesh_name: String,
    /// Its key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: IdentityKind,
    /// Its member; the same key for members.
    pub member: PublicKey,
    /// The member's name.
    pub member_name: String,
}

impl Candidate {
    /// A member.
    #[must_use]
    pub fn member(mesh: MeshId, mesh_name: String, key: PublicKey, name: String) -> Self {
        let (kind, member_name) = (IdentityKind::Member, name.clone());
        Self { mesh, mesh_name, key, name, kind, member: key, member_name }
    }

    /// Whether it is a member.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.kind == IdentityKind::Member
    }

    /// Its name as it can be typed anywhere: `member/name` for sessions and services.
    #[must_use]
    pub fn full_name(&self) -> String {
        if self.is_member() {
            self.name.clone()
        } else {
            format!("{}/{}", self.member_name, self.name)
        }
    }

    /// Whether `text` is its [`Self::full_name`], with the member's key or its start for the name.
    fn is_full(&self, text: &str) -> bool {
        let member = text.strip_suffix(self.name.as_str()).and_then(|m| m.strip_suffix('/'));
        !self.is_member()
            && member.is_some_and(|m| {
                m == self.member_name
                    || (m.len() >= MIN_PREFIX && self.member.to_string().starts_with(m))
            })
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in mesh {}", self.full_name(), self.key.short(), self.mesh_name)
    }
}

/// Why an ambiguous text is ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// Several keys of one mesh carry the name.
    SameName,
    /// Several sessions carry the plain name.
    SessionName,
    /// The name, or key, is there in several meshes.
    SeveralMeshes,
    /// Several keys start like this.
    Prefix,
}

/// Why nobody, or more than one, is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// More than one fits.
    #[error("{text:?} is ambiguous: {}; {}", list(.candidates), advice(*.why))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// How it is ambiguous.
        why: Ambiguity,
        /// Who fits, by mesh and name; all of them.
        candidates: Vec<Candidate>,
    },
    /// A start of a key, but too short a one to rely on.
    #[error("{text:?} is too short: give at least {MIN_PREFIX} characters of the key, or a name")]
    TooShort {
        /// What was asked for.
        text: String,
    },
    /// Nobody fits.
    #[error("no member {text:?}{}; give a name, a key (64 hex characters) or at least its first \
             {MIN_PREFIX}", nearest_text(.nearest.as_deref()))]
    NotFound {
        /// What was asked for.
        text: String,
        /// Whose name is nearly that.
        nearest: Option<Box<Candidate>>,
    },
}

fn list(candidates: &[Candidate]) -> String {
    let mut out: Vec<String> =
        candidates.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    if candidates.len() > MAX_LISTED {
        out.push(format!("and {} more", candidates.len() - MAX_LISTED));
    }
    out.join(", ")
}

fn advice(why: Ambiguity) -> &'static str {
    match why {
        Ambiguity::SameName => {
            "two keys carry this name, so check which is the right one and give its first 16 characters"
        }
        Ambiguity::SessionName => {
            "say whose with member/name, or give the first 16 characters of its key"
        }
        Ambiguity::SeveralMeshes => "say which with --mesh",
        Ambiguity::Prefix => "give more of the key",
    }
}

fn nearest_text(nearest: Option<&Candidate>) -> String {
    nearest.map(|c| format!(" (did you mean {c}?)")).unwrap_or_default()
}

/// Finds whom `text` means among `members`, which may span several meshes.
///
/// # Errors
/// [`ResolveError`], whose texts say what would be valid.
pub fn resolve(text: &str, members: &[Candidate]) -> Result<Candidate, ResolveError> {
    // One look for both: a member that calls itself bob/agent must not get the mail of bob's agent.
    let by_name = pick(members, |c| (c.is_member() && c.name == text) || c.is_full(text));
    if !by_name.is_empty() {
        return only(text, by_name, Ambiguity::SameName);
    }
    let plain = pick(members, |c| !c.is_member() && c.name == text);
    if !plain.is_empty() {
        return only(text, plain, Ambiguity::SessionName);
    }
    let hex = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if hex {
        let by_key = pick(members, |c| c.key.to_string().starts_with(text));
        if text.len() < MIN_PREFIX && !by_key.is_empty() {
            return Err(ResolveError::TooShort { text: text.to_owned() });
        }
        if !by_key.is_empty() {
            return only(text, by_key, Ambiguity::Prefix);
        }
    }
    let text: String = text.chars().take(MAX_COMPARED).collect();
    let nearest = nearest_member(&text, members).map(|c| Box::new(c.clone()));
    Err(ResolveError::NotFound { text, nearest })
}

/// Those that fit, each once, by mesh and name.
fn pick(members: &[Candidate], fits: impl Fn(&Candidate) -> bool) -> Vec<Candidate> {
    let mut out: Vec<Candidate> = members.iter().filter(|c| fits(c)).cloned().collect();
    let order = |c: &Candidate| (c.mesh_name.clone(), c.mesh, c.full_name(), c.key);
    out.sort_by_cached_key(order);
    out.dedup_by_key(|c| (c.mesh, c.key));
    out
}

fn only(text: &str, found: Vec<Candidate>, why: Ambiguity) -> Result<Candidate, ResolveError> {
    match found.as_slice() {
        [one] => Ok(one.clone()),
        several => {
            // Naming the mesh settles it where each mesh has only one.
            let alone = |c: &Candidate| several.iter().filter(|o| o.mesh == c.mesh).count() == 1;
            let why = if several.iter().all(alone) { Ambiguity::SeveralMeshes } else { why };
            Err(ResolveError::Ambiguous { text: text.to_owned(), why, candidates: found })
        }
    }
}

fn nearest_member<'m>(text: &str, members: &'m [Candidate]) -> Option<&'m Candidate> {
    let names: Vec<String> = members.iter().map(Candidate::full_name).collect();
    let name = nearest(text, &names)?;
    members.iter().find(|c| c.full_name() == name)
}

/// The name that is most like `text`, if one is like enough to be meant.
#[must_use]
pub fn nearest<'n, N: AsRef<str>>(text: &str, names: &'n [N]) -> Option<&'n str> {
    let text: String = text.to_lowercase().chars().take(MAX_COMPARED).collect();
    let score = |name: &str| {
        let name = name.to_lowercase();
        // Two letters swapped in a short name are one slip, which the first measure calls unlike.
        let slip = strsim::damerau_levenshtein(&text, &name) == 1 && text.chars().count() > 2;
        if slip { 1.0 } else { strsim::jaro_winkler(&text, &name) }
    };
    let scored = names.iter().map(|n| (score(n.as_ref()), n.as_ref()));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(score, _)| *score >= ALIKE).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(mesh: u8, name: &str, key: &str) -> Candidate {
        let mut bytes = [0xee; 32];
        hex::decode_to_slice(key, &mut bytes[..key.len() / 2]).unwrap();
        let mesh_name = format!("mesh{mesh}");
        Candidate::member(MeshId([mesh; 32]), mesh_name, PublicKey(bytes), name.into())
    }

    fn session(of: &Candidate, name: &str, key: &str) -> Candidate {
        let kind = IdentityKind::Session;
        Candidate { name: name.into(), kind, key: member(1, "", key).key, ..of.clone() }
    }

    fn world() -> Vec<Candidate> {
        vec![
            member(1, "ana", "aaaaaaaa00000001"),
            member(1, "bob", "bbbbbbbb00000001"),
            member(1, "carla", "bbbbbbbb00000002"),
            member(1, "twin", "cccccccc00000001"),
            member(1, "twin", "cccccccc00000002"),
            member(2, "ana", "dddddddd00000001"),
            member(2, "dora", "aaaaaaab00000001"),
            member(2, "abc", "eeeeeeee00000001"),
        ]
    }

    fn got(text: &str) -> Result<String, ResolveError> {
        resolve(text, &world()).map(|c| format!("{}@{}", c.name, c.mesh_name))
    }

    #[test]
    fn names_keys_and_prefixes_find_their_member() {
        assert_eq!(got("bob").unwrap(), "bob@mesh1");
        assert_eq!(got("dora").unwrap(), "dora@mesh2");
        assert_eq!(got(&world()[1].key.to_string()).unwrap(), "bob@mesh1");
        assert_eq!(got("bbbbbbbb00000002").unwrap(), "carla@mesh1");
        assert_eq!(got("aaaaaaaa").unwrap(), "ana@mesh1");
        assert_eq!(got("abc").unwrap(), "abc@mesh2", "a short hex name is a name");
    }

    #[test]
    fn a_shared_prefix_lists_the_candidates() {
        let e = got("bbbbbbbb").unwrap_err();
        assert!(matches!(&e, ResolveError::Ambiguous { why: Ambiguity::Prefix, candidates, .. }
            if candidates.len() == 2));
        let text = e.to_string();
        for part in ["bob bbbbbbbb00000001", "carla bbbbbbbb00000002", "more of the key"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn one_name_on_two_keys_is_ambiguous_and_says_so() {
        let e = got("twin").unwrap_err();
        assert!(matches!(e, ResolveError::Ambiguous { why: Ambiguity::SameName, .. }));
        assert!(e.to_string().contains("two keys carry this name"), "{e}");
    }

    #[test]
    fn one_name_in_two_meshes_asks_for_the_mesh() {
        let e = got("ana").unwrap_err();
        assert!(matches!(e, ResolveError::Ambiguous { why: Ambiguity::SeveralMeshes, .. }));
        assert!(e.to_string().contains("--mesh"), "{e}");
        let one_mesh: Vec<_> = world().into_iter().filter(|c| c.mesh == MeshId([2; 32])).collect();
        assert_eq!(resolve("ana", &one_mesh).unwrap().key, world()[5].key);
        // In two meshes and twice in one: the mesh alone would not settle it.
        let mut more = world();
        more.push(member(2, "twin", "ffffffff00000001"));
        let e = resolve("twin", &more).unwrap_err();
        assert!(matches!(e, ResolveError::Ambiguous { why: Ambiguity::SameName, .. }));
    }

    #[test]
    fn a_short_prefix_is_refused_only_where_it_would_fit() {
        assert!(matches!(got("bbbb"), Err(ResolveError::TooShort { .. })));
        assert!(got("bbbb").unwrap_err().to_string().contains("at least 8"));
        assert!(matches!(got("1234"), Err(ResolveError::NotFound { .. })));
    }

    #[test]
    fn nobody_found_suggests_the_nearest_name_and_what_is_valid() {
        let e = got("carlo").unwrap_err();
        let ResolveError::NotFound { nearest: Some(near), .. } = &e else { panic!("{e:?}") };
        assert_eq!(near.name, "carla");
        let text = e.to_string();
        assert!(text.contains("did you mean carla bbbbbbbb00000002"), "{text}");
        assert!(text.contains("64 hex characters"), "{text}");
        let far = got("zzzzzzzzz").unwrap_err();
        assert!(matches!(far, ResolveError::NotFound { nearest: None, .. }));
        assert!(matches!(got(""), Err(ResolveError::NotFound { .. })));
        assert!(got(&"x".repeat(1_000_000)).unwrap_err().to_string().len() < 400);
    }

    #[test]
    fn the_same_member_listed_twice_is_one() {
        let twice = [world(), world()].concat();
        assert_eq!(resolve("bob", &twice).unwrap().name, "bob");
    }

    #[test]
    fn long_lists_are_cut() {
        let many: Vec<_> =
            (0..30).map(|i| member(1, "same", &format!("{i:02x}aabbccdd"))).collect();
        let text = resolve("same", &many).unwrap_err().to_string();
        assert!(text.contains("and 20 more"), "{text}");
    }

    #[test]
    fn one_slip_in_a_short_name_is_a_suggestion() {
        let members = [member(1, "bob", "ab"), member(1, "carol", "cd")];
        for slip in ["bbo", "boob", "bo", "Bob"] {
            let Err(ResolveError::NotFound { nearest, .. }) = resolve(slip, &members) else {
                panic!("{slip} means nobody");
            };
            assert_eq!(nearest.unwrap().name, "bob", "{slip}");
        }
    }

    #[test]
    fn sessions_are_named_with_their_member_or_alone_where_no_member_has_the_name() {
        let world = world();
        let (bob, carla) = (&world[1], &world[2]);
        let mut all = world.clone();
        all.push(session(bob, "build", "11111111aa000001"));
        all.push(session(carla, "build", "11111111aa000002"));
        all.push(session(bob, "test", "22222222aa000001"));
        all.push(session(bob, "dora", "33333333aa000001"));
        let got = |text: &str| resolve(text, &all).map(|c| c.to_string());
        assert_eq!(got("bob/build").unwrap(), "bob/build 11111111aa000001 in mesh mesh1");
        assert_eq!(got("carla/build").unwrap(), "carla/build 11111111aa000002 in mesh mesh1");
        assert_eq!(got("bbbbbbbb00000001/test").unwrap(), got("bob/test").unwrap());
        assert_eq!(got("22222222").unwrap(), got("bob/test").unwrap());
        assert_eq!(got("test").unwrap(), got("bob/test").unwrap());
        assert!(got("dora").unwrap().starts_with("dora aaaaaaab"), "the member of that name");
        assert_eq!(got("bob").unwrap(), "bob bbbbbbbb00000001 in mesh mesh1");
        let e = resolve("build", &all).unwrap_err();
        assert!(matches!(e, ResolveError::Ambiguous { why: Ambiguity::SessionName, .. }));
        assert!(e.to_string().contains("member/name"), "{e}");
        assert!(e.to_string().contains("bob/build 11111111aa000001"), "{e}");
        // A second one of the same name, then a member that is called like it.
        for twin in [session(bob, "test", "44444444aa000001"), member(1, "bob/test", "44444444")] {
            let e = resolve("bob/test", &[all.clone(), vec![twin]].concat()).unwrap_err();
            assert!(matches!(e, ResolveError::Ambiguous { why: Ambiguity::SameName, .. }));
            for part in ["bob/test 22222222aa000001", "bob/test 44444444", "16 characters"] {
                assert!(e.to_string().contains(part), "{e}");
            }
        }
        let near = resolve("bob/bulid", &all).unwrap_err().to_string();
        assert!(near.contains("did you mean bob/build"), "{near}");
        for nobody in ["ana/test", "bob/", "/test", "eeeeeeee00000001/test"] {
            assert!(resolve(nobody, &all).is_err(), "{nobody}");
        }
    }
}
