//! What becomes of names and sizes that nobody synced: whether the simulator's disks are like this.
//!
//! ```text
//! create, rename, unlink in two directories; now and then fsync of one of them
//!   cut: the names that are there are those after the first k calls, k not less than what was
//!        called before the last fsync that had returned
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::recorder::{Kind, Recorder};
use crate::support::Random;
use crate::support::watchdog::Watchdog;

const DIRECTORIES: [&str; 2] = ["a", "b"];
const CALLS: usize = 60;
const SIZE: usize = 6000;

/// One change of a name.
#[derive(Clone)]
enum Call {
    Create(String),
    Rename(String, String),
    Unlink(String),
}

#[derive(Default)]
struct Told {
    calls: Vec<Call>,
    /// Position before each call.
    begun: Vec<u64>,
    /// Position after an fsync, and how many calls came before it.
    synced: Vec<(u64, usize)>,
    /// The end of the recording that counts.
    end: u64,
}

/// What was found over all images.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub images: u64,
    /// Unsynced calls whose change survived, and which were lost.
    pub survived: u64,
    pub lost: u64,
    /// Images whose names are those of no moment; or of one before the last fsync.
    pub out_of_order: u64,
    pub too_old: u64,
    /// Files by their size: none; all of it; all of it, some or all of it zeros; all of it, and
    /// bytes that nobody wrote; a part.
    pub empty: u64,
    pub whole: u64,
    pub zeros: u64,
    pub foreign: u64,
    pub partial: u64,
}

impl Call {
    fn make(&self, root: &Path) {
        match self {
            Call::Create(name) => {
                File::create(root.join(name)).unwrap().write_all(&[b'x'; SIZE]).unwrap();
            }
            Call::Rename(from, to) => fs::rename(root.join(from), root.join(to)).unwrap(),
            Call::Unlink(name) => fs::remove_file(root.join(name)).unwrap(),
        }
    }

    fn apply(&self, names: &mut BTreeSet<String>) {
        match self {
            Call::Create(name) => drop(names.insert(name.clone())),
            Call::Unlink(name) => drop(names.remove(name)),
            Call::Rename(from, to) => {
                names.remove(from);
                names.insert(to.clone());
            }
        }
    }

    fn draw(number: usize, names: &BTreeSet<String>, random: &mut Random) -> Call {
        let directory = DIRECTORIES[usize::try_from(random.below(2)).unwrap()];
        let old = names.iter().nth(usize::try_from(random.below(8)).unwrap()).cloned();
        match (random.below(3), old) {
            (0, Some(old)) => Call::Rename(old, format!("{directory}/{number}")),
            (1, Some(old)) if random.below(2) == 0 => Call::Unlink(old),
            _ => Call::Create(format!("{directory}/{number}")),
        }
    }
}

fn use_names(recorder: &Recorder, kind: Kind, random: &mut Random) -> Told {
    let disk = recorder.mount(0, kind).expect("it was mounted before");
    let root = disk.path();
    for directory in DIRECTORIES {
        fs::create_dir(root.join(directory)).unwrap();
        File::open(root.join(directory)).unwrap().sync_all().unwrap();
    }
    File::open(root).unwrap().sync_all().unwrap();
    let mut told = Told::default();
    told.synced.push((recorder.position(0), 0));
    let mut names = BTreeSet::new();
    for number in 0..CALLS {
        let call = Call::draw(number, &names, random);
        told.begun.push(recorder.position(0));
        call.make(root);
        call.apply(&mut names);
        told.calls.push(call);
        if random.below(12) == 0 {
            let directory = DIRECTORIES[usize::try_from(random.below(2)).unwrap()];
            File::open(root.join(directory)).unwrap().sync_all().unwrap();
            told.synced.push((recorder.position(0), number + 1));
        }
    }
    disk.unmount();
    told.end = recorder.position(0);
    told
}

impl Outcomes {
    fn look(&mut self, root: &Path, told: &Told, position: u64) {
        let mut found = BTreeSet::new();
        for directory in DIRECTORIES {
            for entry in fs::read_dir(root.join(directory)).unwrap() {
                let entry = entry.unwrap();
                found.insert(format!("{directory}/{}", entry.file_name().to_str().unwrap()));
                let bytes = fs::read(entry.path()).unwrap();
                match bytes.len() {
                    0 => self.empty += 1,
                    SIZE if bytes.iter().all(|byte| *byte == b'x') => self.whole += 1,
                    SIZE if bytes.iter().all(|byte| matches!(byte, 0 | b'x')) => self.zeros += 1,
                    SIZE => self.foreign += 1,
                    _ => self.partial += 1,
                }
            }
        }
        let begun = told.begun.iter().filter(|begun| **begun <= position).count();
        let synced = told.synced.iter().filter(|(done, _)| *done <= position);
        let synced = synced.map(|(_, calls)| *calls).max().unwrap();
        let mut names = BTreeSet::new();
        let mut moments = Vec::new();
        for made in 0..=begun {
            if names == found {
                moments.push(made);
            }
            if let Some(call) = told.calls.get(made) {
                call.apply(&mut names);
            }
        }
        self.images += 1;
        match moments.last() {
            None => self.out_of_order += 1,
            Some(last) if *last < synced => self.too_old += 1,
            Some(last) => {
                self.survived += (last - synced) as u64;
                self.lost += (begun - last) as u64;
            }
        }
    }
}

/// Cuts `count` images; none if this machine can't.
pub fn outcomes(
    recorder: &Recorder,
    watchdog: &Watchdog,
    kind: Kind,
    count: u64,
    random: &mut Random,
) -> Option<Outcomes> {
    let mut outcomes = Outcomes::default();
    while outcomes.images < count {
        let base = recorder.make(kind)?;
        recorder.load(&base);
        recorder.mount(0, kind)?.unmount();
        watchdog.step(format_args!("{kind:?}: names"));
        let told = use_names(recorder, kind, random);
        for _ in 0..10 {
            let first = told.synced[0].0;
            let position = first + random.below(told.end - first + 1);
            let (unit, seed) = (kind.unit(random), random.next());
            watchdog.step(format_args!("{kind:?}: names at {position}, seed {seed}"));
            recorder.cut(0, 1, position, unit, seed);
            let disk = recorder.mount(1, kind).expect("a journal that can be replayed");
            outcomes.look(disk.path(), &told, position);
            disk.unmount();
        }
    }
    Some(outcomes)
}
