//! The promises of the simulation, one by one: `disk` and `world`, and what both need.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::io::{Access, Buf, Completion, FileRef, FlowMachine, Machine, Next, Op, OpId, Queue};
use crate::io::{EntryKind, Until, block_on};

mod disk;
mod faults;
mod world;

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
