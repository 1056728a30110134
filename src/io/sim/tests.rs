//! The promises of the simulated disk, one by one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use super::*;
use crate::io::{Access, Buf, Completion, FileRef, FlowMachine, Machine, Next, Op, OpId, Queue};
use crate::io::{EntryKind, Until, block_on};

const BLOCK: usize = 4096;
const F: &str = "/d/f";

fn dir() -> &'static Path {
    Path::new("/d")
}

fn healthy(seed: u64, model: Model) -> Sim {
    Sim::new(seed, model, Faults::default())
}

/// A world of any model with `/d/f`, 16 blocks of zeros, all durable.
fn with_file(seed: u64, model: Model) -> (Sim, World, FileRef) {
    let sim = healthy(seed, model);
    sim.put(F, &[0; 16 * BLOCK]).unwrap();
    let world = sim.world();
    let file = world.disk.open(Path::new(F), Access::Write).unwrap();
    (sim, world, file)
}

fn any_model(seed: u64) -> Model {
    Model::draw(&mut Rng::stream(seed, 99))
}

fn filled(fill: u8, blocks: usize) -> Buf {
    let mut buf = Buf::zeroed(blocks * BLOCK, BLOCK);
    buf.bytes_mut().unwrap().fill(fill);
    buf
}

fn write(file: &FileRef, block: u64, fill: u8, blocks: usize, dsync: bool) -> Op {
    let at = block * BLOCK as u64;
    Op::Write { file: Arc::clone(file), at, buf: filled(fill, blocks), dsync }
}

fn sync(file: &FileRef) -> Op {
    Op::Sync { file: Arc::clone(file) }
}

/// Submits one request and waits for it.
fn one(queue: &mut dyn Queue, op: Op) -> io::Result<usize> {
    let id = queue.submit(op);
    let mut out = Vec::new();
    while out.is_empty() {
        queue.reap(&mut out, Until::Forever)?;
    }
    assert_eq!((out.len(), out[0].id), (1, id));
    out.pop().unwrap().result
}

fn read(world: &World, access: Access) -> Vec<u8> {
    let file = world.disk.open(Path::new(F), access).unwrap();
    let mut buf = Buf::zeroed(16 * BLOCK, BLOCK);
    assert_eq!(file.read_at(0, buf.bytes_mut().unwrap()).unwrap(), 16 * BLOCK);
    buf.bytes().to_vec()
}

/// For each seed how many of the sectors in blocks 0 to 4 hold `fill`.
fn survivors(sim: &Sim, fill: u8) -> usize {
    let bytes = sim.peek(F).unwrap();
    for sector in bytes.chunks(512) {
        assert!(sector.iter().all(|b| *b == sector[0]), "a sector is torn");
    }
    bytes[..4 * BLOCK].chunks(512).filter(|sector| sector[0] == fill).count()
}

#[test]
fn a_dsync_write_survives_every_crash() {
    for seed in 0..200 {
        for kind in [CrashKind::Power, CrashKind::Kill] {
            let (sim, world, file) = with_file(seed, any_model(seed));
            let mut queue = world.disk.queue(4, &[]).unwrap();
            assert_eq!(one(&mut *queue, write(&file, 0, 7, 4, true)).unwrap(), 4 * BLOCK);
            sim.crash(kind);
            assert_eq!(survivors(&sim, 7), 32);
        }
    }
}

#[test]
fn a_sync_covers_exactly_the_writes_answered_before_it() {
    let mut lost = 0;
    for seed in 0..200 {
        let (sim, world, file) = with_file(seed, any_model(seed));
        let mut queue = world.disk.queue(4, &[]).unwrap();
        one(&mut *queue, write(&file, 0, 7, 4, false)).unwrap();
        one(&mut *queue, sync(&file)).unwrap();
        queue.submit(write(&file, 8, 9, 1, false));
        queue.submit(sync(&file));
        let mut out = Vec::new();
        while out.len() < 2 {
            queue.reap(&mut out, Until::Forever).unwrap();
        }
        assert!(out.iter().all(|c| c.result.is_ok()));
        sim.crash(CrashKind::Power);
        assert_eq!(survivors(&sim, 7), 32);
        lost += usize::from(sim.peek(F).unwrap()[8 * BLOCK] != 9);
    }
    assert!(lost > 0, "a write submitted together with the sync must not be safe");
}

