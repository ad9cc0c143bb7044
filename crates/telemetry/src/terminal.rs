//! The terminal, shared by log lines and the progress line so that they do not overwrite each other.

use std::io::{self, IsTerminal, Write};
#[cfg(test)]
use std::sync::{Arc, Mutex};

use indicatif::MultiProgress;
use tracing_subscriber::fmt::MakeWriter;

/// Standard error, with room for a progress line at the bottom. Clones share the same output.
#[derive(Debug, Clone)]
pub struct Terminal {
    bars: MultiProgress,
    interactive: bool,
    output: Output,
}

#[derive(Debug, Clone)]
enum Output {
    Stderr,
    #[cfg(test)]
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Output {
    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(bytes),
            #[cfg(test)]
            Self::Memory(written) => written.lock().map_err(|_| io::ErrorKind::Other)?.write_all(bytes),
        }
    }
}

impl Terminal {
    /// Returns the standard error of this process, which is a terminal, a file or a pipe.
    pub fn stderr() -> Self {
        Self { bars: MultiProgress::new(), interactive: io::stderr().is_terminal(), output: Output::Stderr }
    }

    /// Returns a terminal that keeps what is printed, and the bytes that it keeps.
    #[cfg(test)]
    pub(super) fn in_memory(interactive: bool) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::default();
        (Self { bars: MultiProgress::new(), interactive, output: Output::Memory(Arc::clone(&written)) }, written)
    }

    /// Returns whether the output is a terminal, on which lines can be redrawn.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Returns the bars at the bottom of the terminal.
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Prints a line above the progress line. Failures are ignored, for example a closed standard error.
    pub fn print(&self, line: &str) {
        let _ = TerminalWriter(self.clone()).write_all(format!("{line}\n").as_bytes());
    }
}

/// Writes above the progress line. Output that cannot be written is lost.
#[derive(Debug)]
pub struct TerminalWriter(Terminal);

impl Write for TerminalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All bytes are written before the bar is drawn again, because the bar would overwrite half a line. The error
        // is ignored because tracing panics on it, and a run must survive a closed pipe or a full disk.
        let _ = self.0.bars.suspend(|| self.0.output.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Terminal {
    type Writer = TerminalWriter;

    fn make_writer(&self) -> TerminalWriter {
        TerminalWriter(self.clone())
    }
}
