//! Backends by name on the command line.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use prkdb_core::Backend;

/// Every backend of this build and what it is, the first choice first.
const ALL: &[(Backend, &str)] = &[
    (
        Backend::Auto,
        "io_uring where a probe shows that it works, else mapped files, else positional writes",
    ),
    (Backend::Uring, "io_uring or an error"),
    (Backend::Mmap, "mapped files, synced by a few threads"),
    (Backend::Pwrite, "positional writes on a few threads"),
    #[cfg(all(feature = "tokio-uring", target_os = "linux", not(prkdb_portable)))]
    (Backend::TokioUring, "the runtime tokio-uring, for comparison"),
];

/// Those that are one thing.
pub fn all() -> impl Iterator<Item = Backend> {
    ALL.iter().map(|(backend, _)| *backend).filter(|backend| *backend != Backend::Auto)
}

/// Takes the name of a backend, or `auto`.
pub fn any() -> impl TypedValueParser<Value = Backend> {
    parser(ALL)
}

/// Takes the name of a backend that is one thing.
pub fn named() -> impl TypedValueParser<Value = Backend> {
    parser(&ALL[1..])
}

fn parser(known: &'static [(Backend, &str)]) -> impl TypedValueParser<Value = Backend> {
    let value =
        |(backend, help): &(Backend, &'static str)| PossibleValue::new(backend.name()).help(*help);
    let find = |name: String| {
        let found = known.iter().find(|(backend, _)| backend.name() == name);
        found.map(|(backend, _)| *backend).ok_or("no such backend")
    };
    PossibleValuesParser::new(known.iter().map(value)).try_map(find)
}
