//! Whatever can happen, one after the other: not drawn by seed, but counted through.
//!
//! ```text
//! n-th call    for each way to fail, once and for good: operation 1, 2, .. fails, until none is
//!              left; then the recovery that follows fails at an operation of its own
//! exhaustive   a script of 8 calls at most: each crash point x each outcome of the power cut,
//!              sector by sector, name by name, to a limit
//! ```

use prkdb_core::io::sim::{CrashKind, Failure, Faults, Model, Sim};
use prkdb_core::{Durability, Error, ErrorKind, Lsn, Result, SyncMethod, Wal, WalConfig};

const DIR: &str = "/log";
/// A crash point that asks no more questions of its power cut is gone through whole, of others the
/// first so many questions are; `PRKDB_SIM_CHOICES` says another number for the former. Each
/// question doubles the outcomes: with 12 the scripts have 210,206, 11 minutes of one core.
const CHOICES: u32 = 4;

fn config() -> WalConfig {
    let (segment_bytes, sync_method) = (1 << 20, SyncMethod::Fdatasync);
    WalConfig { segment_bytes, sync_method, ..WalConfig::new(DIR) }
}

fn open(sim: &Sim) -> Wal {
    Wal::open_in(sim.world(), config()).expect("a healthy world opens")
}

fn record(lsn: u64) -> Vec<u8> {
    format!("record {lsn}").into_bytes()
}

/// What a script was promised.
#[derive(Clone, Debug, Default)]
struct Promised {
    durable: u64,
    /// Submitted, whether or not it was answered.
    submitted: u64,
    state: Vec<u8>,
    asked: Vec<u8>,
}

impl Promised {
    fn append(&mut self, wal: &Wal, durability: Durability) -> Result<()> {
        let lsn = wal.next_lsn().get();
        self.submitted = self.submitted.max(lsn);
        wal.with(durability).append_batch([record(lsn)])?.wait()?;
        if durability == Durability::Sync {
            self.durable = lsn;
        }
        Ok(())
    }

    fn set_state(&mut self, wal: &Wal, state: &[u8]) -> Result<()> {
        self.asked = state.to_vec();
        wal.set_user_state(state)?;
        self.state = state.to_vec();
        Ok(())
    }

    /// I1 to I4 on a log of `record`s.
    fn check(&self, wal: &Wal, at: &str) -> u64 {
        let mut last = 0;
        for read in wal.reader(Lsn::FIRST).expect("nothing was cut") {
            let read = read.unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(read.lsn.get(), last + 1, "{at}: I2");
            last += 1;
            assert_eq!(*read.data, record(last)[..], "{at}: I4");
        }
        assert!(last >= self.durable, "{at}: I1: {} was promised, {last} are there", self.durable);
        assert!(last <= self.submitted, "{at}: I4: {} were submitted", self.submitted);
        let state = wal.user_state();
        assert!(state == self.state || state == self.asked, "{at}: {state:?}");
        last
    }
}

/// Each step is tried, whatever became of those before; the first error is kept. I8: what is
/// poisoned stays so.
fn all_steps(wal: &Wal, promised: &mut Promised) -> Result<()> {
    let mut outcome: Result<()> = Ok(());
    let poisoned = |e: &Error| e.kind() == ErrorKind::Poisoned;
    for step in 0..6 {
        let did = match step {
            0 | 3 => promised.append(wal, Durability::Sync),
            1 | 4 => promised.append(wal, Durability::Written),
            2 => promised.set_state(wal, b"term 1"),
            _ => wal.wait_durable(Lsn::FIRST).and_then(|ticket| ticket.wait()).map(drop),
        };
        if outcome.as_ref().is_err_and(poisoned) && step != 5 {
            assert!(did.is_err(), "I8: step {step} worked in a poisoned log");
        }
        if outcome.as_ref().err().is_none_or(|e| !poisoned(e)) && did.is_err() {
            outcome = did;
        }
    }
    outcome
}

