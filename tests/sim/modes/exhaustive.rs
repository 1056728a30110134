//! Every outcome: each crash point of a script, and all that a power cut there may leave.

use prkdb_core::io::sim::{Faults, Model, Sim};
use prkdb_core::{Durability, Result};

use super::{OTHERS, PLAIN, Promised, Setup};

/// A crash point that asks no more questions of its power cut is gone through whole, of others the
/// first so many questions are; `PRKDB_SIM_CHOICES` says another number for the former. Each
/// question doubles the outcomes: with 12 all scripts in all setups have 1,035,414, which take two
/// cores 41 minutes beside other work.
const CHOICES: u32 = 4;
/// The same of the setups that fewer questions are asked of.
const FEWER: u32 = 2;

/// The next outcome of a list of choices, as a number counts up; false after the last.
fn next_path(path: &mut Vec<bool>) -> bool {
    while path.pop_if(|kept| *kept).is_some() {}
    path.last_mut().is_some_and(|kept| {
        *kept = true;
        true
    })
}

type Prepare = fn(Setup, &Sim, &mut Promised);
type Script = fn(Setup, &Sim, &mut Promised) -> Result<()>;

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
    (model, setup, prepare, script): (&Model, Setup, Prepare, Script),
    n: u64,
    path: &mut Vec<bool>,
    most: u32,
) -> Option<u32> {
    let sim = Sim::new(7, model.clone(), Faults::default());
    let mut promised = Promised::default();
    prepare(setup, &sim, &mut promised);
    sim.set_faults(Faults { crash_at: Some(sim.ops() + n), ..Faults::default() });
    let ran = script(setup, &sim, &mut promised);
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
    let at = format!("{model:?}, {setup:?}, operation {n}, {path:?}");
    let wal = setup.open_healthy(&sim, &at);
    let found = promised.check(&wal, &at);
    // I5, I6: what was served stays, also if nothing else of this life does.
    sim.cut_power(|| false);
    drop(wal);
    assert_eq!(promised.check(&setup.open_healthy(&sim, &at), &at), found, "{at}: I5, I6");
    Some(u32::try_from(asked).expect("few are asked"))
}

/// Crashes `script` at each of its operations and goes through all that a power cut may leave.
fn exhaust(
    model: &Model,
    setup: Setup,
    prepare: Prepare,
    script: Script,
    chosen: u32,
) -> Exhausted {
    let mut sum = Exhausted::default();
    for n in 1.. {
        let (life, mut path, mut gone_through) =
            ((model, setup, prepare, script), Vec::new(), 0_u64);
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
    let chosen = crate::number("PRKDB_SIM_CHOICES").map(|n| u32::try_from(n).expect("few"));
    std::thread::scope(|scope| {
        for model in models() {
            scope.spawn(move || {
                exhaust_one(&model, PLAIN, (prepare, script), chosen.unwrap_or(CHOICES));
                for setup in OTHERS {
                    let model = Model { mapped: model.mapped || setup.mapped, ..model.clone() };
                    exhaust_one(&model, setup, (prepare, script), chosen.unwrap_or(FEWER));
                }
            });
        }
    });
}

fn exhaust_one(model: &Model, setup: Setup, (prepare, script): (Prepare, Script), chosen: u32) {
    let before = std::time::Instant::now();
    let sum = exhaust(model, setup, prepare, script, chosen);
    let seconds = before.elapsed().as_secs_f64();
    eprintln!("{:?}, {setup:?}, {seconds:.1} s: {sum:?}", model.names);
    assert!(sum.points > 20 && sum.outcomes > sum.points, "{sum:?}");
    // What asks for no more than was chosen was gone through; most do not, unless few were.
    assert!(sum.whole > sum.cut_short || chosen < CHOICES, "{sum:?}");
}

fn models() -> [Model; 4] {
    let cached = Model { mapped: true, ..Model::ordered(false) };
    [Model::strict(true), Model::ordered(true), Model::weak(true), cached]
}

#[test]
fn a_log_that_is_made_survives_every_outcome_of_every_crash() {
    exhaust_on_all(
        |_, _, _| {},
        |setup, sim, promised| {
            let wal = setup.open(sim)?;
            promised.append(&wal, Durability::Sync)?;
            wal.close()
        },
    );
}

#[test]
fn a_log_in_use_survives_every_outcome_of_every_crash() {
    exhaust_on_all(
        |setup, sim, promised| {
            let wal = setup.open_healthy(sim, "prepare");
            promised.append(&wal, Durability::Sync).expect("a healthy world appends");
            wal.close().expect("a healthy world closes");
            // It lay there for long: what nobody synced has landed by itself.
            sim.cut_power(|| true);
        },
        |setup, sim, promised| {
            let wal = setup.open(sim)?;
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
