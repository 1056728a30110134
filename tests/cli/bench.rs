//! `prkdb bench`: the figures that are promised, a page that stands alone, nothing left behind.
//!
//! Fast rounds: what is measured here says nothing, how it is told does.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{backends, field_names, json_lines, prkdb};

const FAST: [&str; 4] = ["--rounds", "1", "--seconds", "0.02"];
const FIELDS: &str = "backend workload durability record_bytes batch callers outstanding rounds \
                      records_per_s batches_per_s groups_per_s p50_us p99_us enters_per_group \
                      syscalls_per_group cpu_ns_per_record raw_ratio raw_ratio_low raw_ratio_high";
/// The log and the folder around it, bytes.
const MAX_LOG_BYTES: u64 = 256 << 20;

fn bench(dir: &Path, args: &[&str]) -> Output {
    let all = ["bench", "--dir", dir.to_str().unwrap()];
    prkdb(all.iter().chain(args)).output().unwrap()
}

fn bench_ok(dir: &Path, args: &[&str]) -> (String, String) {
    let output = bench(dir, &[&FAST[..], args].concat());
    let talk = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {talk}");
    assert!(is_empty(dir), "{args:?} left something behind");
    (String::from_utf8(output.stdout).unwrap(), talk)
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

/// Who is to be measured where `dir` is.
fn contestants(dir: &Path) -> Vec<&'static str> {
    let tokio_uring: &[_] = match () {
        #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
        () if prkdb_core::probe(dir, prkdb_core::Backend::TokioUring).is_ok() => &["tokio-uring"],
        () => &[],
    };
    [&["raw"][..], &backends(dir), tokio_uring].concat()
}

fn root() -> tempfile::TempDir {
    // On the disk of the build, not on a file system in memory.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn json_has_a_machine_and_every_field_of_every_contestant() {
    let root = root();
    let workloads =
        ["batch-1000x100-tickets", "single-8", "unsynced-1000x100", "read-back", "read-batches"];
    let named = workloads.iter().flat_map(|name| ["--workload", name]);
    let args: Vec<&str> = ["--json"].into_iter().chain(named).collect();
    let (told, _) = bench_ok(root.path(), &args);
    let (first, lines) = told.split_once('\n').unwrap();
    let fields = "machine device file_system write_cache fua kernel cpus raw_method options";
    assert_eq!(field_names(first).join(" "), fields);
    let contestants = contestants(root.path());
    let values = json_lines(lines.as_bytes());
    assert_eq!(values.len(), workloads.len() * contestants.len());
    let expected =
        workloads.iter().flat_map(|workload| contestants.iter().map(move |who| (workload, who)));
    for ((line, value), (workload, who)) in lines.lines().zip(&values).zip(expected) {
        assert_eq!(field_names(line).join(" "), FIELDS);
        assert_eq!((&value["workload"], &value["backend"]), (&(*workload).into(), &(*who).into()));
        assert_eq!(value["rounds"], 1);
        check_values(value);
    }
}

#[test]
fn another_configuration_is_measured_and_named() {
    let root = root();
    let args = ["--workload", "single-1", "--set", "depth=2", "--set", "spin_us=0"];
    let (told, _) = bench_ok(root.path(), &args);
    assert!(told.lines().next().unwrap().ends_with("; logs: depth=2 spin_us=0"), "{told}");
    let output = bench(root.path(), &["--set", "depth=33"]);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && talk.contains("it must be 1 to 32"), "{talk}");
}

/// What has a meaning is there, what has none is null.
fn check_values(value: &Value) {
    let reading = value["workload"].as_str().is_some_and(|name| name.starts_with("read-"));
    let raw = value["backend"] == "raw";
    assert!(value["records_per_s"].is_f64(), "{value}");
    for field in ["durability", "groups_per_s", "p50_us", "p99_us", "syscalls_per_group"] {
        // Nothing may have been answered in a window as short as this, and what the runtime
        // tokio-uring calls nobody counts.
        let nothing = value["records_per_s"] == 0.0 || value["groups_per_s"] == 0.0;
        let uncounted = field == "syscalls_per_group" && value["backend"] == "tokio-uring";
        assert!(value[field].is_null() == (reading || uncounted) || nothing, "{field} of {value}");
    }
    if raw && value["records_per_s"] != 0.0 {
        assert_eq!(value["raw_ratio"], 1.0, "{value}");
        // An interval needs five rounds.
        assert!(value["raw_ratio_low"].is_null(), "{value}");
    }
    if ["mmap", "pwrite"].iter().any(|name| value["backend"] == *name) {
        assert!(value["enters_per_group"].is_null(), "{value}");
    }
    let (low, high) = (&value["raw_ratio_low"], &value["raw_ratio_high"]);
    assert!(low.as_f64() <= high.as_f64(), "{value}");
}

#[test]
fn the_table_has_every_backend_and_says_what_raw_is() {
    let root = root();
    let (table, _) = bench_ok(root.path(), &["--workload", "single-1", "--workload", "read-back"]);
    for name in ["single-1", "read-back"].iter().chain(&contestants(root.path())) {
        assert!(table.contains(name), "{name} is not in\n{table}");
    }
    let machine = table.lines().next().unwrap();
    assert!(machine.contains("raw loop: "), "{machine}");
    assert!(table.contains("\nraw: "), "{table}");
    // The first line names what there is, however much that is.
    assert!(table.lines().skip(1).all(|line| line.len() <= 120), "{table}");
}

