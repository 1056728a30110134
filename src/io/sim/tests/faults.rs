//! Faults that were asked for by name: cancelled, misdirected, stale and rotten; disks that lie.

use super::*;

fn with_faults(seed: u64, faults: Faults) -> (Sim, World, FileRef, Box<dyn Queue>) {
    let (sim, world, file) = with_file(seed, Model::weak(true));
    let queue = world.disk.queue(4, &[]).unwrap();
    sim.set_faults(faults);
    (sim, world, file, queue)
}

#[test]
fn a_cancelled_sync_is_a_plain_one_a_moment_later() {
    let mut later = 0;
    for seed in 0..50 {
        let (sim, _world, file, mut queue) = with_faults(seed, Faults::default());
        one(&mut *queue, write(&file, 0, 7, 4, false)).unwrap();
        let before = sim.ops();
        sim.set_faults(Faults { canceled: 500, ..Faults::default() });
        assert_eq!(one(&mut *queue, sync(&file)).unwrap(), 0);
        later += sim.ops() - before - 2;
        sim.crash(CrashKind::Power);
        assert_eq!(survivors(&sim, 7), 32);
    }
    assert!((10..40).contains(&later), "{later} of 50 were cancelled");
}

#[test]
fn a_cancelled_write_did_nothing() {
    let faults = Faults { canceled: 1000, ..Faults::default() };
    let (sim, _world, file, mut queue) = with_faults(1, faults);
    let e = one(&mut *queue, write(&file, 0, 7, 4, true)).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::ECANCELED));
    assert_eq!(survivors(&sim, 7), 0);
}

#[test]
fn space_quota_and_size_have_their_own_errors() {
    let full = |faults: Faults, write_fails: bool, kinds: &[io::ErrorKind]| {
        for seed in 0..20 {
            let (sim, world, file, mut queue) = with_faults(seed, faults.clone());
            let created = world.disk.create(&dir().join("g"), 4096).map(drop);
            let written = one(&mut *queue, write(&file, 0, 7, 4, true)).map(drop);
            assert_eq!(written.is_err(), write_fails);
            for e in [created.err(), written.err()].into_iter().flatten() {
                assert!(kinds.contains(&e.kind()), "{e:?}");
            }
            sim.set_faults(Faults::default());
            one(&mut *queue, write(&file, 0, 7, 4, true)).unwrap();
        }
    };
    let (space, quota) = (io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded);
    full(Faults { enospc: 1000, ..Faults::default() }, false, &[space]);
    full(Faults { edquot: 1000, ..Faults::default() }, false, &[quota]);
    full(Faults { write_full: 1000, ..Faults::default() }, true, &[space, quota]);
    full(Faults { efbig: 1000, ..Faults::default() }, true, &[io::ErrorKind::FileTooLarge]);
}

#[test]
fn the_nth_operation_fails_as_it_was_told() {
    for (failure, errno) in [
        (Failure::Full, libc::ENOSPC),
        (Failure::Quota, libc::EDQUOT),
        (Failure::TooLarge, libc::EFBIG),
        (Failure::Canceled, libc::ECANCELED),
    ] {
        let (sim, world, file, mut queue) = with_faults(1, Faults::default());
        let (fail_nth, fail_on) = (Some(sim.ops() + 1), true);
        sim.set_faults(Faults { fail_nth, fail_on, fail_as: failure, ..Faults::default() });
        let outcomes = [
            one(&mut *queue, write(&file, 0, 7, 1, true)).map(drop),
            one(&mut *queue, sync(&file)).map(drop),
            world.disk.sync_dir(dir()),
            world.disk.unlink(Path::new(F)),
        ];
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().raw_os_error(), Some(errno));
        }
    }
}

#[test]
fn a_misdirected_write_is_acknowledged_and_lands_elsewhere() {
    let mut elsewhere = 0;
    for seed in 0..100 {
        let faults = Faults { misdirected_write: 1000, ..Faults::default() };
        let (sim, _world, file, mut queue) = with_faults(seed, faults);
        sim.put("/d/g", &[0; 16 * BLOCK]).unwrap();
        assert_eq!(one(&mut *queue, write(&file, 2, 7, 1, true)).unwrap(), BLOCK);
        sim.crash(CrashKind::Power);
        let files = ["/d/f", "/d/g"].map(|path| sim.peek(path).unwrap());
        let right = files[0][2 * BLOCK] == 7;
        assert_eq!(right, sim.corruptions() == 0);
        let blocks = files.iter().flat_map(|bytes| bytes.chunks(BLOCK));
        assert_eq!(blocks.filter(|block| block[0] == 7).count(), 1, "durable, in one place");
        elsewhere += u64::from(!right);
    }
    assert!(elsewhere > 50);
}

