//! What `prkdb bench` runs, compiled in by path: workloads, logs that are kept small, raw loops.

#[allow(dead_code, reason = "shared")]
#[path = "../../src/bin/prkdb/bench/load.rs"]
pub mod load;
#[allow(dead_code, reason = "shared")]
#[path = "../../src/bin/prkdb/bench/log.rs"]
pub mod log;
#[path = "../../src/bin/prkdb/bench/reading.rs"]
pub mod reading;
#[allow(dead_code, unused_imports, reason = "shared, with its tests")]
#[path = "../../src/bin/prkdb/bench/workload.rs"]
pub mod workload;
