//! The progress ledger: a page of memory in which a rank publishes its progress to the process that watches it.
//!
//! The rank writes with plain stores, without system calls or locks, so that a step takes no longer with a watcher. The
//! watcher can read while the rank hangs in a driver. The page is a seqlock: a counter is odd while the rank writes, so
//! that the watcher detects an inconsistent read and retries.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::reading::{Phase, Reading};
use crate::shared_text::{end_of, load_text, store_text};

/// "ADMLEDGR".
const MAGIC: u64 = 0x4144_4d4c_4544_4752;
/// The version of the layout.
const VERSION: u64 = 2;
const LENGTH: usize = size_of::<Page>();
/// The space for an attempt ID, in words of eight bytes. A longer ID is cut.
const ID_WORDS: usize = 8;
/// The length of the text that says what a rank waits for, in words of eight bytes. A longer text loses its start.
const AWAITED_WORDS: usize = 32;
/// The number of reads after which the reader gives up on a consistent one: the rank was stopped in the middle of a
/// write.
const MAX_TRIES: usize = 1200;
/// The number of reads without a pause between them.
const SPINS: usize = 1000;
/// The pause between later reads.
const PAUSE: Duration = Duration::from_micros(50);

/// Errors of making or opening a ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be made, opened or mapped.
    #[error("the ledger {path}: {source}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a ledger of this version: rank and launcher come from different builds.
    #[error("the ledger {path} is not of this version of Admiral; use the launcher and the program of one build")]
    Foreign {
        /// The path of the file.
        path: PathBuf,
    },
}

/// The layout of the page. A new version may add fields at the end.
#[repr(C, align(64))]
#[derive(Default)]
struct Page {
    magic: AtomicU64,
    version: AtomicU64,
    /// Odd while the rank writes.
    sequence: AtomicU64,
    pid: AtomicU64,
    step: AtomicU64,
    last_step: AtomicU64,
    phase: AtomicU64,
    bucket: AtomicU64,
    /// When the phase began, in nanoseconds of CLOCK_MONOTONIC, which is the same clock for all processes of a host.
    since: AtomicU64,
    collectives: AtomicU64,
    beats: AtomicU64,
    step_nanoseconds: AtomicU64,
    data_nanoseconds: AtomicU64,
    wait_nanoseconds: AtomicU64,
    checkpoint_step: AtomicU64,
    global_batch: AtomicU64,
    /// [`Reading::attempt_id`], padded with zeros.
    attempt_id: [AtomicU64; ID_WORDS],
    /// When the current step began. Only the rank reads this field and the following ones.
    step_since: AtomicU64,
    /// The nanoseconds of the current step that were spent waiting for data.
    data_so_far: AtomicU64,
    /// The nanoseconds of the current step that were spent in collective operations.
    wait_so_far: AtomicU64,
    /// [`Reading::awaited`], padded with zeros.
    awaited: [AtomicU64; AWAITED_WORDS],
}

/// A rank's ledger. One thread writes and any number of threads and processes read; [`Ledger::count_exchange`] may be
/// called from any thread.
pub struct Ledger {
    page: *const Page,
    /// Kept open so that a child process can inherit it.
    file: Option<OwnedFd>,
}

// SAFETY: the page lives as long as the process and is accessed only through atomics.
unsafe impl Send for Ledger {}
// SAFETY: as above.
unsafe impl Sync for Ledger {}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("reading", &self.read()).finish()
    }
}

impl Ledger {
    /// Makes a ledger in anonymous memory. A child process that inherits [`Ledger::file`] opens it by the path
    /// `/proc/self/fd/N`. The memory is freed when both processes have exited.
    ///
    /// # Errors
    /// If the system provides no memory.
    pub fn create() -> Result<Self, LedgerError> {
        let failed = |source: std::io::Error| LedgerError::File { path: "(anonymous)".into(), source };
        let flags = MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("admiral-ledger", flags).map_err(|e| failed(e.into()))?;
        rustix::fs::ftruncate(&file, LENGTH as u64).map_err(|e| failed(e.into()))?;
        // If a process that has the file made it shorter, the others would die at their next access.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(|e| failed(e.into()))?;
        let ledger = Self { page: map(&file).map_err(failed)?, file: Some(file) };
        ledger.page().version.store(VERSION, Ordering::Relaxed);
        ledger.page().since.store(now(), Ordering::Relaxed);
        ledger.page().magic.store(MAGIC, Ordering::Release);
        Ok(ledger)
    }

