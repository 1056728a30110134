//! The ladder and its reasons, as far as one machine can show them.

use super::*;

#[test]
fn what_is_named_is_taken_as_named() {
    let dir = tempfile::tempdir().unwrap();
    for (backend, name) in [(Backend::Pwrite, "pwrite"), (Backend::Mmap, "mmap")] {
        let (disk, report) = open_disk(dir.path(), backend).unwrap();
        assert_eq!((disk.name(), report.name), (name, name));
        assert_eq!((report.reason, report.remedy), (BackendReason::Named, None));
    }
}

#[test]
fn auto_takes_the_ring_or_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("not/yet/there");
    let report = probe(&missing, Backend::Auto).unwrap();
    match report.name {
        "uring" => assert_eq!((report.reason, report.remedy), (BackendReason::Ok, None)),
        name => {
            println!("no io_uring here: {}: {:?}", report.reason, report.remedy);
            assert_eq!(name, "mmap");
            assert!(report.remedy.is_some());
            let refused = probe(&missing, Backend::Uring).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a probe leaves nothing");
}

#[test]
fn through_the_page_cache_a_ring_is_taken_by_name_only() {
    let dir = tempfile::tempdir().unwrap();
    let options = DiskOptions { direct: false, ..DiskOptions::default() };
    let (disk, report) = open_disk(dir.path(), options).unwrap();
    assert_eq!((disk.name(), disk.direct()), ("mmap", false));
    if cfg!(all(target_os = "linux", not(prkdb_portable))) {
        assert_eq!(report.reason, BackendReason::Filesystem);
    }
    assert!(report.remedy.is_some());
}

#[test]
fn a_file_in_the_way_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert_eq!(probe(&file, Backend::Auto).unwrap_err().kind(), ErrorKind::Invalid);
}

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
#[test]
fn a_reason_is_told_from_errno_and_evidence() {
    use BackendReason::{Kernel, Memlock, Policy, Seccomp, Sysctl};
    use nix::libc::{EACCES, EINVAL, ENOMEM, ENOSYS, EPERM};
    const ROOT: &str = "Gid:\t0\t0\t0\t0\nGroups:\t0\nCapEff:\t000001ffffffffff\n";
    const USER: &str = "Gid:\t7\t7\t7\t7\nGroups:\t8 9\nCapEff:\t0000000000000000\n";
    const FILTER: &str = "Seccomp:\t2\n";
    const NO_FILTER: &str = "Seccomp:\t0\n";
    let cases = [
        (EPERM, Some(2), ROOT, NO_FILTER, Sysctl),
        (EPERM, Some(2), USER, FILTER, Sysctl),
        (EPERM, Some(1), USER, NO_FILTER, Sysctl),
        // The switch lets this one pass: somebody else said it.
        (EPERM, Some(1), ROOT, FILTER, Seccomp),
        (EPERM, Some(1), ROOT, NO_FILTER, Policy),
        (EPERM, Some(0), USER, FILTER, Seccomp),
        (EPERM, None, USER, FILTER, Seccomp),
        (EPERM, Some(0), USER, NO_FILTER, Policy),
        (EACCES, Some(2), USER, FILTER, Seccomp),
        (EACCES, Some(0), USER, NO_FILTER, Policy),
        (ENOSYS, Some(0), USER, FILTER, Seccomp),
        (ENOSYS, None, USER, NO_FILTER, Kernel),
        (EINVAL, Some(0), USER, FILTER, Kernel),
        (ENOMEM, Some(0), USER, FILTER, Memlock),
    ];
    for (errno, switch, who, filter, reason) in cases {
        let status = format!("Name:\tx\n{who}{filter}Seccomp_filters:\t1\n");
        let evidence = refusal::Evidence { switch, group: Some(6), status };
        let found = refusal::of_ring(&io::Error::from_raw_os_error(errno), &evidence);
        assert_eq!(found.reason, reason, "errno {errno}: {evidence:?}");
        assert!(!found.remedy.is_empty());
    }
    let member =
        refusal::Evidence { switch: Some(1), group: Some(9), status: format!("{USER}{FILTER}") };
    let found = refusal::of_ring(&io::Error::from_raw_os_error(EPERM), &member);
    assert_eq!(found.reason, Seccomp, "the switch lets its group pass");
    // Nothing is known of this thread: a filter is what hides /proc too.
    let found = refusal::of_ring(&io::Error::from_raw_os_error(EPERM), &Default::default());
    assert_eq!(found.reason, Seccomp);
}