/// Fails operation `n` of a life, and one of the recovery after it; false if there was no `n`-th.
fn fail_one(failure: Failure, sticky: bool, n: u64) -> bool {
    let at = format!("{failure:?}, sticky {sticky}, operation {n}");
    let sim = Sim::new(n, Model::weak(n.is_multiple_of(2)), Faults::default());
    let failing = |sim: &Sim, n: u64| {
        let fail_nth = Some(sim.ops() + n);
        sim.set_faults(Faults { fail_nth, fail_on: sticky, fail_as: failure, ..Faults::default() });
    };
    let mut promised = Promised::default();
    let before = sim.ops();
    failing(&sim, n);
    match Wal::open_in(sim.world(), config()) {
        Ok(wal) => {
            let ran = all_steps(&wal, &mut promised);
            let closed = wal.close();
            let passes = failure == Failure::Interrupted && !sticky;
            assert!(!passes || (ran.is_ok() && closed.is_ok()), "{at}: {ran:?}, {closed:?}");
        }
        Err(e) => expect_failure(&e, &at),
    }
    let met = sim.ops() - before >= n;
    sim.crash(if n.is_multiple_of(3) { CrashKind::Kill } else { CrashKind::Power });
    // Whatever failed then, no operation of the recovery is spared either.
    failing(&sim, 1 + n * 7 % 60);
    match Wal::open_in(sim.world(), config()) {
        Ok(wal) => drop(wal),
        Err(e) => expect_failure(&e, &at),
    }
    sim.crash(CrashKind::Power);
    sim.set_faults(Faults::default());
    let wal = Wal::open_in(sim.world(), config()).unwrap_or_else(|e| panic!("{at}: {e}"));
    let found = promised.check(&wal, &at);
    // I9: service is restored.
    promised.append(&wal, Durability::Sync).unwrap_or_else(|e| panic!("{at}: I9: {e}"));
    assert_eq!(promised.check(&wal, &at), found + 1);
    wal.close().unwrap_or_else(|e| panic!("{at}: {e}"));
    assert_eq!(sim.held(), Default::default(), "{at}: I10");
    met
}

fn expect_failure(e: &Error, at: &str) {
    let known = matches!(e.kind(), ErrorKind::Io | ErrorKind::StorageFull);
    assert!(known, "{at}: a failed call is no reason for {e}");
}

#[test]
fn whichever_call_fails_what_was_promised_is_there() {
    let mut runs = 0;
    for failure in Failure::ALL {
        for sticky in [false, true] {
            let calls = (1..).take_while(|n| fail_one(failure, sticky, *n)).count();
            assert!(calls > 20, "{failure:?}: only {calls} calls");
            runs += calls;
        }
    }
    eprintln!("{runs} calls failed");
}

/// The next outcome of a list of choices, as a number counts up; false after the last.
fn next_path(path: &mut Vec<bool>) -> bool {
    while path.pop_if(|kept| *kept).is_some() {}
    path.last_mut().is_some_and(|kept| {
        *kept = true;
        true
    })
}

type Prepare = fn(&Sim, &mut Promised);
type Script = fn(&Sim, &mut Promised) -> Result<()>;

/// What the crash points of a script came to.
#[derive(Debug, Default)]
struct Exhausted {
    points: u64,
    outcomes: u64,
    /// Points of which each outcome was gone through, and those that ask for too much.
    whole: u64,
    cut_short: u64,
    /// The most questions that a point of the former asks.
    widest: u32,
}

/// Crashes `script` at operation `n` and lets the power cut leave what `path` says, which grows to
/// `most` questions. Gives how many were asked, or none if the script has no such operation.
fn cut_once(
    (model, prepare, script): (&Model, Prepare, Script),
    n: u64,
    path: &mut Vec<bool>,
    most: u32,
) -> Option<u32> {
    let sim = Sim::new(7, model.clone(), Faults::default());
    let mut promised = Promised::default();
    prepare(&sim, &mut promised);
    sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
    let ran = script(&sim, &mut promised);
    if !sim.crashed() {
        ran.expect("nothing was in the way");
        return None;
    }
    let mut asked = 0;
    sim.cut_power(|| {
        asked += 1;
        if path.len() < asked && asked <= most as usize {
            path.push(false);
        }
        path.get(asked - 1).copied().unwrap_or(n.is_multiple_of(2))
    });
    path.truncate(asked);
    let at = format!("{model:?}, operation {n}, {path:?}");
    let wal = Wal::open_in(sim.world(), config()).unwrap_or_else(|e| panic!("{at}: {e}"));
    let found = promised.check(&wal, &at);
    // I5, I6: what was served stays, also if nothing else of this life does.
    sim.cut_power(|| false);
    drop(wal);
    assert_eq!(promised.check(&open(&sim), &at), found, "{at}: I5, I6");
    Some(u32::try_from(asked).expect("few are asked"))
}