    /// Opens the ledger in a file that [`Ledger::create`] made.
    ///
    /// # Errors
    /// If the file cannot be mapped, or is not a ledger of this version.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::File { path: path.to_owned(), source };
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        let foreign = || LedgerError::Foreign { path: path.to_owned() };
        if file.metadata().map_err(failed)?.len() < LENGTH as u64 {
            return Err(foreign());
        }
        let ledger = Self { page: map(&file).map_err(failed)?, file: None };
        let page = ledger.page();
        if page.magic.load(Ordering::Acquire) != MAGIC || page.version.load(Ordering::Relaxed) != VERSION {
            return Err(foreign());
        }
        Ok(ledger)
    }

    /// Opens the ledger at `path` for this process and writes its process number there, so that the launcher sees that
    /// the rank has started. A rank calls this once, at its start, and hands the ledger down.
    ///
    /// Without a path the ledger is private. It is private too if the file cannot be opened: the rank runs without a
    /// watcher, and the caller warns with the error that is returned.
    #[must_use]
    pub fn open_or_private(path: Option<&Path>) -> (Self, Option<LedgerError>) {
        let (ledger, error) = match path.map(Self::open) {
            Some(Ok(ledger)) => (ledger, None),
            Some(Err(error)) => (Self::private(), Some(error)),
            None => (Self::private(), None),
        };
        ledger.sign(std::process::id());
        (ledger, error)
    }

    /// Makes a ledger in the memory of this process, which no other process can read.
    #[must_use]
    pub fn private() -> Self {
        Self { page: Box::into_raw(Box::<Page>::default()), file: None }
    }

    /// Returns the file that a child process must inherit to share the ledger. `None` if the ledger was not made by
    /// [`Ledger::create`].
    #[must_use]
    pub fn file(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.as_fd())
    }

    fn page(&self) -> &Page {
        // SAFETY: the page is mapped or allocated, is never freed, and is aligned.
        unsafe { &*self.page }
    }

    fn write(&self, change: impl FnOnce(&Page)) {
        let page = self.page();
        let sequence = page.sequence.load(Ordering::Relaxed);
        page.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        change(page);
        page.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// Publishes the process ID of the rank.
    pub fn sign(&self, pid: u32) {
        self.write(|page| page.pid.store(u64::from(pid), Ordering::Relaxed));
    }

    /// Publishes the extent of the run: the step that training starts from, the last step, and the samples in a step. In a
    /// sampling job, these are the images of the rank's share that are there already, all images of its share, and 0.
    pub fn begin(&self, step: u64, last_step: u64, global_batch: u64) {
        self.write(|page| {
            page.step.store(step, Ordering::Relaxed);
            page.last_step.store(last_step, Ordering::Relaxed);
            page.global_batch.store(global_batch, Ordering::Relaxed);
        });
    }

    /// Starts a step, and the measurement of its times. In a sampling job, starts a batch after `step` finished images.
    pub fn begin_step(&self, step: u64) {
        let now = now();
        self.write(|page| {
            self.close_phase(page, now);
            page.step.store(step, Ordering::Relaxed);
            page.step_since.store(now, Ordering::Relaxed);
            page.data_so_far.store(0, Ordering::Relaxed);
            page.wait_so_far.store(0, Ordering::Relaxed);
        });
    }

    /// Ends a step, and publishes its times as those of the last complete step.
    pub fn end_step(&self) {
        let now = now();
        self.write(|page| {
            self.close_phase(page, now);
            let since = page.step_since.load(Ordering::Relaxed);
            page.step_nanoseconds.store(now.saturating_sub(since), Ordering::Relaxed);
            page.data_nanoseconds.store(page.data_so_far.load(Ordering::Relaxed), Ordering::Relaxed);
            page.wait_nanoseconds.store(page.wait_so_far.load(Ordering::Relaxed), Ordering::Relaxed);
        });
    }

    /// Starts a phase. A collective phase is also counted as an exchange.
    pub fn enter(&self, phase: Phase, bucket: u64) {
        self.change(phase, bucket);
        if phase.is_collective() {
            self.count_exchange();
        }
    }

    /// Starts waiting for the all-reduce of a bucket that another thread of the rank has entered and counted.
    pub fn wait(&self, bucket: u64) {
        self.change(Phase::Reduce, bucket);
    }

    fn change(&self, phase: Phase, bucket: u64) {
        let now = now();
        self.write(|page| {
            self.close_phase(page, now);
            page.phase.store(phase as u64, Ordering::Relaxed);
            page.bucket.store(bucket, Ordering::Relaxed);
            // The text ends at its first zero byte.
            page.awaited[0].store(0, Ordering::Relaxed);
            add(&page.beats, 1);
        });
    }

    /// Counts an exchange without a change of the phase. May be called from any thread.
    pub fn count_exchange(&self) {
        self.page().collectives.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the current phase and its bucket or pass, so that a caller can return to it later.
    #[must_use]
    pub fn phase(&self) -> (Phase, u64) {
        let page = self.page();
        (phase_of(page.phase.load(Ordering::Relaxed)), page.bucket.load(Ordering::Relaxed))
    }

    /// Publishes the step of the newest checkpoint, which was written or resumed from.
    pub fn checkpoint(&self, step: u64) {
        self.write(|page| page.checkpoint_step.store(step, Ordering::Relaxed));
    }

    /// Publishes the attempt ID.
    pub fn attempt(&self, id: &str) {
        self.write(|page| store_text(&page.attempt_id, id));
    }

    /// Publishes what the rank waits for in its current phase, such as the image that takes long to read; an empty text if
    /// it waits no longer.
    pub fn awaits(&self, what: &str) {
        let shown = end_of(what, 8 * AWAITED_WORDS);
        self.write(|page| store_text(&page.awaited, &shown));
    }

    /// Returns the number of the current step.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.page().step.load(Ordering::Relaxed)
    }

    /// Adds the time since the phase began to the step's data or wait time.
    fn close_phase(&self, page: &Page, now: u64) {
        let spent = now.saturating_sub(page.since.load(Ordering::Relaxed));
        let phase = phase_of(page.phase.load(Ordering::Relaxed));
        if phase == Phase::Data {
            add(&page.data_so_far, spent);
        } else if phase.is_collective() {
            add(&page.wait_so_far, spent);
        }
        page.since.store(now, Ordering::Relaxed);
    }

    /// Returns a snapshot. It may be inconsistent if the rank was stopped in the middle of a write.
    #[must_use]
    pub fn read(&self) -> Reading {
        for attempt in 0..MAX_TRIES {
            if let Some(reading) = self.read_consistent() {
                return reading;
            }
            // A writer that was preempted in the middle needs CPU time to finish.
            if attempt < SPINS { std::hint::spin_loop() } else { std::thread::sleep(PAUSE) }
        }
        self.read_fields()
    }

    /// Returns `None` if the rank wrote during the read.
    fn read_consistent(&self) -> Option<Reading> {
        let page = self.page();
        let before = page.sequence.load(Ordering::Acquire);
        let reading = self.read_fields();
        fence(Ordering::Acquire);
        (before.is_multiple_of(2) && page.sequence.load(Ordering::Relaxed) == before).then_some(reading)
    }

    fn read_fields(&self) -> Reading {
        let page = self.page();
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let seconds = |nanoseconds| Duration::from_nanos(nanoseconds).as_secs_f64();
        Reading {
            pid: get(&page.pid),
            step: get(&page.step),
            last_step: get(&page.last_step),
            phase: phase_of(get(&page.phase)),
            bucket: get(&page.bucket),
            phase_seconds: seconds(now().saturating_sub(get(&page.since))),
            collectives: get(&page.collectives),
            beats: get(&page.beats),
            step_seconds: seconds(get(&page.step_nanoseconds)),
            data_seconds: seconds(get(&page.data_nanoseconds)),
            wait_seconds: seconds(get(&page.wait_nanoseconds)),
            checkpoint_step: get(&page.checkpoint_step),
            global_batch: get(&page.global_batch),
            attempt_id: load_text(&page.attempt_id),
            awaited: load_text(&page.awaited),
        }
    }
}

