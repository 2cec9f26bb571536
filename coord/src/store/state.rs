//! Stored numbers of a delivery's state.

use meshwire_signaling::frame::MessageState;
use meshwire_signaling::receipt::Verdict;

pub(super) const WAITING: i64 = 0;
pub(super) const DELIVERED: i64 = 1;
pub(super) const REFUSED: i64 = 2;
pub(super) const GONE: i64 = 3;
pub(super) const EXPIRED: i64 = 4;

pub(super) fn of(verdict: Verdict) -> i64 {
    match verdict {
        Verdict::Delivered => DELIVERED,
        Verdict::Refused => REFUSED,
        Verdict::Gone => GONE,
    }
}

pub(super) fn public(state: i64) -> MessageState {
    match state {
        WAITING => MessageState::Relayed,
        DELIVERED => MessageState::Delivered,
        EXPIRED => MessageState::Expired,
        _ => MessageState::Failed,
    }
}

/// Where an envelope stands by its recipients' states: at the least advanced. While one waits it is
/// waiting; it is delivered once all have it; else the worst that befell a recipient. One whose deliveries
/// are forgotten is past its time.
pub(super) fn least_advanced(states: impl Iterator<Item = i64>) -> i64 {
    let (mut waits, mut worst) = (false, None);
    for state in states {
        waits |= state == WAITING;
        worst = worst.max(Some(state));
    }
    if waits { WAITING } else { worst.unwrap_or(EXPIRED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_stands_where_its_least_advanced_recipient_does() {
        let of = |states: &[i64]| public(least_advanced(states.iter().copied()));
        assert_eq!(of(&[DELIVERED, WAITING, EXPIRED]), MessageState::Relayed);
        assert_eq!(of(&[DELIVERED, DELIVERED]), MessageState::Delivered);
        assert_eq!(of(&[DELIVERED, REFUSED]), MessageState::Failed);
        assert_eq!(of(&[DELIVERED, GONE]), MessageState::Failed);
        assert_eq!(of(&[EXPIRED, DELIVERED, REFUSED]), MessageState::Expired);
    }
}
