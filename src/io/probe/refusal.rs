//! Why io_uring does not work, told from an errno and from what the system says of itself.
//!
//! | errno | evidence | reason |
//! |---|---|---|
//! | EPERM | the switch is 2, or is 1 and does not let this thread pass | sysctl |
//! | EPERM, EACCES | a filter is on this thread | seccomp |
//! | EPERM, EACCES | there is no filter | policy |
//! | ENOSYS | a filter is on this thread | seccomp |
//! | ENOMEM | - | memlock |
//! | else | - | kernel |
//!
//! The switch is the sysctl `kernel.io_uring_disabled`; at 1 it lets pass who has CAP_SYS_ADMIN or
//! is in its group. The evidence is in /proc; where it can't be read, a filter is taken for
//! granted: it hides more often than not behind a container that hides /proc as well.
//! Source: io_uring_setup(2), Documentation/admin-guide/sysctl/kernel.rst, proc_pid_status(5).

use super::BackendReason;

/// Why a backend is not taken, and what would help.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: BackendReason,
    pub(super) remedy: String,
}

impl Refusal {
    pub(super) fn new(reason: BackendReason, remedy: impl Into<String>) -> Refusal {
        Refusal { reason, remedy: remedy.into() }
    }
}

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
pub(super) use linux::{Evidence, of_ring};

#[cfg(all(target_os = "linux", not(prkdb_portable)))]
mod linux {
    use std::fs;
    use std::io;

    use nix::libc;

    use super::{BackendReason, Refusal};

    /// The bit of CAP_SYS_ADMIN.
    const ADMIN: u64 = 1 << 21;

    /// What the system says of itself and of the calling thread.
    #[derive(Clone, Debug, Default)]
    pub(in crate::io::probe) struct Evidence {
        /// `kernel.io_uring_disabled`; none where the kernel has no such switch.
        pub(in crate::io::probe) switch: Option<u32>,
        /// `kernel.io_uring_group`: who may use it although the switch is 1.
        pub(in crate::io::probe) group: Option<u32>,
        /// This thread's status, as /proc gives it; empty where it gives none.
        pub(in crate::io::probe) status: String,
    }

    impl Evidence {
        pub(in crate::io::probe) fn gather() -> Evidence {
            let number = |name: &str| {
                let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
                text.trim().parse().ok()
            };
            let status = fs::read_to_string("/proc/thread-self/status")
                .or_else(|_| fs::read_to_string("/proc/self/status"));
            Evidence {
                switch: number("io_uring_disabled"),
                group: number("io_uring_group"),
                status: status.unwrap_or_default(),
            }
        }

        fn field(&self, name: &str) -> Option<&str> {
            let line = self.status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(':')).map(str::trim)
        }

        fn is_filtered(&self) -> bool {
            self.field("Seccomp").is_none_or(|mode| mode != "0")
        }

        /// Whether the switch in its middle position lets this thread pass.
        fn is_exempt(&self) -> bool {
            let caps = self.field("CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok());
            let ids = ["Gid", "Groups"].into_iter().filter_map(|name| self.field(name));
            let mut groups = ids.flat_map(str::split_whitespace).map(str::parse::<u32>);
            let in_group = self.group.is_some_and(|id| groups.any(|other| other == Ok(id)));
            caps.is_some_and(|caps| caps & ADMIN != 0) || in_group
        }

        fn is_switched_off(&self) -> bool {
            match self.switch {
                Some(0) | None => false,
                Some(1) => !self.is_exempt(),
                Some(_) => true,
            }
        }
    }

    /// What `e`, said by the kernel to a ring, means.
    pub(in crate::io::probe) fn of_ring(e: &io::Error, evidence: &Evidence) -> Refusal {
        let reason = match e.raw_os_error() {
            Some(libc::EPERM) if evidence.is_switched_off() => BackendReason::Sysctl,
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) if evidence.is_filtered() => {
                BackendReason::Seccomp
            }
            Some(libc::EPERM | libc::EACCES) => BackendReason::Policy,
            Some(libc::ENOMEM) => BackendReason::Memlock,
            _ => BackendReason::Kernel,
        };
        Refusal { reason, remedy: remedy(reason, e, evidence) }
    }

    fn remedy(reason: BackendReason, e: &io::Error, evidence: &Evidence) -> String {
        match reason {
            BackendReason::Sysctl if evidence.switch == Some(1) => {
                "set the sysctl kernel.io_uring_disabled to 0, or kernel.io_uring_group to a group \
                 of this user"
                    .into()
            }
            BackendReason::Sysctl => "set the sysctl kernel.io_uring_disabled to 0".into(),
            BackendReason::Seccomp => "allow io_uring_setup, io_uring_enter and \
                io_uring_register in the seccomp profile of the container or service"
                .into(),
            BackendReason::Policy => {
                format!("allow io_uring in the security module's policy (the kernel said: {e})")
            }
            BackendReason::Memlock => {
                "raise the limit on locked memory (ulimit -l) or the container's memory".into()
            }
            _ => format!("run Linux 5.11 or newer with io_uring built in (the kernel said: {e})"),
        }
    }
}
