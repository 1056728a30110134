//! How long a caller who waits for his answer stays awake.
//!
//! ```text
//! asleep:  device answers --> writer wakes --> caller wakes     each 10 to 50 us, as cores slept
//! awake:   device answers --> writer wakes --> caller sees it
//! ```
//!
//! Only who has the one batch without an answer does, while answers usually come soon, and where
//! another core is free for the writer: with more callers, or more tickets, their own work keeps
//! cores awake, and what is spun is taken from it. Used by `ticket`. The rule is InnoDB's for its
//! log (`innodb_log_wait_for_flush_spin_hwm`: a usual flush of 400 us ends it).

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::cast::nanos;
use crate::io::Host;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize};

/// What is known of the waits of one log. None of its numbers orders anything.
pub(super) struct Patience {
    /// The longest that anybody stays awake, and the longest usual wait with which it is tried.
    most: Duration,
    /// Tickets that are out: not answered yet.
    out: AtomicUsize,
    /// What lone waits take, a moving average.
    usual_ns: AtomicU64,
    /// Who stayed awake last did so in vain.
    vain: AtomicBool,
}

/// A usual time once one more is known, a moving average. An eighth of what is new: it follows a
/// change within some ten times. One that is far beyond `most` says no more than that it is.
pub(super) fn learnt(usual: Duration, took: Duration, most: Duration) -> Duration {
    usual - usual / 8 + took.min(2 * most) / 8
}

impl Patience {
    pub(super) fn new(most: Duration) -> Patience {
        let (out, usual_ns) = (AtomicUsize::new(0), AtomicU64::new(0));
        Patience { most, out, usual_ns, vain: AtomicBool::new(false) }
    }

    /// One more ticket is out.
    pub(super) fn handed_out(&self) {
        self.out.fetch_add(1, Relaxed);
    }

    /// One is answered.
    pub(super) fn answered(&self) {
        self.out.fetch_sub(1, Relaxed);
    }

    /// Waits for `done` by `awake` if it is worth it, else and then by `asleep`.
    pub(super) fn wait(&self, host: &dyn Host, done: &dyn Fn() -> bool, asleep: impl FnOnce()) {
        if self.most.is_zero() || self.out.load(Relaxed) > 1 {
            return asleep();
        }
        let began = host.now();
        let usual = Duration::from_nanos(self.usual_ns.load(Relaxed));
        let awake = usual <= self.most;
        let vain = awake && !host.spin(&|| done() || self.out.load(Relaxed) > 1, self.most);
        asleep();
        let learnt = learnt(usual, host.now().saturating_sub(began), self.most);
        // One slow answer says nothing of the next. After two in turn maybe no core is free, and
        // the writer waits for this one: the next few sleep.
        let again = awake && self.vain.swap(vain, Relaxed) && vain;
        let usual = if again { self.most * 3 / 2 } else { learnt };
        self.usual_ns.store(nanos(usual), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;
    use std::sync::Mutex;
    use std::task::Waker;

    use super::*;
    use crate::io::{MakeMachine, Running};

    /// A host whose clock goes by a look at a time, and by what is slept.
    #[derive(Debug, Default)]
    struct Clock(Mutex<Duration>);

    impl Clock {
        fn pass(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    impl Host for Clock {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        fn wall_us(&self) -> u64 {
            unreachable!("nobody asks")
        }

        fn random(&self) -> io::Result<[u8; 16]> {
            unreachable!("nobody asks")
        }

        fn start(&self, _name: &str, _make: MakeMachine) -> io::Result<Box<dyn Running>> {
            unreachable!("nobody asks")
        }

        fn run(&self, _name: &str, _job: Box<dyn FnOnce() + Send + '_>) -> io::Result<()> {
            unreachable!("nobody asks")
        }

        fn wake(&self, _waker: Waker) {}

        fn spin(&self, ready: &dyn Fn() -> bool, upto: Duration) -> bool {
            let begun = self.now();
            while !ready() {
                if self.now() - begun >= upto {
                    return false;
                }
                self.pass(Duration::from_micros(1));
            }
            true
        }

        fn step(&self) -> bool {
            false
        }
    }

    /// Whether a wait that takes so long is spent awake.
    fn is_awake(patience: &Patience, host: &Clock, takes: Duration) -> bool {
        let (begun, looks) = (host.now(), Cell::new(0u32));
        let done = || {
            looks.set(looks.get() + 1);
            host.now() - begun >= takes
        };
        let asleep = || host.pass(takes.saturating_sub(host.now() - begun));
        patience.wait(host, &done, asleep);
        looks.get() > 0
    }

    #[test]
    fn a_lone_caller_stays_awake_while_answers_are_quick() {
        let (host, patience) = (Clock::default(), Patience::new(Duration::from_millis(1)));
        patience.handed_out();
        assert!(is_awake(&patience, &host, Duration::from_micros(1)));
        patience.handed_out();
        assert!(!is_awake(&patience, &host, Duration::from_micros(1)), "two are out");
        patience.answered();
        for _ in 0..2 {
            is_awake(&patience, &host, Duration::from_millis(3));
        }
        assert!(!is_awake(&patience, &host, Duration::from_micros(1)), "it was in vain, twice");
        for _ in 0..30 {
            is_awake(&patience, &host, Duration::from_millis(3));
        }
        assert!(!is_awake(&patience, &host, Duration::from_micros(1)), "they have become slow");
        // Short waits, asleep, tell that they are quick again.
        for _ in 0..60 {
            is_awake(&patience, &host, Duration::from_micros(1));
        }
        assert!(is_awake(&patience, &host, Duration::from_micros(1)));
        let never = Patience::new(Duration::ZERO);
        never.handed_out();
        assert!(!is_awake(&never, &host, Duration::from_micros(1)));
    }

    #[test]
    fn one_slow_answer_among_quick_ones_puts_nobody_to_sleep() {
        let (host, patience) = (Clock::default(), Patience::new(Duration::from_micros(400)));
        patience.handed_out();
        let awake = |takes| is_awake(&patience, &host, Duration::from_micros(takes));
        for round in 0..20 {
            for quick in 0..7 {
                assert!(awake(250), "after a slow one, {quick} quick ones, {round} rounds");
            }
            assert!(awake(2000), "after seven that took 250 us");
        }
        // The second in turn is the last.
        assert!(awake(2000));
        let slept = (0..50).take_while(|_| !awake(250)).count();
        assert!((4..12).contains(&slept), "{slept} slept");
        for _ in 0..20 {
            assert!(awake(250));
        }
        assert!(awake(2000));
        assert!(awake(250));
    }
}
