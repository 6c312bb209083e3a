//! The only place that asks the world for randomness.

use std::cell::RefCell;
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
        self.fill(os)
    }

    /// A fresh id stamped with `now`.
    pub fn id<K>(&self, now: Millis) -> Id<K> {
        Id::mint(now, self.fill(reserved))
    }

    fn fill<const N: usize>(&self, from: fn(&mut [u8])) -> [u8; N] {
        let mut out = [0; N];
        match self {
            Dice::Os => from(&mut out),
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
}

/// Random bytes of one thread that nobody has had yet, from `next` on.
struct Reserve {
    bytes: [u8; 512],
    next: usize,
}

thread_local! {
    static RESERVE: RefCell<Reserve> = const { RefCell::new(Reserve { bytes: [0; 512], next: 512 }) };
}

/// For ids, of which each job has several: a call of the operating system costs as much for 10 bytes as for 500. Keys and
/// tokens come from there alone.
fn reserved(out: &mut [u8]) {
    RESERVE.with_borrow_mut(|reserve| {
        if out.len() > reserve.bytes.len() - reserve.next {
            os(&mut reserve.bytes);
            reserve.next = 0;
        }
        out.copy_from_slice(&reserve.bytes[reserve.next..][..out.len()]);
        reserve.next += out.len();
    });
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

    #[test]
    fn no_byte_of_the_reserve_is_given_out_twice() {
        let mut seen = std::collections::HashSet::new();
        // Of a size by which the reserve cannot be divided.
        let roll = || {
            let mut bytes = [0; 10];
            reserved(&mut bytes);
            bytes
        };
        assert!((0..1_000).all(|_| seen.insert(roll())));
    }
}