fn add(value: &AtomicU64, more: u64) {
    value.store(value.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

fn phase_of(number: u64) -> Phase {
    Phase::ALL.into_iter().find(|&phase| phase as u64 == number).unwrap_or(Phase::Start)
}

/// Returns CLOCK_MONOTONIC in nanoseconds.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn map(file: impl AsFd) -> std::io::Result<*const Page> {
    // SAFETY: this is a new shared mapping of a file that is at least as long. It is never unmapped.
    let page = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), LENGTH, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
    }?;
    Ok(page.cast_const().cast())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn shared() -> (Ledger, Ledger) {
        let ledger = Ledger::create().expect("memory");
        let path = format!("/proc/self/fd/{}", ledger.file().expect("it was created here").as_raw_fd());
        let other = Ledger::open(path.as_ref()).expect("the same memory");
        (ledger, other)
    }

    #[test]
    fn the_memory_cannot_be_made_shorter() {
        let ledger = Ledger::create().expect("memory");
        let file = ledger.file().expect("it was created here");
        assert!(rustix::fs::ftruncate(file, 0).is_err(), "an access beyond the end would kill the other process");
        ledger.sign(5);
        assert_eq!(ledger.read().pid, 5);
    }

    #[test]
    fn the_watcher_reads_what_the_rank_publishes() {
        let (watcher, rank) = shared();
        assert_eq!((watcher.read().pid, watcher.read().phase), (0, Phase::Start));
        rank.sign(7);
        rank.begin(10, 100, 32);
        for id in ["", "0123456789abcdef", &"x".repeat(ID_WORDS * 8), &"x".repeat(100)] {
            rank.attempt(id);
            assert_eq!(watcher.read().attempt_id, id[..id.len().min(ID_WORDS * 8)]);
        }
        rank.begin_step(11);
        rank.enter(Phase::Data, 0);
        let long = "é".repeat(200);
        for (what, shown) in [
            ("shard-7.tar: 3.jpg".to_owned(), "shard-7.tar: 3.jpg".to_owned()),
            ("x".repeat(256), "x".repeat(256)),
            (format!("a{long}"), format!("…{}", &long[..252])),
            (format!("{long}b"), format!("…{}b", &long[..252])),
            (String::new(), String::new()),
            ("at the end of the phase".to_owned(), "at the end of the phase".to_owned()),
        ] {
            rank.awaits(&what);
            assert_eq!(watcher.read().awaited, shown);
        }
        std::thread::sleep(Duration::from_millis(20));
        rank.enter(Phase::Reduce, 3);
        std::thread::sleep(Duration::from_millis(10));
        let reading = watcher.read();
        assert_eq!((reading.pid, reading.step, reading.last_step, reading.global_batch), (7, 11, 100, 32));
        assert_eq!((reading.phase, reading.bucket, reading.collectives, reading.beats), (Phase::Reduce, 3, 1, 2));
        assert!(reading.phase_seconds >= 0.01 && reading.step_seconds == 0.0, "{reading:?}");
        assert_eq!(reading.awaited, "", "it belonged to the phase before");
        rank.end_step();
        let reading = watcher.read();
        assert!(reading.data_seconds >= 0.02 && reading.wait_seconds >= 0.01, "{reading:?}");
        assert!(reading.step_seconds >= reading.data_seconds + reading.wait_seconds, "{reading:?}");
    }

    #[test]
    fn exchanges_of_all_threads_are_counted_once() {
        let (watcher, rank) = shared();
        rank.enter(Phase::Backward, 0);
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| (0..1000).for_each(|_| rank.count_exchange()));
            }
        });
        rank.wait(1);
        let reading = watcher.read();
        assert_eq!((reading.phase, reading.bucket, reading.collectives), (Phase::Reduce, 1, 2000));
        rank.enter(Phase::Exchange, 0);
        assert_eq!(watcher.read().collectives, 2001);
    }

    #[test]
    fn a_consistent_read_never_mixes_two_writes() {
        let (watcher, rank) = shared();
        let writer = std::thread::spawn(move || {
            for step in 0..50_000 {
                rank.begin(step, step, step);
                // A rank works between two writes. Without a pause no read would succeed.
                (0..50).for_each(|_| std::hint::spin_loop());
            }
        });
        // `read` would return an inconsistent snapshot if the writer were preempted for too long.
        while !writer.is_finished() {
            let Some(reading) = watcher.read_consistent() else { continue };
            assert!(reading.step == reading.last_step && reading.step == reading.global_batch, "{reading:?}");
        }
        assert_eq!(watcher.read_consistent().map(|reading| reading.step), Some(49_999));
        writer.join().expect("the writer");
    }

    #[test]
    fn a_file_that_is_not_a_ledger_is_refused() {
        let path = std::env::temp_dir().join(format!("no-ledger-{}", std::process::id()));
        std::fs::write(&path, vec![0; LENGTH]).expect("a file");
        assert!(matches!(Ledger::open(&path), Err(LedgerError::Foreign { .. })));
        std::fs::write(&path, b"short").expect("a file");
        assert!(matches!(Ledger::open(&path), Err(LedgerError::Foreign { .. })));
        std::fs::remove_file(&path).expect("it is there");
        assert!(matches!(Ledger::open(&path), Err(LedgerError::File { .. })));
    }

    #[test]
    fn a_rank_whose_ledger_cannot_be_opened_has_a_private_one_and_the_reason() {
        let pid = u64::from(std::process::id());
        let watcher = Ledger::create().expect("memory");
        let path = format!("/proc/self/fd/{}", watcher.file().expect("it was created here").as_raw_fd());
        let (_rank, error) = Ledger::open_or_private(Some(path.as_ref()));
        assert!(error.is_none() && watcher.read().pid == pid);
        let (rank, error) = Ledger::open_or_private(None);
        assert!(error.is_none() && rank.read().pid == pid);
        let (rank, error) = Ledger::open_or_private(Some("/nowhere/ledger".as_ref()));
        assert!(matches!(error, Some(LedgerError::File { .. })) && rank.read().pid == pid);
    }

    #[test]
    fn phases_keep_their_numbers_and_names() {
        for (number, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, number);
            assert_eq!(phase_of(number as u64), phase);
        }
        assert_eq!(serde_json::to_string(&Phase::Reduce).expect("a name"), "\"reduce\"");
    }
}
