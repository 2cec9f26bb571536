//! Whether the wraps of a group send are for those who are in the group.

use meshwire_signaling::PublicKey;
use meshwire_signaling::limits::MAX_CHANGED;
use meshwire_signaling::seal::Wrap;

use super::Accepted;

/// How many recipients a store reads to compare `wraps` with: enough to name all that
/// `recipients_changed` has room for, however many are in the group.
pub(super) fn enough(wraps: &[Wrap]) -> usize {
    wraps.len().saturating_add(MAX_CHANGED)
}

/// Compares the first [`enough`] of those who must get a wrap with those who have one; both in key
/// order, without repetition. `None` if they are the same.
pub(super) fn changed(required: &[PublicKey], wraps: &[Wrap]) -> Option<Accepted> {
    if required.is_empty() {
        return Some(Accepted::UnknownTarget);
    }
    // Of keys behind the last one that was read nothing is known.
    let read_to = if required.len() < enough(wraps) { None } else { required.last() };
    let has = |key: &PublicKey| wraps.binary_search_by_key(key, |w| w.to).is_ok();
    let missing: Vec<_> = required.iter().filter(|k| !has(k)).take(MAX_CHANGED).copied().collect();
    let known = wraps.iter().map(|w| w.to).filter(|k| read_to.is_none_or(|last| k <= last));
    let gone: Vec<_> =
        known.filter(|k| required.binary_search(k).is_err()).take(MAX_CHANGED).collect();
    let same = missing.is_empty() && gone.is_empty();
    (!same).then_some(Accepted::RecipientsChanged { missing, gone })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<u16>) -> Vec<PublicKey> {
        let key = |n: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            PublicKey(bytes)
        };
        range.map(key).collect()
    }

    fn wraps(keys: &[PublicKey]) -> Vec<Wrap> {
        keys.iter().map(|to| Wrap { to: *to, key: vec![].into() }).collect()
    }

    #[test]
    fn both_differences_are_named_in_order_and_bounded() {
        let all = keys(0..3_000);
        assert_eq!(changed(&all[..5], &wraps(&all[..5])), None);
        assert_eq!(changed(&[], &wraps(&all[..1])), Some(Accepted::UnknownTarget));
        let (missing, gone) = (all[0..1].to_vec(), all[4..5].to_vec());
        let both = Accepted::RecipientsChanged { missing, gone };
        assert_eq!(changed(&all[0..4], &wraps(&all[1..5])), Some(both));
        let (missing, gone) = (all[..MAX_CHANGED].to_vec(), vec![]);
        let many = Accepted::RecipientsChanged { missing, gone };
        assert_eq!(changed(&all[..enough(&[])], &[]), Some(many));
    }

    #[test]
    fn nobody_counts_as_gone_who_was_not_read() {
        let all = keys(0..3_000);
        let late = wraps(&all[2_999..]);
        let read = &all[..enough(&late)];
        let Some(Accepted::RecipientsChanged { missing, gone }) = changed(read, &late) else {
            panic!("they differ");
        };
        assert_eq!((missing.len(), gone), (MAX_CHANGED, vec![]));
    }
}
