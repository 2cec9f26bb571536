//! Which negotiation frames are carried, and how fast (design section 6, inventory ).

use meshwire_signaling::frame::{ErrorFrame, P2pFrame, code, feature};
use meshwire_signaling::limits::{MAX_ADAPTER, MAX_P2P};
use meshwire_signaling::p2p::is_adapter;
use meshwire_signaling::{MeshId, PublicKey};

use super::rate::RateLimiter;

/// Negotiation frames at once, as a multiple of the sustained rate: a node that comes back negotiates
/// with all its peers.
const BURST: u64 = 5;
/// Negotiation frames per second from one member to one identity, sustained: one attempt is an offer or
/// answer, a few batches of candidates and a bye, and failed attempts are 10 s apart.
const PAIR_RATE: u64 = 2;
/// As many at once: several whole attempts.
const PAIR_BURST: u64 = 40;
/// Requests for TURN credentials of one member at once; one more comes each second. They last for
/// hours, and a node asks again when its network changes.
const TURN_BURST: u64 = 10;
/// Members, and pairs, whose rates are remembered; full buckets make room.
const KEYS: usize = 100_000;

/// How fast members may negotiate; bounded in memory.
#[derive(Debug)]
pub struct Rates {
    senders: RateLimiter<(MeshId, PublicKey)>,
    pairs: RateLimiter<(MeshId, PublicKey, PublicKey)>,
    turn: RateLimiter<(MeshId, PublicKey)>,
}

impl Rates {
    /// `per_second` negotiation frames of each member, sustained.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        Self {
            senders: RateLimiter::with_burst(per_second, per_second.saturating_mul(BURST), KEYS),
            pairs: RateLimiter::with_burst(PAIR_RATE, PAIR_BURST, KEYS),
            turn: RateLimiter::with_burst(1, TURN_BURST, KEYS),
        }
    }

    /// Takes one frame of a member's, at monotonic `now` in milliseconds.
    ///
    /// # Errors
    /// What to answer.
    pub fn sender(&mut self, mesh: MeshId, member: PublicKey, now: u64) -> Result<(), ErrorFrame> {
        self.senders.take(&(mesh, member), now).map_err(too_fast)
    }

    /// Takes one frame from a member to an identity that is there.
    ///
    /// # Errors
    /// What to answer.
    pub fn pair(
        &mut self,
        mesh: MeshId,
        member: PublicKey,
        to: PublicKey,
        now: u64,
    ) -> Result<(), ErrorFrame> {
        self.pairs.take(&(mesh, member, to), now).map_err(too_fast)
    }

    /// Takes one request for TURN credentials.
    ///
    /// # Errors
    /// What to answer.
    pub fn turn(&mut self, mesh: MeshId, member: PublicKey, now: u64) -> Result<(), ErrorFrame> {
        self.turn.take(&(mesh, member), now).map_err(too_fast)
    }
}

fn too_fast(wait: u64) -> ErrorFrame {
    let text = "too many negotiations: collect candidates, and wait between attempts";
    ErrorFrame::transient(code::RATE_LIMITED, text, wait)
}

/// Checks what the frame itself shows. `speaks` says whether the sender's connection speaks for a key.
///
/// # Errors
/// What to answer.
pub fn check(frame: &P2pFrame, speaks: impl Fn(&PublicKey) -> bool) -> Result<(), ErrorFrame> {
    let refuse = |code, text: String| Err(ErrorFrame::permanent(code, text));
    let len = frame.payload.len();
    if len > MAX_P2P {
        let text = format!("{len} bytes of payload are too many, at most {MAX_P2P} are carried");
        return refuse(code::TOO_LARGE, text);
    }
    if !is_adapter(&frame.adapter) {
        let text =
            format!("an adapter's name has 1 to {MAX_ADAPTER} characters of a-z, 0-9, _ and -");
        return refuse(code::MALFORMED, text);
    }
    if !speaks(&frame.from) {
        let text = "`from` is none of this connection's identities";
        return refuse(code::NOT_YOURS, text.into());
    }
    if speaks(&frame.to) {
        let text = "`to` is an identity of this very connection";
        return refuse(code::MALFORMED, text.into());
    }
    Ok(())
}