#[test]
fn an_unsynced_write_is_kept_lost_or_torn() {
    for in_flight in [false, true] {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let (sim, world, file) = with_file(seed, Model::weak(true));
            let mut queue = world.disk.queue(4, &[]).unwrap();
            if in_flight {
                queue.submit(write(&file, 0, 7, 4, true));
                queue.reap(&mut Vec::new(), Until::Now).unwrap();
            } else {
                one(&mut *queue, write(&file, 0, 7, 4, false)).unwrap();
            }
            sim.crash(CrashKind::Power);
            match survivors(&sim, 7) {
                0 => lost += 1,
                32 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(kept > 0 && lost > 0 && torn > 0, "{kept} {lost} {torn}");
    }
}

#[test]
fn unsynced_writes_are_reordered() {
    let seen = |seed| {
        let (sim, world, file) = with_file(seed, Model::weak(true));
        let mut queue = world.disk.queue(4, &[]).unwrap();
        one(&mut *queue, write(&file, 0, 1, 1, false)).unwrap();
        one(&mut *queue, write(&file, 0, 2, 1, false)).unwrap();
        one(&mut *queue, write(&file, 1, 3, 1, false)).unwrap();
        sim.crash(CrashKind::Power);
        let bytes = sim.peek(F).unwrap();
        (bytes[0], bytes[BLOCK])
    };
    let seen: std::collections::BTreeSet<_> = (0..200).map(seen).collect();
    let all = [(0, 0), (0, 3), (1, 0), (1, 3), (2, 0), (2, 3)];
    assert_eq!(seen, all.into());
}

#[test]
fn nothing_older_comes_back_over_what_is_durable() {
    for seed in 0..200 {
        let (sim, world, file) = with_file(seed, Model::weak(true));
        let mut queue = world.disk.queue(4, &[]).unwrap();
        one(&mut *queue, write(&file, 0, 1, 4, false)).unwrap();
        one(&mut *queue, write(&file, 1, 2, 2, true)).unwrap();
        sim.crash(CrashKind::Power);
        assert!(sim.peek(F).unwrap()[BLOCK..3 * BLOCK].iter().all(|b| *b == 2));
    }
}

#[test]
fn a_failed_sync_drops_sectors_and_the_next_one_succeeds() {
    let mut dropped = 0;
    for seed in 0..100 {
        let (sim, world, file) = with_file(seed, Model::weak(true));
        let mut queue = world.disk.queue(4, &[]).unwrap();
        one(&mut *queue, write(&file, 0, 7, 4, false)).unwrap();
        sim.set_faults(Faults { sync_eio: 1000, ..Faults::default() });
        one(&mut *queue, sync(&file)).unwrap_err();
        sim.set_faults(Faults::default());
        assert_eq!(one(&mut *queue, sync(&file)).unwrap(), 0);
        let on_device = survivors(&sim, 7);
        dropped += 32 - on_device;
        let cached = read(&world, Access::Cached);
        assert!(cached[..4 * BLOCK].iter().all(|b| *b == 7), "the cache shows what was written");
        assert_eq!(read(&world, Access::Direct), sim.peek(F).unwrap());

        sim.crash(CrashKind::Kill);
        assert_eq!(read(&sim.world(), Access::Cached), cached, "the cache outlives the process");
        sim.crash(CrashKind::Power);
        assert_eq!(read(&sim.world(), Access::Cached), sim.peek(F).unwrap());
        assert_eq!(survivors(&sim, 7), on_device, "what the second sync found is durable");
    }
    assert!(dropped > 0);
}

#[test]
fn without_direct_reads_the_cache_answers_for_the_device() {
    let mut differ = 0;
    for seed in 0..20 {
        let (sim, world, file) = with_file(seed, Model::weak(false));
        let mut queue = world.disk.queue(4, &[]).unwrap();
        one(&mut *queue, write(&file, 0, 7, 4, false)).unwrap();
        sim.set_faults(Faults { sync_eio: 1000, ..Faults::default() });
        one(&mut *queue, sync(&file)).unwrap_err();
        assert_eq!(read(&world, Access::Direct), read(&world, Access::Cached));
        differ += usize::from(read(&world, Access::Direct) != sim.peek(F).unwrap());
    }
    assert!(differ > 0);
}

#[test]
fn a_failed_write_lands_in_part() {
    let (mut some, mut none) = (0, 0);
    for seed in 0..100 {
        let (sim, world, file) = with_file(seed, Model::weak(true));
        sim.set_faults(Faults { write_eio: 1000, ..Faults::default() });
        let mut queue = world.disk.queue(4, &[]).unwrap();
        one(&mut *queue, write(&file, 0, 7, 4, true)).unwrap_err();
        match survivors(&sim, 7) {
            0 => none += 1,
            _ => some += 1,
        }
    }
    assert!(some > 0 && none > 0);
}

#[test]
fn a_kill_loses_nothing_that_completed() {
    for seed in 0..100 {
        let (sim, world, file) = with_file(seed, any_model(seed));
        let mut queue = world.disk.queue(4, &[]).unwrap();
        one(&mut *queue, write(&file, 0, 7, 4, false)).unwrap();
        world.disk.create(&dir().join("g"), 0).unwrap();
        sim.crash(CrashKind::Kill);
        assert_eq!(survivors(&sim, 7), 32);
        assert_eq!(sim.files().len(), 2);
        // The next process's sync covers what the killed one has written.
        let world = sim.world();
        let file = world.disk.open(Path::new(F), Access::Write).unwrap();
        one(&mut *world.disk.queue(1, &[]).unwrap(), sync(&file)).unwrap();
        sim.crash(CrashKind::Power);
        assert_eq!(survivors(&sim, 7), 32);
    }
}

/// Which of `/d/f` and `/d/g` exist after an unsynced rename and a power cut.
fn names_after_rename(seed: u64, names: NameOrder, synced: bool) -> Vec<String> {
    let model = Model { names, ..Model::weak(true) };
    let (sim, world, _file) = with_file(seed, model);
    world.disk.rename(Path::new(F), &dir().join("g")).unwrap();
    if synced {
        world.disk.sync_dir(dir()).unwrap();
    }
    sim.crash(CrashKind::Power);
    let entries = sim.world().disk.list(dir()).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

#[test]
fn an_unsynced_rename_may_be_lost_within_the_order_of_names() {
    let seen = |names| -> std::collections::BTreeSet<Vec<String>> {
        (0..300).map(|seed| names_after_rename(seed, names, false)).collect()
    };
    let list = |names: &[&str]| -> Vec<String> { names.iter().map(|n| n.to_string()).collect() };
    assert_eq!(seen(NameOrder::Strict), [list(&["g"])].into());
    assert_eq!(seen(NameOrder::Journal), [list(&["f"]), list(&["g"])].into());
    let all = [list(&[]), list(&["f"]), list(&["f", "g"]), list(&["g"])];
    assert_eq!(seen(NameOrder::Weak), all.into());
    for names in [NameOrder::Strict, NameOrder::Journal, NameOrder::Weak] {
        assert!((0..50).all(|seed| names_after_rename(seed, names, true) == ["g"]));
    }
}

#[test]
fn a_journal_keeps_a_prefix_of_all_changes() {
    for seed in 0..200 {
        let model = Model { names: NameOrder::Journal, ..Model::weak(true) };
        let (sim, world, _file) = with_file(seed, model);
        world.disk.create_dir(Path::new("/d/pool")).unwrap();
        let names = ["/d/a", "/d/pool/b", "/d/c", "/d/pool/e"].map(Path::new);
        for name in names {
            world.disk.create(name, 0).unwrap();
        }
        sim.crash(CrashKind::Power);
        let world = sim.world();
        let there = names.map(|name| world.disk.open(name, Access::Cached).is_ok());
        assert!(there.is_sorted_by(|a, b| a >= b), "{there:?}");
    }
}

#[test]
fn a_failed_directory_sync_may_lose_names_for_good() {
    let mut lost = 0;
    for seed in 0..100 {
        let (sim, world, _file) = with_file(seed, Model::weak(true));
        world.disk.create(&dir().join("g"), 0).unwrap();
        sim.set_faults(Faults { sync_eio: 1000, ..Faults::default() });
        world.disk.sync_dir(dir()).unwrap_err();
        sim.set_faults(Faults::default());
        world.disk.sync_dir(dir()).unwrap();
        sim.crash(CrashKind::Power);
        lost += usize::from(sim.files().len() == 1);
    }
    assert!(lost > 0);
    assert!(lost < 100);
}

#[test]
fn an_unsynced_size_may_be_lost() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let sim = healthy(seed, Model::weak(true));
        let world = sim.world();
        world.disk.create_dir(dir()).unwrap();
        let file = world.disk.create(Path::new(F), 8 * BLOCK as u64).unwrap();
        world.disk.sync_dir(dir()).unwrap();
        one(&mut *world.disk.queue(1, &[]).unwrap(), write(&file, 1, 7, 1, true)).unwrap();
        sim.crash(CrashKind::Power);
        assert_eq!(sim.peek(F).unwrap()[BLOCK..2 * BLOCK], [7; BLOCK]);
        seen.insert(sim.files()[0].1 / BLOCK as u64);
    }
    assert_eq!(seen, [2, 8].into());
}

