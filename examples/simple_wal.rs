//! Appends, waits, reads back, truncates: the whole life of a record in one page.
//!
//! Run with `cargo run --example simple_wal [DIR]`.

use prkdb_core::{Durability, Lsn, Wal, WalConfig};

fn main() -> prkdb_core::Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/simple-wal".into());
    let wal = Wal::open(WalConfig::new(&dir))?;
    println!("{dir}: written with {}, next record {}", wal.backend().name, wal.next_lsn());

    // One batch lives or dies as a whole. The ticket answers when it survives power loss.
    let pair = wal.append_batch(["debit alice 5", "credit bob 5"])?.wait()?;
    println!("records {} to {} are durable", pair.first(), pair.last());

    // Many tickets outstanding: the writer groups their batches into few writes.
    let tickets = (0..100).map(|i| wal.append_batch([format!("event {i}")]));
    let tickets = tickets.collect::<Result<Vec<_>, _>>()?;
    for ticket in tickets {
        ticket.wait()?;
    }
    println!("100 more batches took {} groups", wal.metrics().groups - 1);

    // Weaker and faster: answered when the place is reserved; durable when one asks for it.
    let last = wal.with(Durability::Queued).append_batch(["a metric"])?.wait()?.last();
    wal.wait_durable(last)?.wait()?;

    let count = wal.reader(wal.first_lsn())?.count();
    println!("{count} records from {} to {}", wal.first_lsn(), wal.durable_lsn());
    println!("record {} is {:?}", pair.first(), wal.read(pair.first())?.data);

    // What a checkpoint made superfluous can go.
    wal.truncate_before(Lsn::new(last.get().saturating_sub(10)).max(wal.first_lsn()))?;
    println!("the log now starts at {}", wal.first_lsn());
    wal.close()
}
