//! All randomness of a simulated world: one seed, one generator, streams drawn from it.
//!
//! Source: xoshiro256** seeded by splitmix64, Blackman and Vigna, prng.di.unimi.it.

/// A small, fast generator that gives the same numbers for the same seed on every machine.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Rng {
        let mut state = seed;
        Rng(std::array::from_fn(|_| splitmix(&mut state)))
    }

    /// Stream `number` of a seed: independent of how far other streams were read.
    pub fn stream(seed: u64, number: u64) -> Rng {
        let mut state = number;
        Rng::new(seed ^ splitmix(&mut state))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`, or 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // A modulus favours small numbers by less than one in 2^32 for the bounds in use.
        self.bits().checked_rem(bound).unwrap_or(0)
    }

    /// A place in a list of `len`, or 0 if it is empty.
    pub fn index(&mut self, len: usize) -> usize {
        crate::cast::len(self.below(len as u64))
    }

    /// True in `per_mille` of 1000 draws. Draws nothing for 0, so that an absent fault shifts no
    /// other choice.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// One of `choices`, or `other` if there is none.
    pub(super) fn pick_or<T: Copy>(&mut self, choices: &[T], other: T) -> T {
        if choices.is_empty() { other } else { self.pick(choices) }
    }

    /// Puts `list` in a random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.index(i + 1));
        }
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeding_gives_the_published_numbers() {
        let mut state = 1_234_567;
        let drawn: Vec<u64> = (0..3).map(|_| splitmix(&mut state)).collect();
        let published =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(drawn, published);
    }

    #[test]
    fn the_generator_gives_the_published_numbers() {
        let mut rng = Rng([1, 2, 3, 4]);
        let drawn: Vec<u64> = (0..4).map(|_| rng.bits()).collect();
        assert_eq!(drawn, [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
    }

    #[test]
    fn streams_of_one_seed_differ() {
        assert_ne!(Rng::stream(7, 0).bits(), Rng::stream(7, 1).bits());
        assert_eq!(Rng::stream(7, 1).bits(), Rng::stream(7, 1).bits());
    }
}