/// A workload with a machine beside the caller and all soft faults; gives the trace.
fn busy(seed: u64) -> (u64, Vec<u8>) {
    let (sim, world, file) = with_file(seed, any_model(seed));
    let faults = Faults { short_write: 200, interrupted: 200, late: 200, ..Faults::default() };
    sim.set_faults(faults);
    let disk = Arc::clone(&world.disk);
    let other = Arc::clone(&file);
    let make = move || -> io::Result<(Box<dyn Machine>, Box<dyn Queue>)> {
        let machine = FlowMachine::new(|flow| async move {
            for i in 0..6 {
                flow.write(&other, i * BLOCK as u64, filled(3, 2), false).await.unwrap();
            }
            flow.sync(&other).await.unwrap();
        });
        Ok((Box::new(machine), disk.queue(4, &[])?))
    };
    let beside = world.host.start("beside", Box::new(make)).unwrap();
    let mut queue = world.disk.queue(4, &[]).unwrap();
    block_on(&mut *queue, |flow| async move {
        for i in 8..12 {
            flow.write(&file, i * BLOCK as u64, filled(5, 4), true).await.unwrap();
        }
    });
    beside.join();
    let before = sim.peek(F).unwrap();
    assert!(before[..7 * BLOCK].iter().all(|b| *b == 3));
    assert!(before[8 * BLOCK..15 * BLOCK].iter().all(|b| *b == 5));
    sim.crash(CrashKind::Power);
    assert_eq!(sim.peek(F).unwrap(), before, "all of it was durable");
    (sim.trace(), before)
}

