use super::*;
use OutboxState::*;

#[test]
fn words_round_trip() {
    for state in OutboxState::ALL {
        assert_eq!(state.as_str().parse(), Ok(state));
    }
    assert!("done".parse::<OutboxState>().is_err());
}

#[test]
fn every_legal_transition_is_listed_and_no_other_is_legal() {
    let legal: &[(OutboxState, &[OutboxState])] = &[
        (Pending, &[Inflight, Relayed, Sent, Delivered, Expired, Failed, Aborted]),
        (Inflight, &[Pending, Relayed, Sent, Delivered, Expired, Failed]),
        (Relayed, &[Delivered, Expired, Failed]),
        (Sent, &[Pending, Relayed, Delivered, Expired, Failed]),
        (Delivered, &[]),
        (Expired, &[Delivered, Aborted]),
        (Failed, &[Delivered, Aborted]),
        (Aborted, &[]),
    ];
    for (from, to) in legal {
        for state in OutboxState::ALL {
            assert_eq!(advance(*from, state), to.contains(&state), "{from} -> {state}");
        }
    }
}

#[test]
fn delivered_replaces_expired_and_failed_and_is_never_replaced() {
    assert!(advance(Expired, Delivered) && advance(Failed, Delivered));
    assert!(OutboxState::ALL.into_iter().all(|to| !advance(Delivered, to)));
}

#[test]
fn requeue_is_legal_exactly_where_aborted_is_reachable() {
    for state in OutboxState::ALL {
        assert_eq!(state.may_requeue(), advance(state, Aborted), "{state}");
    }
}

#[test]
fn the_eleven_rows_of_the_idempotency_table() {
    // Row 1, no row: the store inserts. The other ten:
    let table = [
        (Pending, Repeat::Duplicate, "outbox_pending_fingerprint_mismatch"),
        (Inflight, Repeat::Duplicate, "outbox_inflight_fingerprint_mismatch"),
        (Relayed, Repeat::Duplicate, "outbox_done_fingerprint_mismatch"),
        (Sent, Repeat::Duplicate, "outbox_done_fingerprint_mismatch"),
        (Delivered, Repeat::Duplicate, "outbox_done_fingerprint_mismatch"),
        (Failed, Repeat::Dead, "outbox_dead_fingerprint_mismatch"),
        (Expired, Repeat::Dead, "outbox_dead_fingerprint_mismatch"),
        (Aborted, Repeat::Aborted, "outbox_aborted_fingerprint_mismatch"),
    ];
    for (state, same, word) in table {
        assert_eq!(Repeat::of(state, true), same, "{state}");
        assert_eq!(Repeat::of(state, false), Repeat::Mismatch, "{state}");
        assert_eq!(conflict_word(state, false), word);
        assert_eq!(conflict_word(state, true), word.replace("mismatch", "match"));
    }
}

#[test]
fn back_off_doubles_to_thirty_seconds_with_half_of_it_random() {
    assert_eq!(retry_delay_ms(0, None, 0), 250);
    assert_eq!(retry_delay_ms(0, None, 250), 500);
    assert_eq!(retry_delay_ms(3, None, 0), 2_000);
    for attempts in 0..100 {
        for jitter in [0, 1, 12_345, u64::MAX] {
            let whole = (500u64 << attempts.min(12)).min(30_000);
            let got = retry_delay_ms(attempts, None, jitter);
            assert!((whole / 2..=whole).contains(&got), "{attempts} {jitter} {got}");
        }
    }
    assert_eq!(retry_delay_ms(u32::MAX, None, 0), 15_000);
}

#[test]
fn a_broker_may_ask_for_patience_but_not_for_silence() {
    assert_eq!(retry_delay_ms(0, Some(60_000), 0), 60_000);
    assert_eq!(retry_delay_ms(0, Some(u64::MAX), 0), RETRY_AFTER_MAX_MS);
    assert_eq!(retry_delay_ms(9, Some(1), 0), 15_000);
}

#[test]
fn refusals_are_judged_by_code_and_unknown_codes_by_their_flag() {
    let judged = |f: ErrorFrame| judge(&LinkError::Refused(Box::new(f)));
    for code in [code::UNKNOWN_TARGET, code::TARGET_GONE, code::FORBIDDEN, code::CONFLICT] {
        // The flag does not soften a code that we know.
        let frame = ErrorFrame::transient(code, "", 5);
        assert_eq!(judged(frame), Disposition::Fail { reason: code.into() });
    }
    let of_the_moment =
        [code::RATE_LIMITED, code::QUEUE_FULL, code::UNAVAILABLE, code::NOT_YOURS, code::BAD_BATCH];
    for code in of_the_moment {
        let mut frame = ErrorFrame::transient(code, "", 5);
        frame.permanent = true;
        let retry = Disposition::Retry { after_ms: Some(5), reason: code.into() };
        assert_eq!(judged(frame), retry);
    }
    assert_eq!(judged(ErrorFrame::permanent(code::EXPIRED, "")), Disposition::Expire);
    let newer = judged(ErrorFrame::permanent("word_of_2031", ""));
    assert_eq!(newer, Disposition::Fail { reason: "word_of_2031".into() });
    assert!(matches!(
        judged(ErrorFrame::transient("word_of_2031", "", 1)),
        Disposition::Retry { .. }
    ));
    assert_eq!(judge(&LinkError::Down), Disposition::Wait);
    let large = judge(&LinkError::TooLarge { len: 2, max: 1 });
    assert_eq!(large, Disposition::Fail { reason: "too_large".into() });
}

#[test]
fn receipts_give_states() {
    use meshwire_signaling::{Hash, PublicKey};
    let receipt = |verdict, reason: Option<&str>| Receipt {
        verdict,
        reason: reason.map(str::to_owned),
        by: PublicKey([1; 32]),
        mac: Hash([0; 32]),
    };
    let got = |v, r| by_receipt(&receipt(v, r));
    assert_eq!(got(Verdict::Delivered, None), (Delivered, None));
    assert_eq!(got(Verdict::Refused, Some("blocked")), (Failed, Some("blocked".into())));
    assert_eq!(got(Verdict::Refused, Some("expired")), (Expired, Some("expired".into())));
    assert_eq!(got(Verdict::Gone, None), (Failed, Some("target_gone".into())));
}

#[test]
fn reasons_of_others_are_bounded_and_printable() {
    assert_eq!(bounded("a\nb"), "a b");
    let long = bounded(&"é".repeat(500));
    assert!(long.len() <= MAX_REASON && long.len() > MAX_REASON - 2);
}
