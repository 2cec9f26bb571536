//! Numbers that both sides of the protocol agree on. The broker advertises its own values in the
//! hello ack ([`crate::frame::Limits`]); these are the defaults and the hard bounds of the parsers.

use std::time::Duration;

/// Most bytes of body ciphertext in one envelope (inventory B-002: 64 KiB).
pub const MAX_BODY: usize = 65_536;
/// Most bytes of an envelope header: the largest valid one is under 700 bytes.
pub const MAX_HEADER: usize = 2_048;
/// Most bytes of one WebSocket frame: a body, its header, a full batch of wraps (500 × ~112 bytes)
/// and a proof, in base64 where the frame is JSON.
pub const MAX_FRAME: usize = 262_144;
/// Most wraps in one batch of a group send.
pub const MAX_WRAPS: usize = 500;
/// Deepest nesting of maps and arrays in anything decoded.
pub const MAX_DEPTH: usize = 16;
/// Largest integer on the wire: what a double holds exactly, so that JavaScript peers agree.
pub const MAX_INT: u64 = (1 << 53) - 1;
/// Most links in a member's certificate chain (owner → admin → … → member).
pub const MAX_CHAIN: usize = 8;
/// Most bytes of one signed object (genesis, capability, claim, attestation, hello).
pub const MAX_SIGNED: usize = 8_192;
/// Longest name of a member or mesh, in characters.
pub const MAX_NAME: usize = 64;
/// Most peers in one `peers` answer; the rest is behind its `next` cursor.
pub const MAX_PEERS_PAGE: usize = 100;
/// Largest clock difference accepted in a hello or an envelope's `sent_at` (inventory A-009).
pub const SKEW: Duration = Duration::from_secs(60);
/// How long a queued envelope lives when its author names no expiry (inventory A-117).
pub const QUEUED_TTL: Duration = Duration::from_secs(7 * 86_400);
/// The longest life an envelope may ask for.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);
/// How long a broker's claim on a delivery lasts without an ack (inventory A-093).
pub const CLAIM_LEASE: Duration = Duration::from_secs(30);
/// Envelopes pushed to one connection and not acked yet; bounds what a slow reader costs.
pub const DELIVERY_WINDOW: usize = 64;
/// Longest wait of a receiver for a hole in a sender's sequence (design section 5.6).
pub const ORDER_HOLD: Duration = Duration::from_secs(5);
/// Longest life of an attestation (inventory A-005: 24 h cap).
pub const MAX_ATTESTATION_TTL: Duration = Duration::from_secs(86_400);
/// Default life of an attestation (inventory A-005: 12 h).
pub const ATTESTATION_TTL: Duration = Duration::from_secs(43_200);
/// How long an identity counts as there after it was last heard (inventory B-028).
pub const PRESENCE_LEASE: Duration = Duration::from_secs(90);
/// Most recipients of one group send.
pub const MAX_RECIPIENTS: usize = 10_000;
/// Most keys in each list of one `recipients_changed`; the rest comes with the next try.
pub const MAX_CHANGED: usize = 1_000;
/// Most groups that one member is in.
pub const MAX_GROUPS: usize = 64;
/// Longest summary, in characters.
pub const MAX_SUMMARY: usize = 280;
/// Longest part of a profile, in characters.
pub const MAX_PROFILE_PART: usize = 500;
/// Most keys in one `disconnect`.
pub const MAX_DISCONNECT: usize = 1_000;
/// Most bytes of a negotiation frame's sealed payload (design section 6).
pub const MAX_P2P: usize = 16_384;
/// Longest name of an adapter, in bytes.
pub const MAX_ADAPTER: usize = 32;
/// Most candidates of one negotiation object, and of one side of an attempt altogether (design section
/// 6): an offer must not make a peer scan a network.
pub const MAX_CANDIDATES: usize = 20;
/// Broker pings this often (inventory B-025).
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Either side gives a silent connection up after this long (inventory B-026).
pub const STALE_AFTER: Duration = Duration::from_secs(75);
/// How long the broker waits for a hello, and a node for its ack (inventory A-072).
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Default uses and life of an invite (inventory B-139).
pub const INVITE_USES: u32 = 1;
/// See [`INVITE_USES`].
pub const INVITE_TTL: Duration = Duration::from_secs(7 * 86_400);

/// A duration as whole Unix milliseconds, for arithmetic on wire times.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // bounded by the comparison
pub const fn ms(d: Duration) -> u64 {
    let ms = d.as_millis();
    if ms > MAX_INT as u128 { MAX_INT } else { ms as u64 }
}
