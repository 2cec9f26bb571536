//! The crate against `vectors/*.json`, which `vectors/generate.py` makes with libsodium, msgpack and
//! hashlib. Whatever is deterministic is made again here and must be the same bytes.

#![allow(clippy::unwrap_used)] // helpers of tests

mod vectors {
    mod frames;
    mod layouts;
    mod libsodium;
    mod messages;
    mod p2p;
    mod streams;

    use serde_json::Value;

    /// A case, or a whole file: strings are hex unless asked for as text.
    struct Case(Value);

    fn file(text: &str) -> Case {
        Case(serde_json::from_str(text).unwrap())
    }

    impl Case {
        fn get(&self, key: &str) -> &Value {
            self.0.get(key).unwrap_or_else(|| panic!("no {key} in {}", self.0))
        }
        fn cases(&self, key: &str) -> Vec<Self> {
            let cases = self.get(key).as_array().unwrap();
            assert!(!cases.is_empty(), "no cases in {key}");
            cases.iter().cloned().map(Self).collect()
        }
        fn text(&self, key: &str) -> &str {
            self.get(key).as_str().unwrap()
        }
        fn bytes(&self, key: &str) -> Vec<u8> {
            hex::decode(self.text(key)).unwrap()
        }
        fn array<const N: usize>(&self, key: &str) -> [u8; N] {
            self.bytes(key).try_into().unwrap()
        }
        fn object<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
            serde_json::from_value(self.get(key).clone()).unwrap()
        }
        fn optional<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
            self.object(key)
        }
        fn secret(&self, key: &str) -> meshwire_signaling::SecretKey {
            meshwire_signaling::SecretKey::from_seed(&self.array(key))
        }
        /// Names the case in a failure.
        fn name(&self) -> String {
            self.0.to_string().chars().take(200).collect()
        }
    }
}
