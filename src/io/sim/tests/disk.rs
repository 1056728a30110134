//! What the simulated disk keeps, loses and shows.

use super::*;

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