#[test]
fn only_what_was_asked_for_is_measured() {
    let root = root();
    let args = ["--json", "--backend", "pwrite", "--workload", "single-1", "--rounds", "3"];
    let output = bench(root.path(), &[&["--seconds", "0.02"][..], &args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let values = json_lines(&output.stdout);
    let names: Vec<_> =
        values[1..].iter().map(|value| value["backend"].as_str().unwrap()).collect();
    assert_eq!(names, ["raw", "pwrite"]);
    assert!(values[1..].iter().all(|value| value["rounds"] == 3));
}

#[test]
fn the_page_has_three_charts_and_refers_to_nothing_outside() {
    let root = root();
    let page = tempfile::tempdir().unwrap();
    let file = page.path().join("page.html");
    let args = ["--workload", "single-1", "--workload", "single-8", "--html"];
    bench_ok(root.path(), &[&args[..], &[file.to_str().unwrap()]].concat());
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("<svg ").count(), 3, "{text}");
    for name in ["single-8"].iter().chain(&contestants(root.path())) {
        assert!(text.contains(name), "{name} is not in the page");
    }
    let inner = text.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for outside in ["http:", "https:", "<script", "<link", "<img", "@import", "url("] {
        assert!(!inner.contains(outside), "the page has {outside}");
    }
    assert_eq!(fs::read_dir(page.path()).unwrap().count(), 1, "only the page is written");
}

#[test]
fn a_page_that_can_not_be_written_is_told_before_anything_is_measured() {
    let root = root();
    let file = root.path().join("no/such/folder/page.html");
    let output = bench(root.path(), &[&FAST[..], &["--html", file.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("page.html can't be written"));
    assert!(is_empty(root.path()));
    // A device or a link is not replaced by a page.
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    for path in [link.to_str().unwrap(), "/dev/null"] {
        let output = bench(root.path(), &[&FAST[..], &["--html", path]].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no regular file"));
        assert!(!fs::symlink_metadata(path).unwrap().is_file());
    }
}

#[test]
fn bad_usage_names_what_there_is() {
    let root = root();
    for (args, named) in [
        (&["--workload", "nothing"][..], "batch-1000x100-tickets"),
        (&["--backend", "floppy"], "pwrite"),
        (&["--rounds", "0"], "--rounds"),
        (&["--seconds", "0"], "must be a number"),
        (&["--seconds", "NaN"], "must be a number"),
    ] {
        let output = bench(root.path(), args);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {talk}");
        assert!(talk.contains(named), "{talk}");
    }
    assert!(is_empty(root.path()));
}

#[test]
fn a_file_or_nothing_where_the_directory_should_be_is_refused() {
    let root = root();
    let file = root.path().join("file");
    fs::write(&file, "precious").unwrap();
    for dir in [&file, &root.path().join("missing")] {
        let output = bench(dir, &FAST);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{talk}");
        assert!(talk.contains(dir.to_str().unwrap()), "{talk}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn too_little_space_is_told_before_anything_is_written() {
    let Some(mount) = crate::disk::Mount::tmpfs("64m") else { return };
    let output = bench(mount.path(), &FAST);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(talk.contains("is in memory (tmpfs)"), "{talk}");
    assert!(talk.contains("MiB of free space are needed"), "{talk}");
    assert!(is_empty(mount.path()));
}

#[test]
fn a_signal_ends_it_and_nothing_stays() {
    for signal in ["INT", "TERM"] {
        let root = root();
        let dir = root.path().to_str().unwrap();
        let mut child = prkdb(["bench", "--dir", dir, "--rounds", "1000"]).spawn().unwrap();
        // The first line comes when the logs are written already.
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains("raw loop: "), "{line}");
        assert!(!is_empty(root.path()), "it works elsewhere than it says");
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let status = child.wait().unwrap();
        let mut talk = String::new();
        child.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
        assert_eq!(status.code(), Some(1), "{talk}");
        assert!(talk.contains("interrupted"), "{talk}");
        assert!(is_empty(root.path()), "SIG{signal} leaves something behind");
    }
}

#[test]
fn a_log_stays_small_while_it_is_measured() {
    let root = root();
    let dir = root.path().to_str().unwrap();
    let loads = ["--workload", "unsynced-1000x100", "--workload", "batch-1000x100-tickets"];
    let args = ["bench", "--dir", dir, "--rounds", "3", "--seconds", "0.2"];
    let mut child = prkdb(args.iter().chain(&loads)).spawn().unwrap();
    let mut largest = 0;
    let status = loop {
        for folder in folders(root.path()).iter().flat_map(|folder| folders(folder)) {
            largest = largest.max(allocated(&folder));
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(status.success());
    assert!((1 << 20..MAX_LOG_BYTES).contains(&largest), "a log of {largest} bytes");
}

/// The folders in `dir`; none if it is going away.
fn folders(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Bytes of all files below `dir` on the disk.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => allocated(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
