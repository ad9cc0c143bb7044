//! The terminal, shared by log lines and the progress line so that they do not overwrite each other.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use admiral_contract::StandardError;
use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
use tracing_subscriber::fmt::MakeWriter;

/// The bars are drawn again at most this often.
const REDRAWS_PER_SECOND: u8 = 20;

/// Standard error, with room for a progress line at the bottom. Clones share the same output.
#[derive(Debug, Clone)]
pub struct Terminal {
    bars: MultiProgress,
    interactive: bool,
    output: Output,
}

#[derive(Debug, Clone)]
enum Output {
    Stderr(Arc<StandardError>),
    #[cfg(test)]
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Output {
    fn write(&self, bytes: &[u8]) {
        match self {
            Self::Stderr(stderr) => stderr.write(bytes),
            #[cfg(test)]
            Self::Memory(written) => written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes),
        }
    }
}

impl Terminal {
    /// Returns the standard error of this process, which is a terminal, a file or a pipe.
    pub fn stderr() -> Self {
        let (stderr, interactive) = (Arc::new(StandardError::of_process()), io::stderr().is_terminal());
        let target = if interactive {
            let screen = Screen { stderr: Arc::clone(&stderr), text: Mutex::default() };
            ProgressDrawTarget::term_like_with_hz(Box::new(screen), REDRAWS_PER_SECOND)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { bars: MultiProgress::with_draw_target(target), interactive, output: Output::Stderr(stderr) }
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

/// The terminal for the bars. What they draw is lost if the terminal takes nothing: they draw it again.
#[derive(Debug)]
struct Screen {
    stderr: Arc<StandardError>,
    /// What is drawn with the next flush.
    text: Mutex<String>,
}

impl Screen {
    fn append(&self, text: &str) -> io::Result<()> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// Appends a control sequence that moves the cursor `count` times (ECMA-48, CUU to CUB).
    fn move_cursor(&self, count: usize, direction: char) -> io::Result<()> {
        // A count of 0 would move once.
        if count == 0 { Ok(()) } else { self.append(&format!("\x1b[{count}{direction}")) }
    }

    /// Returns the rows and columns of the terminal, or those of most terminals.
    fn size() -> (u16, u16) {
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        size.map_or((24, 80), |size| (size.ws_row, size.ws_col))
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        Self::size().1
    }

    fn height(&self) -> u16 {
        Self::size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'D')
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.append(&format!("{s}\n"))
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.append(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.append("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut *self.text.lock().unwrap_or_else(PoisonError::into_inner));
        self.stderr.redraw(text.as_bytes());
        Ok(())
    }
}

/// Writes above the progress line. Output that cannot be written is lost.
#[derive(Debug)]
pub struct TerminalWriter(Terminal);

impl Write for TerminalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All bytes are written before the bar is drawn again, because the bar would overwrite half a line. Errors are
        // ignored because tracing panics on them, and a run must survive a closed pipe or a full disk.
        self.0.bars.suspend(|| self.0.output.write(bytes));
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