#[test]
fn machines_and_flows_finish_under_faults_and_replay_byte_for_byte() {
    for seed in 0..50 {
        let first = busy(seed);
        assert_eq!(first, busy(seed));
        assert_eq!(first, std::thread::spawn(move || busy(seed)).join().unwrap());
        assert_ne!(first.0, busy(seed + 1000).0);
    }
}

#[test]
fn completions_come_in_every_order() {
    let order = |seed| {
        let (_sim, world, file) = with_file(seed, Model::weak(true));
        let mut queue = world.disk.queue(3, &[]).unwrap();
        let ids = [0, 1, 2].map(|i| queue.submit(write(&file, i, 1, 1, true)));
        let mut out = Vec::new();
        while out.len() < 3 {
            queue.reap(&mut out, Until::Forever).unwrap();
        }
        assert_eq!(queue.in_flight(), 0);
        ids.map(|id: OpId| out.iter().position(|c| c.id == id).unwrap())
    };
    let orders: std::collections::BTreeSet<_> = (0..100).map(order).collect();
    assert_eq!(orders.len(), 6);
}

#[test]
fn a_late_request_lets_the_clock_go_on() {
    let (sim, world, file) = with_file(1, Model::weak(true));
    sim.set_faults(Faults { late: 1000, ..Faults::default() });
    let mut queue = world.disk.queue(16, &[]).unwrap();
    for i in 0..16 {
        queue.submit(write(&file, i, 1, 1, true));
    }
    let mut out = Vec::new();
    queue.reap(&mut out, Until::For(Duration::from_micros(1))).unwrap();
    assert!(out.len() < 16);
    let before = sim.now();
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.now(), before + Duration::from_secs(1));
    queue.reap(&mut out, Until::Now).unwrap();
    assert_eq!(out.len(), 16);
}

