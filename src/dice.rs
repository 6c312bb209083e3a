//! The only place that asks the world for randomness.

use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::types::{Id, Millis};

/// Where random bytes come from. Cheap to clone; all clones share one source.
#[derive(Clone, Debug)]
pub enum Dice {
    /// The operating system's generator.
    Os,
    /// Reproducible: the same seed gives the same bytes. For tests.
    Seeded(Arc<Mutex<(u64, u64)>>),
}

/// The operating system gave no random bytes. Nothing safe can be minted without them.
const NO_ENTROPY: &str = "the operating system's random generator must answer";

impl Dice {
    /// A reproducible source.
    pub fn seeded(seed: u64) -> Dice {
        Dice::Seeded(Arc::new(Mutex::new((seed, 0))))
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        match self {
            Dice::Os => os(&mut out),
            Dice::Seeded(state) => {
                let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                for chunk in out.chunks_mut(32) {
                    state.1 += 1;
                    let block = Sha256::digest([state.0.to_le_bytes(), state.1.to_le_bytes()].concat());
                    chunk.copy_from_slice(&block[..chunk.len()]);
                }
            }
        }
        out
    }

    /// A fresh id stamped with `now`.
    pub fn id<K>(&self, now: Millis) -> Id<K> {
        Id::mint(now, self.bytes())
    }
}

#[expect(clippy::disallowed_methods, reason = "this file is where randomness enters")]
fn os(out: &mut [u8]) {
    // Without randomness ids collide and keys can be guessed: stopping is the only safe answer.
    #[expect(clippy::expect_used, reason = "no caller could go on")]
    getrandom::fill(out).expect(NO_ENTROPY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_two_seeds_differ() {
        let roll = |seed| Dice::seeded(seed).bytes::<48>();
        assert_eq!(roll(7), roll(7));
        assert_ne!(roll(7), roll(8));
        let one = Dice::seeded(7);
        assert_ne!(one.bytes::<16>(), one.bytes::<16>());
    }
}
