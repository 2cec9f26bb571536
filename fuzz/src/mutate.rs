//! Mutants of a corpus, by seed.

/// Most bytes of a mutant: twice the largest frame's worth of anything would only cost time.
const MOST: usize = 8 << 10;
/// Values at which lengths and numbers tend to break.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    u64::MAX,
];

/// SplitMix64: small, and the same everywhere for ever, so that a seed means something.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 where that is 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.roll() % bound).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.roll().to_le_bytes()[0]
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        start..start + self.below((len - start).min(64) + 1)
    }
}

/// The mutant number `seed` of a corpus: one of its inputs, or random bytes, changed a few times.
#[must_use]
pub fn mutant(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut input = match corpus.get(dice.below(corpus.len() + 1)) {
        Some(input) => input.clone(),
        None => (0..dice.below(200)).map(|_| dice.byte()).collect(),
    };
    for _ in 0..=dice.below(4) {
        change(&mut input, corpus, &mut dice);
    }
    input.truncate(MOST);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len());
    match dice.below(8) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = dice.byte();
            }
        }
        2 => {
            let value = EDGES[dice.below(EDGES.len())];
            let value = value.to_be_bytes();
            let width = [1, 2, 4, 8][dice.below(4)];
            for (to, from) in input.iter_mut().skip(at).zip(&value[8 - width..]) {
                *to = *from;
            }
        }
        3 => drop(input.drain(dice.range(input.len()))),
        4 => {
            let piece = input[dice.range(input.len())].to_vec();
            input.splice(at..at, piece);
        }
        5 => {
            let piece: Vec<u8> = (0..dice.below(16)).map(|_| dice.byte()).collect();
            input.splice(at..at, piece);
        }
        6 => input.truncate(at),
        _ => {
            if let Some(other) = corpus.get(dice.below(corpus.len())) {
                let piece = other[dice.below(other.len())..].to_vec();
                input.splice(at.., piece);
            }
        }
    }
}