#[test]
fn a_waker_ends_the_wait_and_so_does_time() {
    let (sim, world, _file) = with_file(1, Model::weak(true));
    let mut queue = world.disk.queue(1, &[]).unwrap();
    queue.waker().wake();
    queue.reap(&mut Vec::new(), Until::Forever).unwrap();
    let before = sim.now();
    queue.reap(&mut Vec::new(), Until::For(Duration::from_millis(3))).unwrap();
    assert_eq!(sim.now(), before + Duration::from_millis(3));
}

#[test]
#[should_panic(expected = "simulated deadlock")]
fn a_wait_that_nothing_can_end_panics() {
    let (_sim, world, _file) = with_file(1, Model::weak(true));
    let mut queue = world.disk.queue(1, &[]).unwrap();
    block_on(&mut *queue, |flow| async move {
        flow.until(|| None::<()>).await;
    });
}

/// Sleeps again and again and says so when it is dropped.
struct Sleeper(Arc<dyn crate::io::Host>, Arc<AtomicBool>);

impl Machine for Sleeper {
    fn step(&mut self, _queue: &mut dyn Queue, _events: &mut Vec<Completion>) -> Next {
        Next::At(self.0.now() + Duration::from_secs(1))
    }

    fn broken(&mut self, _error: io::Error) {}
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

fn start_sleeper(world: &World) -> Arc<AtomicBool> {
    let gone = Arc::new(AtomicBool::new(false));
    let sleeper = Sleeper(Arc::clone(&world.host), Arc::clone(&gone));
    let queue = world.disk.queue(1, &[]).unwrap();
    world.host.start("sleeper", Box::new(move || Ok((Box::new(sleeper), queue)))).unwrap();
    gone
}

#[test]
#[should_panic(expected = "simulated hang")]
fn a_wait_in_which_only_timers_fire_panics() {
    let (_sim, world, _file) = with_file(1, Model::weak(true));
    start_sleeper(&world);
    while world.host.step() {}
}

#[test]
#[should_panic(expected = "a caller waits on after the crash")]
fn a_wait_that_goes_on_after_the_crash_panics() {
    let (sim, world, _file) = with_file(1, Model::weak(true));
    sim.crash(CrashKind::Power);
    while world.host.step() {}
}

#[test]
fn the_end_of_a_world_drops_its_machines() {
    let (sim, world, _file) = with_file(1, Model::weak(true));
    let gone = start_sleeper(&world);
    sim.pass(Duration::from_secs(10));
    assert!(!gone.load(Ordering::Relaxed));
    sim.set_faults(Faults { crash_at: Some(sim.ops() + 1), ..Faults::default() });
    world.disk.list(dir()).unwrap_err();
    assert!(sim.crashed());
    assert!(world.host.step());
    assert!(gone.load(Ordering::Relaxed));
    sim.crash(CrashKind::Power);

    let world = sim.world();
    let gone = start_sleeper(&world);
    sim.crash(CrashKind::Kill);
    assert!(gone.load(Ordering::Relaxed));

    let gone = start_sleeper(&sim.world());
    drop(sim);
    assert!(gone.load(Ordering::Relaxed), "a world that nobody holds keeps nothing");
}

#[test]
fn after_a_crash_old_handles_are_dead_and_the_disk_opens_again() {
    for seed in 0..50 {
        let (sim, world, file) = with_file(seed, any_model(seed));
        let lock = world.disk.lock(&dir().join("LOCK")).unwrap();
        let mut queue = world.disk.queue(4, &[]).unwrap();
        // The submit is one operation, its completion, which never happens, the second.
        sim.set_faults(Faults { crash_at: Some(sim.ops() + 2), ..Faults::default() });
        queue.submit(write(&file, 0, 7, 1, true));
        let error = queue.reap(&mut Vec::new(), Until::Forever).unwrap_err();
        assert_eq!(error.to_string(), "simulated crash");
        assert!(file.size().is_err() && world.disk.open(Path::new(F), Access::Cached).is_err());
        sim.crash(CrashKind::Power);

        // A second crash, inside what would be recovery.
        let second = sim.world();
        let held = second.disk.lock(&dir().join("LOCK")).unwrap();
        drop(lock);
        assert!(second.disk.is_locked(&dir().join("LOCK")).unwrap(), "not the old one's to drop");
        let again = second.disk.lock(&dir().join("LOCK")).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
        sim.set_faults(Faults { crash_at: Some(sim.ops() + 1), ..Faults::default() });
        second.disk.sync_dir(dir()).unwrap_err();
        sim.crash(CrashKind::Power);

        let (ops, third) = (sim.ops(), sim.world());
        third.disk.lock(&dir().join("LOCK")).unwrap();
        drop(held);
        assert!(world.disk.unlink(Path::new(F)).is_err());
        assert!(second.disk.queue(1, &[]).is_err());
        assert!(queue.reap(&mut Vec::new(), Until::Now).is_err());
        assert_eq!(sim.ops(), ops + 1, "dead handles do nothing");
        assert_eq!(read(&third, Access::Direct).len(), 16 * BLOCK);
    }
}

#[test]
fn every_operation_can_be_the_last_one() {
    let run = |crash_at| {
        let (sim, world, file) = with_file(5, Model::weak(true));
        sim.set_faults(Faults { crash_at, ..Faults::default() });
        let work = || -> io::Result<()> {
            let mut queue = world.disk.queue(4, &[])?;
            one(&mut *queue, write(&file, 0, 7, 1, false))?;
            one(&mut *queue, sync(&file))?;
            world.disk.rename(Path::new(F), &dir().join("g"))?;
            world.disk.sync_dir(dir())
        };
        (work().is_ok(), sim.ops())
    };
    let (done, all) = run(None);
    assert!(done);
    for n in 2..=all {
        assert_eq!(run(Some(n)), (false, n));
    }
}

#[test]
fn the_nth_operation_fails_once_or_for_good() {
    for (fail_on, after) in [(false, true), (true, false)] {
        let (sim, world, file) = with_file(1, Model::weak(true));
        let fail_nth = Some(sim.ops() + 1);
        sim.set_faults(Faults { fail_nth, fail_on, ..Faults::default() });
        let mut queue = world.disk.queue(1, &[]).unwrap();
        one(&mut *queue, write(&file, 0, 7, 1, true)).unwrap_err();
        assert_eq!(one(&mut *queue, write(&file, 0, 7, 1, true)).is_ok(), after);
        assert_eq!(world.disk.list(dir()).is_ok(), after);
    }
}

#[test]
fn a_full_disk_refuses_until_the_last_user_of_a_file_is_gone() {
    let (sim, world, file) = with_file(1, Model::weak(true));
    let unit = BLOCK as u64;
    sim.set_faults(Faults { capacity: Some(20 * unit), ..Faults::default() });
    assert_eq!(world.disk.space(dir()).unwrap(), 4 * unit);
    let full = world.disk.create(&dir().join("g"), 5 * unit).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let mut queue = world.disk.queue(1, &[]).unwrap();
    let full = one(&mut *queue, write(&file, 16, 7, 5, true)).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    world.disk.unlink(Path::new(F)).unwrap();
    assert_eq!((file.links().unwrap(), world.disk.space(dir()).unwrap()), (0, 4 * unit));
    one(&mut *queue, write(&file, 0, 7, 1, true)).unwrap();
    drop((queue, file));
    assert_eq!(world.disk.space(dir()).unwrap(), 20 * unit);
    world.disk.create(&dir().join("g"), 20 * unit).unwrap();
}

#[test]
fn misuse_is_answered_with_an_error() {
    let (_sim, world, file) = with_file(1, Model::weak(true));
    let mut queue = world.disk.queue(1, &[]).unwrap();
    let buf = filled(1, 1);
    let op = Op::Write { file: Arc::clone(&file), at: 512, buf: buf.clone(), dsync: true };
    assert_eq!(one(&mut *queue, op).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let op = Op::Read { file, at: 0, buf: buf.clone() };
    assert_eq!(one(&mut *queue, op).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let reader = world.disk.open(Path::new(F), Access::Direct).unwrap();
    let op = Op::Write { file: reader, at: 0, buf, dsync: true };
    assert_eq!(one(&mut *queue, op).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    for (path, kind) in [
        ("/d/none", io::ErrorKind::NotFound),
        ("/none/f", io::ErrorKind::NotFound),
        ("/d", io::ErrorKind::InvalidInput),
    ] {
        assert_eq!(world.disk.open(Path::new(path), Access::Cached).unwrap_err().kind(), kind);
    }
    let there = world.disk.create(Path::new(F), 0).unwrap_err();
    assert_eq!(there.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn a_directory_lists_files_and_directories_in_order() {
    let (_sim, world, _file) = with_file(1, Model::weak(true));
    world.disk.create_dir(Path::new("/d/a/deep")).unwrap();
    world.disk.create(&dir().join("z"), 5).unwrap();
    world.disk.create_dir(&dir().join("a")).unwrap();
    let list = world.disk.list(dir()).unwrap();
    let list: Vec<_> = list.iter().map(|e| (e.name.as_str(), e.kind, e.size)).collect();
    let size = 16 * BLOCK as u64;
    let expected =
        [("a", EntryKind::Directory, 0), ("f", EntryKind::File, size), ("z", EntryKind::File, 5)];
    assert_eq!(list, expected);
}

#[test]
fn a_request_starts_only_when_its_queue_is_reaped() {
    let (sim, world, file) = with_file(1, Model::weak(true));
    let mut queue = world.disk.queue(1, &[]).unwrap();
    queue.submit(write(&file, 0, 7, 1, true));
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.peek(F).unwrap()[0], 0);
    queue.reap(&mut Vec::new(), Until::Now).unwrap();
    drop(queue);
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.peek(F).unwrap()[0], 7, "what has started lands though its queue is gone");
}

#[test]
fn tests_can_plant_damage_that_survives() {
    let (sim, world, file) = with_file(1, Model::weak(true));
    one(&mut *world.disk.queue(1, &[]).unwrap(), write(&file, 0, 7, 1, false)).unwrap();
    sim.flip(F, 100, 0x80).unwrap();
    sim.poke(F, 5000, b"rot").unwrap();
    for access in [Access::Cached, Access::Direct] {
        let bytes = read(&world, access);
        assert_eq!((bytes[100], &bytes[5000..5003]), (0x87, &b"rot"[..]));
    }
    sim.crash(CrashKind::Power);
    assert_eq!(sim.peek(F).unwrap()[5000..5003], *b"rot");
    assert!([0x80, 0x87].contains(&sim.peek(F).unwrap()[100]));
    assert!(sim.flip(F, 16 * BLOCK as u64, 1).is_err());
    sim.put(F, b"short").unwrap();
    assert_eq!(sim.files(), [(F.into(), 5)]);
}

#[test]
fn a_machine_is_found_by_its_waker_also_in_a_wrapped_queue() {
    struct Wrapped(Box<dyn Queue>);
    impl Queue for Wrapped {
        fn submit(&mut self, op: Op) -> OpId {
            self.0.submit(op)
        }
        fn reap(&mut self, out: &mut Vec<Completion>, until: Until) -> io::Result<()> {
            self.0.reap(out, until)
        }
        fn waker(&self) -> Waker {
            self.0.waker()
        }
        fn release(&mut self, file: &FileRef) {
            self.0.release(file);
        }
        fn in_flight(&self) -> usize {
            self.0.in_flight()
        }
    }
    let (sim, world, file) = with_file(1, Model::weak(true));
    let queue = Box::new(Wrapped(world.disk.queue(2, &[]).unwrap()));
    let machine = FlowMachine::new(|flow| async move {
        flow.write(&file, 0, filled(7, 1), true).await.unwrap();
    });
    let make = move || -> io::Result<(Box<dyn Machine>, Box<dyn Queue>)> {
        Ok((Box::new(machine), queue))
    };
    world.host.start("wrapped", Box::new(make)).unwrap().join();
    assert_eq!(sim.peek(F).unwrap()[0], 7);
}
