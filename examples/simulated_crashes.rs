//! How do I test a state machine of my own against crashes?
//!
//! A ledger: accounts, and transfers between them. The log holds the transfers; the user slot holds
//! a snapshot of the balances, and what it covers is cut from the log. The ledger runs on the
//! simulated disk: the power fails at any operation, writes tear, syncs fail, the disk fills up,
//! and all of it comes from one number, so that what went wrong once goes wrong again.
//!
//! ```text
//! seed -> lives: open, check, transfer, snapshot ... until something breaks -> crash -> open ...
//! ```
//!
//! `--buggy` plants a mistake that no test on a healthy disk finds: the log is cut before the
//! snapshot is durable. The same seeds catch it.
//!
//! Run with `cargo run --release --features sim --example simulated_crashes [SEEDS] [--buggy]`;
//! without `--release` some hundred seeds take minutes.

use prkdb_core::io::World;
use prkdb_core::io::sim::{CrashKind, Faults, Model, Rng, Sim};
use prkdb_core::{Lsn, Result, Wal, WalConfig};

const ACCOUNTS: usize = 4;
const START: u64 = 1000;
/// So often the balances are saved.
const SNAPSHOT_EVERY: u64 = 5;

/// What a ledger says: who has how much after how many transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Balances {
    done: u64,
    of: [u64; ACCOUNTS],
}

impl Balances {
    /// A transfer is one record: from, to, how much.
    fn apply(&mut self, record: &[u8]) {
        let [from, to, amount] = [0, 1, 2].map(|i| usize::from(record[i]));
        let amount = self.of[from].min(amount as u64);
        self.of[from] -= amount;
        self.of[to] += amount;
        self.done += 1;
    }
}

/// The state machine under test. It knows nothing of a simulation but the world it is given.
struct Ledger {
    wal: Wal,
    balances: Balances,
    buggy: bool,
}

impl Ledger {
    fn open(world: World, buggy: bool) -> Result<Ledger> {
        let wal =
            Wal::open_in(world, WalConfig { segment_bytes: 1 << 20, ..WalConfig::new("/log") })?;
        let slot = wal.user_state();
        let numbers: Vec<_> = slot.as_chunks().0.iter().map(|n| u64::from_le_bytes(*n)).collect();
        let mut balances = match numbers[..] {
            [done, a, b, c, d] => Balances { done, of: [a, b, c, d] },
            _ => Balances { done: 0, of: [START; ACCOUNTS] },
        };
        // Each transfer is one record, so the snapshot covers as many records as transfers.
        for record in wal.reader(Lsn::new(balances.done + 1))? {
            balances.apply(&record?.data);
        }
        Ok(Ledger { wal, balances, buggy })
    }

    /// When it returns `Ok`, the transfer survives.
    fn transfer(&mut self, record: &[u8]) -> Result<()> {
        self.wal.append_batch([record])?.wait()?;
        self.balances.apply(record);
        if self.balances.done.is_multiple_of(SNAPSHOT_EVERY) {
            self.snapshot()?;
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<()> {
        let Balances { done, of } = &self.balances;
        let numbers = [&[*done], &of[..]].concat();
        let slot: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let rest = Lsn::new(done + 1);
        if self.buggy {
            self.wal.truncate_before(rest)?;
            return self.wal.set_user_state(slot);
        }
        self.wal.set_user_state(slot)?;
        self.wal.truncate_before(rest)
    }
}

/// Transfer `number` of a seed: what a client asks for, and the test can ask for again.
fn transfer(seed: u64, number: u64) -> [u8; 3] {
    let mut rng = Rng::stream(seed, 1000 + number);
    let mut account = || rng.below(ACCOUNTS as u64).to_le_bytes()[0];
    [account(), account(), number.to_le_bytes()[0]]
}

/// What the ledger must say after `done` transfers.
fn expected(seed: u64, done: u64) -> Balances {
    let mut balances = Balances { done: 0, of: [START; ACCOUNTS] };
    (0..done).for_each(|number| balances.apply(&transfer(seed, number)));
    balances
}

/// Lives of one ledger; gives how often it crashed, and how many transfers it made.
fn run(seed: u64, buggy: bool) -> std::result::Result<(u64, u64), String> {
    let mut rng = Rng::stream(seed, 1);
    let sim = Sim::new(seed, Model::draw(&mut rng), Faults::default());
    let (lives, mut acknowledged) = (10, 0);
    for _ in 0..lives {
        let mut faults = Faults::draw(&mut rng);
        faults.crash_at = Some(sim.ops() + 1 + rng.below(300));
        sim.set_faults(faults);
        // It may not open, for a fault; then the next life tries.
        if let Ok(mut ledger) = Ledger::open(sim.world(), buggy) {
            check(seed, &ledger, &mut acknowledged)?;
            while ledger.transfer(&transfer(seed, ledger.balances.done)).is_ok() {
                acknowledged = ledger.balances.done;
            }
        }
        sim.crash(rng.pick(&[CrashKind::Power, CrashKind::Kill]));
    }
    sim.set_faults(Faults::default());
    let ledger = Ledger::open(sim.world(), buggy).map_err(|e| format!("it does not open: {e}"))?;
    check(seed, &ledger, &mut acknowledged)?;
    Ok((lives, acknowledged))
}

/// What was acknowledged is there, and nothing else but, perhaps, the transfer under way.
fn check(seed: u64, ledger: &Ledger, acknowledged: &mut u64) -> std::result::Result<(), String> {
    let (found, done) = (&ledger.balances, ledger.balances.done);
    if !(*acknowledged..=*acknowledged + 1).contains(&done) {
        return Err(format!("{acknowledged} transfers were acknowledged, {done} are there"));
    }
    let right = expected(seed, done);
    if *found != right {
        return Err(format!("after {done} transfers {found:?}, not {right:?}"));
    }
    // Found once, it stays.
    *acknowledged = done;
    Ok(())
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let buggy = args.iter().any(|arg| arg == "--buggy");
    let seeds = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(200);
    let (mut crashes, mut transfers) = (0, 0);
    for seed in 0..seeds {
        match run(seed, buggy) {
            Ok((n, done)) => (crashes, transfers) = (crashes + n, transfers + done),
            Err(why) if buggy => return println!("seed {seed} catches the mistake: {why}"),
            Err(why) => panic!("seed {seed}: {why}"),
        }
    }
    assert!(!buggy, "{seeds} seeds did not catch the mistake");
    println!("{seeds} seeds, {crashes} crashes, {transfers} transfers: every balance is right");
}
