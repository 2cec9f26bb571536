//! Inputs as steps: `what, which, length, bytes` each.

/// One step.
pub(crate) struct Step<'a> {
    /// What to do.
    pub(crate) what: u8,
    /// With which of several things.
    pub(crate) which: u8,
    /// The bytes for it.
    pub(crate) bytes: &'a [u8],
}

/// The steps in `data`; the last one may have fewer bytes than it says.
pub(crate) fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let [what, which, length, rest @ ..] = data else { return None };
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        Some(Step { what: *what, which: *which, bytes })
    })
}

/// `N` bytes; where there are fewer, zeros.
pub(crate) fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = *from;
    }
    all
}
