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

/// The longest that it stays awake: a thousand records of 100 B are encoded in 20 us, twice as long
/// where the other core is slow to wake. p50 of such batches, waited for, over the bare ring's in
/// the same run, three runs each: 1.15, 1.19, 1.15 with 30 us, 1.12, 1.10, 1.13 with 100.
const MOST: Duration = Duration::from_micros(100);

/// What is known of the time between the last answer and the next call.
pub(super) struct Awake {
    most: Duration,
    /// A moving average.
    usual: Duration,
    /// Since then nobody called.
    since: Option<Duration>,
}

impl Awake {
    /// For no longer than `allowed`.
    pub(super) fn new(allowed: Duration) -> Awake {
        Awake { most: MOST.min(allowed), usual: Duration::ZERO, since: None }
    }

    /// All is answered: how long to stay awake for the next call.
    pub(super) fn answered(&mut self, now: Duration) -> Duration {
        self.since = Some(now);
        if self.usual <= self.most { self.most } else { Duration::ZERO }
    }

    /// Somebody called.
    pub(super) fn called(&mut self, now: Duration) {
        if let Some(since) = self.since.take() {
            // An eighth of what is new: it follows a change within some ten calls.
            let took = now.saturating_sub(since).min(2 * MOST);
            self.usual = self.usual - self.usual / 8 + took / 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_awake_only_for_callers_who_come_again_soon() {
        let (mut awake, mut now) = (Awake::new(Duration::MAX), Duration::ZERO);
        let mut comes_after = |awake: &mut Awake, micros| {
            let stays = awake.answered(now);
            now += Duration::from_micros(micros);
            awake.called(now);
            stays > Duration::ZERO
        };
        assert!((0..20).all(|_| comes_after(&mut awake, 20)));
        let stayed = (0..20).filter(|_| comes_after(&mut awake, 5000)).count();
        assert!((1..10).contains(&stayed), "{stayed} of 20");
        let stayed = (0..20).filter(|_| comes_after(&mut awake, 20)).count();
        assert!((10..20).contains(&stayed), "{stayed} of 20");
        // Nobody is to.
        assert_eq!(Awake::new(Duration::ZERO).answered(now), Duration::ZERO);
    }
}