/// Whether both programs know these frames, by their hellos.
///
/// # Errors
/// What to answer.
pub fn capable(sender: bool, recipient: bool) -> Result<(), ErrorFrame> {
    if !sender {
        let text = format!("this connection's hello did not name the feature {:?}", feature::P2P);
        return Err(ErrorFrame::permanent(code::UNSUPPORTED, text));
    }
    if !recipient {
        let text = format!("the recipient's program lacks the feature {:?}", feature::P2P);
        return Err(ErrorFrame::permanent(code::FEATURE_MISSING, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::AttemptId;
    use meshwire_signaling::frame::P2pKind;

    const ANA: PublicKey = PublicKey([1; 32]);
    const BOB: PublicKey = PublicKey([2; 32]);
    const MESH: MeshId = MeshId([9; 32]);

    fn frame() -> P2pFrame {
        P2pFrame {
            kind: P2pKind::Offer,
            to: BOB,
            from: ANA,
            adapter: "quic".into(),
            attempt: AttemptId([3; 16]),
            payload: vec![0; MAX_P2P].into(),
            loopback: false,
        }
    }

    fn code_of(change: impl FnOnce(&mut P2pFrame)) -> Option<String> {
        let mut frame = frame();
        change(&mut frame);
        check(&frame, |key| *key == ANA).err().map(|e| e.code)
    }

    #[test]
    fn each_fault_has_its_code() {
        let is = |c: &str| Some(c.to_owned());
        assert_eq!(code_of(|_| {}), None);
        assert_eq!(code_of(|f| f.payload.0.push(0)), is(code::TOO_LARGE));
        assert_eq!(code_of(|f| f.from = BOB), is(code::NOT_YOURS));
        assert_eq!(code_of(|f| f.to = ANA), is(code::MALFORMED));
        for bad in ["", "Quic", "a b", "quic\n", &"x".repeat(33)] {
            assert_eq!(code_of(|f| f.adapter = bad.into()), is(code::MALFORMED), "{bad:?}");
        }
        assert_eq!(code_of(|f| f.adapter = "x".repeat(32)), None);
    }

    #[test]
    fn both_sides_must_know_the_frames() {
        assert_eq!(capable(true, true), Ok(()));
        assert_eq!(capable(false, true).unwrap_err().code, code::UNSUPPORTED);
        assert_eq!(capable(false, false).unwrap_err().code, code::UNSUPPORTED);
        assert_eq!(capable(true, false).unwrap_err().code, code::FEATURE_MISSING);
    }

    #[test]
    fn a_burst_per_sender_and_a_smaller_one_per_pair() {
        let mut rates = Rates::new(20);
        assert!((0..100).all(|_| rates.sender(MESH, ANA, 0).is_ok()));
        let error = rates.sender(MESH, ANA, 0).unwrap_err();
        assert_eq!((error.code.as_str(), error.retry_after_ms), (code::RATE_LIMITED, Some(50)));
        assert!(!error.permanent);
        assert!(rates.sender(MESH, BOB, 0).is_ok(), "members are apart");
        assert!((0..40).all(|_| rates.pair(MESH, ANA, BOB, 0).is_ok()));
        assert_eq!(rates.pair(MESH, ANA, BOB, 0).unwrap_err().retry_after_ms, Some(500));
        assert!(rates.pair(MESH, BOB, ANA, 0).is_ok(), "directions are apart");
        assert!((0..10).all(|_| rates.turn(MESH, ANA, 0).is_ok()));
        assert_eq!(rates.turn(MESH, ANA, 0).unwrap_err().retry_after_ms, Some(1_000));
    }
}
