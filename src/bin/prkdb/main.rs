//! The command `prkdb`: write, read, check, mend, describe and measure a log from the shell.
//!
//! ```text
//! stdin --lines--> append --> log directory --> cat --records--> stdout
//!                                 |-----------> verify --findings--> stdout
//!                                 |-----------> stat --figures--> stdout
//!                                 `--damaged--> repair --what is whole--> log directory
//!                  bench --every backend, the raw loop--> figures --> stdout, page
//! ```
//!
//! Stdout is data, stderr is talk. Exit status: 0 done, 1 damage found or the operation failed,
//! 2 bad usage. It stands on the library's public face alone.

mod append;
mod backend;
mod bench;
mod cat;
mod feed;
mod json;
mod outcome;
mod progress;
mod repair;
mod stat;
mod verify;
#[path = "../../../benches/yardstick/mod.rs"]
mod yardstick;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A write-ahead log from the shell: stdout is data, stderr is talk.
#[derive(Parser)]
#[command(name = "prkdb", version, max_term_width = 100)]
#[command(after_help = "Exit status: 0 done, 1 damage found or the operation failed, 2 bad usage.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Append(append::Args),
    Cat(cat::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Stat(stat::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .without_time()
        .with_target(false)
        .init();
    match cli.command {
        Command::Append(args) => outcome::finish("append", append::run(&args)),
        Command::Cat(args) => outcome::finish("cat", cat::run(&args)),
        Command::Verify(args) => outcome::finish("verify", verify::run(&args)),
        Command::Repair(args) => outcome::finish("repair", repair::run(&args)),
        Command::Stat(args) => outcome::finish("stat", stat::run(&args)),
        Command::Bench(args) => outcome::finish("bench", bench::run(&args)),
    }
}
