//! How the simulated world runs: machines, order, time, crashes, faults.

use super::*;
use crate::io::wrapped::Wrapped;

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
    let (sim, world, file) = with_file(1, Model::weak(true));
    let queue = world.disk.queue(2, &[]).unwrap();
    let queue = Box::new(Wrapped { queue, late: Duration::ZERO });
    let machine = FlowMachine::new(|flow| async move {
        flow.write(&file, 0, filled(7, 1), true).await.unwrap();
    });
    let make = move || -> io::Result<(Box<dyn Machine>, Box<dyn Queue>)> {
        Ok((Box::new(machine), queue))
    };
    world.host.start("wrapped", Box::new(make)).unwrap().join();
    assert_eq!(sim.peek(F).unwrap()[0], 7);
}