#[test]
fn a_misdirected_read_gives_another_block_once() {
    let mut wrong = 0;
    for seed in 0..100 {
        let faults = Faults { misdirected_read: 1000, ..Faults::default() };
        let (sim, world, _file, _queue) = with_faults(seed, faults);
        let bytes: Vec<u8> = (0..16).flat_map(|i| [i; BLOCK]).collect();
        sim.poke(F, 0, &bytes).unwrap();
        let got = read(&world, Access::Direct);
        let differ = got.iter().zip(&bytes).filter(|(a, b)| a != b).count();
        assert_eq!(differ, BLOCK * usize::from(sim.corruptions() == 1));
        wrong += sim.corruptions();
        assert_eq!(sim.peek(F).unwrap(), bytes, "the media is as it was");
    }
    assert!(wrong > 50);
}

#[test]
fn a_stale_read_gives_what_was_there_before_the_last_sync() {
    let (mut old, mut parts) = (0, 0);
    for seed in 0..100 {
        let (sim, world, file, mut queue) = with_faults(seed, Faults::default());
        for fill in [1, 2, 3] {
            one(&mut *queue, write(&file, 0, fill, 16, fill == 2)).unwrap();
            one(&mut *queue, sync(&file)).unwrap();
        }
        sim.set_faults(Faults { stale_read: 1000, ..Faults::default() });
        let got = read(&world, Access::Direct);
        let stale = got.chunks(512).filter(|sector| **sector == [2; 512]).count();
        let right = got.chunks(512).filter(|sector| **sector == [3; 512]).count();
        assert_eq!(stale + right, 16 * 8);
        assert_eq!(sim.corruptions(), u64::from(stale > 0));
        old += usize::from(stale == 8);
        parts += usize::from((1..8).contains(&stale));
    }
    assert!(old > 0 && parts > 0, "{old} whole, {parts} in part");
}

#[test]
fn rot_turns_one_bit_of_what_is_durable() {
    let mut rotten = 0;
    for seed in 0..50 {
        let (sim, _world, file, mut queue) = with_faults(seed, Faults::default());
        one(&mut *queue, write(&file, 0, 7, 16, true)).unwrap();
        sim.set_faults(Faults { rot: 1000, ..Faults::default() });
        one(&mut *queue, sync(&file)).unwrap();
        let bytes = sim.peek(F).unwrap();
        let bits: u32 = bytes.iter().map(|b| (b ^ 7).count_ones()).sum();
        assert_eq!(u64::from(bits), sim.corruptions());
        rotten += bits;
    }
    assert!(rotten > 25, "{rotten}");
}

#[test]
fn a_lying_disk_loses_what_it_acknowledged_but_not_to_a_kill() {
    let (mut kept, mut lost, mut named) = (0, 0, 0);
    for seed in 0..200 {
        for kind in [CrashKind::Kill, CrashKind::Power] {
            let (sim, world, file) = with_file(seed, Model::lying(true));
            let mut queue = world.disk.queue(4, &[]).unwrap();
            one(&mut *queue, write(&file, 0, 7, 2, true)).unwrap();
            one(&mut *queue, write(&file, 2, 7, 2, false)).unwrap();
            one(&mut *queue, sync(&file)).unwrap();
            world.disk.create(&dir().join("g"), 0).unwrap();
            world.disk.sync_dir(dir()).unwrap();
            sim.crash(kind);
            match (kind, survivors(&sim, 7)) {
                (CrashKind::Kill, n) => assert_eq!(n, 32),
                (CrashKind::Power, 32) => kept += 1,
                (CrashKind::Power, _) => lost += 1,
            }
            named += sim.files().len() - 1;
        }
    }
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
    assert!((200..400).contains(&named), "{named} of 400 names were kept");
}

#[test]
fn all_outcomes_of_a_power_cut_can_be_gone_through() {
    let mut seen = std::collections::BTreeSet::new();
    let mut path: Vec<bool> = Vec::new();
    loop {
        let (sim, world, file) = with_file(1, Model::weak(true));
        let mut queue = world.disk.queue(4, &[]).unwrap();
        let mut buf = Buf::zeroed(BLOCK, BLOCK);
        let bytes = buf.bytes_mut().unwrap();
        (bytes[0], bytes[1024]) = (1, 1);
        let op = Op::Write { file: Arc::clone(&file), at: 0, buf, dsync: false };
        one(&mut *queue, op).unwrap();
        world.disk.create(&dir().join("g"), 0).unwrap();
        let mut asked = 0;
        sim.cut_power(|| {
            asked += 1;
            if path.len() < asked {
                path.push(false);
            }
            path[asked - 1]
        });
        let bytes = sim.peek(F).unwrap();
        seen.insert((bytes[0], bytes[512], bytes[1024], sim.files().len()));
        assert_eq!(asked, 3, "two sectors that are no longer zeros, and a name");
        while path.pop_if(|kept| *kept).is_some() {}
        match path.last_mut() {
            Some(kept) => *kept = true,
            None => break,
        }
    }
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(|(_, untouched, ..)| *untouched == 0));
}

