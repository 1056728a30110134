//! What the library says to the log of the program it is in.

use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `run` causes on this thread: level, where from, what.
pub fn heard(run: impl FnOnce()) -> String {
    let lines = Lines::default();
    let make = {
        let lines = lines.clone();
        move || lines.clone()
    };
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(make).finish();
    tracing::subscriber::with_default(subscriber, run);
    let said = lines.0.lock().unwrap().clone();
    String::from_utf8(said).unwrap()
}
