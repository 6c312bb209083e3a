//! Tells what happens, as it happens.

use crate::clock::Clock;
use crate::types::Millis;

use super::super::print::{self, Out};

/// The teller. Lines of several acts mingle, each with its act's name and the time since the beginning.
pub struct Story {
    clock: Clock,
    began: Millis,
    out: Out,
}

impl Story {
    /// Time counts from here.
    pub fn begin(clock: Clock, out: Out) -> Story {
        Story { began: clock.now(), clock, out }
    }

    /// The form in which the story is told.
    pub fn out(&self) -> Out {
        self.out
    }

    /// The present instant, by which signatures are judged.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// One line: whose, which step, and what happened. Where nobody reads it, the play goes on all the same: whether what it
    /// came to can be written shows at the end.
    pub fn tell(&self, act: &str, step: &str, detail: &str) {
        let elapsed = self.clock.now().since(self.began);
        let _ = if self.out.json {
            let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let line = serde_json::json!({"elapsedMs": ms, "act": act, "step": step, "detail": detail});
            self.out.value(&line)
        } else {
            print::raw(&format!("{:>7.2} s  {act:<9} {detail}\n", elapsed.as_secs_f64())).map_err(Into::into)
        };
    }
}