#[test]
fn a_change_of_names_that_failed_may_have_happened() {
    let mut done = 0;
    for seed in 0..100 {
        let (sim, world, _file, _queue) = with_faults(seed, Faults::default());
        // By rate or by number, and EIO alone.
        let faults = match seed % 2 {
            0 => Faults { names_eio: 1000, ..Faults::default() },
            _ => Faults { fail_nth: Some(sim.ops() + 1), ..Faults::default() },
        };
        sim.set_faults(faults);
        world.disk.rename(Path::new(F), &dir().join("g")).unwrap_err();
        let names: Vec<_> = sim.files().into_iter().map(|(path, _)| path).collect();
        assert_eq!(names.len(), 1, "one name or the other");
        done += u64::from(names[0].ends_with("g"));
        assert_eq!(sim.met().count(FaultClass::WriteFailed), 1);
        let fail_as = Failure::Full;
        sim.set_faults(Faults { fail_nth: Some(sim.ops() + 1), fail_as, ..Faults::default() });
        world.disk.unlink(&names[0]).unwrap_err();
        assert_eq!(sim.files().len(), 1, "for want of space nothing is done");
    }
    assert!((25..75).contains(&done), "{done} of 100 were renamed");
}

#[test]
fn a_queue_that_breaks_answers_nothing_and_may_have_done_it() {
    let mut landed = [0; 3];
    for seed in 0..90 {
        let (sim, world, file, mut queue) = with_faults(seed, Faults::default());
        sim.set_faults(Faults { break_at: Some(sim.ops() + 1), ..Faults::default() });
        queue.submit(write(&file, 0, 7, 2, false));
        let mut out = Vec::new();
        queue.reap(&mut out, Until::Forever).unwrap_err();
        queue.submit(write(&file, 4, 7, 2, false));
        queue.reap(&mut out, Until::Now).unwrap_err();
        assert!(out.is_empty(), "what is in flight is never answered");
        assert_eq!(sim.held().requests, 0);
        assert_eq!(sim.faults().break_at, None, "once");
        // Another one works, and its syncs cover what was done.
        let done = survivors(&sim, 7);
        let mut other = world.disk.queue(4, &[]).unwrap();
        one(&mut *other, sync(&file)).unwrap();
        sim.crash(CrashKind::Power);
        assert_eq!(survivors(&sim, 7), done);
        landed[usize::from(done > 0) + usize::from(done == 16)] += 1;
    }
    assert!(landed.iter().all(|count| *count > 3), "{landed:?}: nothing, a part, all");
}

#[test]
fn a_fault_that_made_no_difference_is_not_counted() {
    let (sim, _world, file, mut queue) = with_faults(1, Faults::default());
    one(&mut *queue, write(&file, 0, 7, 4, true)).unwrap();
    let before = sim.met();
    sim.crash(CrashKind::Power);
    assert_eq!(sim.met(), before, "all was durable, and nothing ran");
    let (mut lost, mut torn, mut reordered) = (0, 0, 0);
    for seed in 0..100 {
        let (sim, _world, file, mut queue) = with_faults(seed, Faults::default());
        one(&mut *queue, write(&file, 0, 7, 1, false)).unwrap();
        one(&mut *queue, write(&file, 1, 7, 1, false)).unwrap();
        sim.crash(CrashKind::Power);
        let bytes = sim.peek(F).unwrap();
        let kept = |block: &[u8]| block.chunks(512).filter(|sector| sector[0] == 7).count();
        let kept = [kept(&bytes[..BLOCK]), kept(&bytes[BLOCK..2 * BLOCK])];
        let met = sim.met();
        let count = |counts: &dyn Fn(usize) -> bool| kept.iter().filter(|n| counts(**n)).count();
        assert_eq!(met.count(FaultClass::Lost), count(&|n| n == 0) as u64);
        assert_eq!(met.count(FaultClass::Torn), count(&|n| n > 0 && n < 8) as u64);
        assert_eq!(met.count(FaultClass::Reordered), u64::from(kept[0] < 8 && kept[1] > 0));
        lost += met.count(FaultClass::Lost);
        torn += met.count(FaultClass::Torn);
        reordered += met.count(FaultClass::Reordered);
    }
    assert!(lost > 10 && torn > 10 && reordered > 10, "{lost}, {torn}, {reordered}");
}
