//! Properties of what people and programs paste: keys, message ids, invite links, admin tokens.

use meshwire_signaling::id::{check_name, safety_number};
use meshwire_signaling::invite::{AdminToken, InviteLink};
use meshwire_signaling::{EnvelopeId, Hash, InstanceId, MeshId, PublicKey, SecretKey, Signature};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

fn config() -> Config {
    Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    }
}

fn parse_all(text: &str) {
    let _ = text.parse::<PublicKey>();
    let _ = text.parse::<Signature>();
    let _ = text.parse::<InstanceId>();
    let _ = text.parse::<EnvelopeId>();
    let _ = text.parse::<InviteLink>();
    let _ = text.parse::<AdminToken>();
    let _ = check_name(text);
}

fn pin() -> impl Strategy<Value = Option<Hash>> {
    prop::option::of(any::<[u8; 32]>().prop_map(Hash))
}

fn link() -> impl Strategy<Value = InviteLink> {
    let base = "https?://[a-z0-9.-]{1,30}(:[0-9]{1,5})?(/[a-z0-9]{1,8}){0,2}";
    (base, any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 32]>(), pin()).prop_map(
        |(base, seed, mesh, broker, pin)| InviteLink {
            base,
            secret: SecretKey::from_seed(&seed),
            mesh: MeshId(mesh),
            broker: PublicKey(broker),
            pin,
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text_never_panics(text in prop_oneof![
        ".{0,120}", "\\PC{0,120}", "[0-9a-f]{60,68}", "[0-9A-HJKMNP-TV-Z]{24,28}",
        "mwadmin1\\.[A-Za-z0-9_=-]{0,260}", "https://[a-zé]{0,9}/i/[0-9a-f]{62,66}#[A-Za-z0-9_-]{0,200}",
    ]) {
        parse_all(&text);
    }

    #[test]
    fn keys_and_ids_have_one_spelling(raw: [u8; 32], at in 0..1u64 << 48, random: u128) {
        let key = PublicKey(raw);
        prop_assert_eq!(key.to_string().parse(), Ok(key));
        prop_assert_eq!(key.to_string().len(), 64);
        prop_assert!(key.to_string().starts_with(&key.short()));
        let upper = key.to_string().to_uppercase();
        prop_assert_eq!(upper.parse::<PublicKey>().is_ok(), upper == key.to_string());

        let id = EnvelopeId::new(at, random);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert_eq!((id.to_string().len(), id.time()), (26, at));
    }

    #[test]
    fn ids_sort_by_time_as_text_too(a in 0..1u64 << 48, b in 0..1u64 << 48, r: u128, s: u128) {
        let (x, y) = (EnvelopeId::new(a, r), EnvelopeId::new(b, s));
        prop_assert_eq!(x.cmp(&y), x.to_string().cmp(&y.to_string()));
        if a != b {
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }

    #[test]
    fn links_round_trip(link in link()) {
        let text = link.to_string();
        let again: InviteLink = text.parse().unwrap();
        prop_assert_eq!(again.to_string(), text);
        prop_assert_eq!((again.base, again.mesh, again.broker, again.pin), (link.base, link.mesh, link.broker, link.pin));
        prop_assert_eq!(again.secret.seed(), link.secret.seed());
    }

    #[test]
    fn damaged_links_never_panic_nor_change_the_invite(link in link(), at: prop::sample::Index, c in any::<char>()) {
        let text: Vec<char> = link.to_string().chars().collect();
        let at = at.index(text.len());
        let mut other = text.clone();
        other[at] = c;
        let other: String = other.into_iter().collect();
        if let Ok(read) = other.parse::<InviteLink>() {
            prop_assert_eq!(read.secret.seed(), link.secret.seed(), "the path must confirm the secret");
        }
        prop_assert!(text[..at].iter().collect::<String>().parse::<InviteLink>().is_err());
    }

    #[test]
    fn tokens_round_trip(secret: [u8; 32], broker: [u8; 32], pin in pin(), cut: prop::sample::Index) {
        let token = AdminToken::new(secret, PublicKey(broker), pin);
        let text = token.to_string();
        let again: AdminToken = format!(" {text}\n").parse().unwrap();
        prop_assert_eq!(again.to_string(), &text[..]);
        prop_assert_eq!((again.digest(), again.broker, again.pin), (token.digest(), token.broker, pin));
        if let Ok(short) = text[..cut.index(text.len())].parse::<AdminToken>() {
            prop_assert_eq!(short.pin, None, "only the pin can be cut off without notice");
        }
    }

    #[test]
    fn safety_numbers_are_symmetric_and_of_one_shape(a: [u8; 32], b: [u8; 32]) {
        let (a, b) = (PublicKey(a), PublicKey(b));
        let n = safety_number(&a, &b);
        prop_assert_eq!(&n, &safety_number(&b, &a));
        let groups: Vec<_> = n.split(' ').collect();
        prop_assert_eq!(groups.len(), 6);
        prop_assert!(groups.iter().all(|g| g.len() == 5 && g.bytes().all(|b| b.is_ascii_digit())));
    }
}
