//! How long the writer stays awake once all is answered.
//!
//! ```text
//! answer --> caller wakes, makes his next batch, calls --> writer      usual: the time between
//!            <-------- awake, if that is usually short --------->
//! ```
//!
//! Who waited for an answer is about to call again, and to wake a writer that sleeps takes him
//! longer than most batches take to encode. Used by `next`, where nothing is in flight; `patience`
//! is the same for who waits for the answer.

use std::time::Duration;

use super::super::patience::learnt;

/// The longest that it stays awake: a thousand records of 100 B are encoded in 20 us, twice as long
/// where the other core is slow to wake. p50 of such batches, waited for, over the bare ring's in
/// the same run, three runs each: 1.15, 1.19, 1.15 with 30 us, 1.12, 1.10, 1.13 with 100.
const MOST: Duration = Duration::from_micros(100);

/// Asleep the time includes its own waking: now and then it stays awake to see.
const TRY_EACH: u32 = 32;

/// What is known of the time between the last answer and the next call.
pub(super) struct Awake {
    most: Duration,
    /// A moving average; see `learnt`.
    usual: Duration,
    /// Since then nobody called.
    since: Option<Duration>,
    /// How often it slept in turn.
    slept: u32,
}

impl Awake {
    /// For no longer than `allowed`.
    pub(super) fn new(allowed: Duration) -> Awake {
        Awake { most: MOST.min(allowed), usual: Duration::ZERO, since: None, slept: 0 }
    }

    /// All is answered: how long to stay awake for the next call.
    pub(super) fn answered(&mut self, now: Duration) -> Duration {
        self.since = Some(now);
        let sleeps = self.usual > self.most && self.slept < TRY_EACH;
        self.slept = if sleeps { self.slept + 1 } else { 0 };
        if sleeps { Duration::ZERO } else { self.most }
    }

    /// Somebody called.
    pub(super) fn called(&mut self, now: Duration) {
        if let Some(since) = self.since.take() {
            let took = now.saturating_sub(since);
            // One that came in time is reason enough to stay awake for the next ones.
            let usual = if took <= self.most { self.usual.min(self.most) } else { self.usual };
            self.usual = learnt(usual, took, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_awake_only_for_callers_who_come_again_soon() {
        for most in [30, 100] {
            let (mut awake, mut now) = (Awake::new(Duration::from_micros(most)), Duration::ZERO);
            // So often of a hundred calls that come so long after an answer; who sleeps has to be
            // woken.
            let mut stays = |micros| {
                let stays = (0..100).filter(|_| {
                    let stays = awake.answered(now) > Duration::ZERO;
                    now += Duration::from_micros(if stays { micros } else { micros + 90 });
                    awake.called(now);
                    stays
                });
                stays.count()
            };
            assert_eq!(stays(20), 100);
            assert!((3..20).contains(&stays(5000)));
            assert!(stays(20) > 60, "it never tries again");
        }
        // Nobody is to.
        assert_eq!(Awake::new(Duration::ZERO).answered(Duration::ZERO), Duration::ZERO);
    }
}