/// Crashes `script` at each of its operations and goes through all that a power cut may leave.
fn exhaust(model: &Model, prepare: Prepare, script: Script) -> Exhausted {
    let mut sum = Exhausted::default();
    let chosen = crate::number("PRKDB_SIM_CHOICES").map(|n| u32::try_from(n).expect("few"));
    let chosen = chosen.unwrap_or(CHOICES);
    for n in 1.. {
        let (life, mut path, mut gone_through) = ((model, prepare, script), Vec::new(), 0_u64);
        let Some(mut widest) = cut_once(life, n, &mut path, 0) else { return sum };
        let most = if widest <= chosen { chosen } else { chosen.min(CHOICES) };
        loop {
            let asked = cut_once(life, n, &mut path, most).expect("it was reached before");
            sum.outcomes += 1;
            widest = widest.max(asked);
            // Each question halves: all outcomes together are the whole.
            gone_through += 1 << (most - asked.min(most));
            if !next_path(&mut path) {
                break;
            }
        }
        assert_eq!(gone_through, 1 << most, "operation {n}: outcomes are left out");
        sum.points += 1;
        if widest <= most {
            sum.whole += 1;
            sum.widest = sum.widest.max(widest);
        } else {
            assert!(widest > chosen, "operation {n}: cut short at {most} of {widest} questions");
            sum.cut_short += 1;
        }
    }
    unreachable!("a script ends")
}

/// Each kind of disk in a thread of its own.
fn exhaust_on_all(prepare: Prepare, script: Script) {
    std::thread::scope(|scope| {
        for model in models() {
            scope.spawn(move || {
                let before = std::time::Instant::now();
                let sum = exhaust(&model, prepare, script);
                let seconds = before.elapsed().as_secs_f64();
                eprintln!("{:?}, {seconds:.1} s: {sum:?}", model.names);
                assert!(sum.points > 20 && sum.outcomes > sum.points, "{sum:?}");
                // What asks for no more than was chosen was gone through; most do not.
                assert!(sum.whole > sum.cut_short, "{sum:?}");
            });
        }
    });
}

fn models() -> [Model; 4] {
    let cached = Model { mapped: true, ..Model::ordered(false) };
    [Model::strict(true), Model::ordered(true), Model::weak(true), cached]
}

#[test]
fn a_log_that_is_made_survives_every_outcome_of_every_crash() {
    exhaust_on_all(
        |_, _| {},
        |sim, promised| {
            let wal = Wal::open_in(sim.world(), config())?;
            promised.append(&wal, Durability::Sync)?;
            wal.close()
        },
    );
}

#[test]
fn a_log_in_use_survives_every_outcome_of_every_crash() {
    exhaust_on_all(
        |sim, promised| {
            let wal = open(sim);
            promised.append(&wal, Durability::Sync).expect("a healthy world appends");
            wal.close().expect("a healthy world closes");
            // It lay there for long: what nobody synced has landed by itself.
            sim.cut_power(|| true);
        },
        |sim, promised| {
            let wal = Wal::open_in(sim.world(), config())?;
            promised.append(&wal, Durability::Written)?;
            promised.append(&wal, Durability::Written)?;
            promised.append(&wal, Durability::Sync)?;
            promised.set_state(&wal, b"term 2")?;
            promised.append(&wal, Durability::Written)?;
            promised.append(&wal, Durability::Written)?;
            wal.close()
        },
    );
}
