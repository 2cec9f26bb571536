//! The core with explicit time.

mod auth;
mod data;
mod lifetime;
mod peers;
mod world;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_panic_or_break_a_bound(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        crate::fuzz::run(&data);
    }

    #[test]
    fn no_sequence_of_requests_does(
        data in sequence(),
    ) {
        crate::fuzz::run(&data);
    }
}

/// Steps as `fuzz::run` reads them.
fn sequence() -> impl Strategy<Value = Vec<u8>> {
    let step = (0_u8..8, 0_u8..3, proptest::collection::vec(attribute(), 0..4));
    proptest::collection::vec(step, 0..60).prop_map(|steps| {
        let mut data = Vec::new();
        for (what, who, attributes) in steps {
            let bytes: Vec<u8> = attributes.concat();
            data.extend([what, who, u8::try_from(bytes.len()).unwrap()]);
            data.extend(bytes);
        }
        data
    })
}

#[test]
fn those_sequences_reach_what_they_are_to_test() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut most = crate::fuzz::Reached::default();
    for _ in 0..500 {
        let reached = crate::fuzz::run(&sequence().new_tree(&mut runner).unwrap().current());
        most.allocations = most.allocations.max(reached.allocations);
        most.permissions = most.permissions.max(reached.permissions);
        most.channels = most.channels.max(reached.channels);
        most.relayed |= reached.relayed;
    }
    assert!(most.allocations == 3 && most.permissions >= 2, "{most:?}");
    assert!(most.channels >= 2 && most.relayed, "{most:?}");
}

/// An attribute as `fuzz::attributes` reads it, mostly one that makes sense.
fn attribute() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(vec![0, 0, 17, 0, 0, 0]),
        1 => (0_u8..8).prop_map(|n| vec![1, 0, 0, 0, n, 0]),
        // A peer of 1.1.1.0/30, xored.
        4 => (0_u8..4).prop_map(|n| vec![2, 0, 0, 1, 0x21, 0x1b, 0x20, 0x13, 0xa5, 0x42 ^ n]),
        4 => (0_u8..6).prop_map(|n| vec![3, 0, 0x40, n, 0, 0]),
        1 => (0_u8..4).prop_map(|n| vec![4, 0, n, 0, 0, 0]),
        1 => any::<[u8; 6]>().prop_map(|bytes| bytes.to_vec()),
    ]
}
