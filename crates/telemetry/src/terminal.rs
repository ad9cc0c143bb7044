//! The terminal, shared by log lines and the progress line so that neither garbles the other.

use std::io::{self, IsTerminal, Write};

use indicatif::MultiProgress;
use tracing_subscriber::fmt::MakeWriter;

/// Standard error, with a place at the bottom for a progress line. Clones are the same terminal.
#[derive(Debug, Clone)]
pub struct Terminal {
    bars: MultiProgress,
    interactive: bool,
}

impl Terminal {
    /// Standard error as it is: a terminal with a person before it, or a file or pipe.
    pub fn stderr() -> Self {
        Self { bars: MultiProgress::new(), interactive: io::stderr().is_terminal() }
    }

    /// Whether lines can be drawn over.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// What draws at the bottom.
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Prints a line above the progress line. A closed standard error is ignored.
    pub fn print(&self, line: &str) {
        let _ = TerminalWriter(self.clone()).write_all(format!("{line}\n").as_bytes());
    }
}

/// Writes above the progress line; what cannot be written is lost.
#[derive(Debug)]
pub struct TerminalWriter(Terminal);

impl Write for TerminalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All at once: what is half written when the bar is drawn again would be overwritten. Whoever reads may be
        // gone, or the disk full; tracing would panic at that, and a run must outlive its log.
        let _ = self.0.bars.suspend(|| io::stderr().lock().write_all(bytes));
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
