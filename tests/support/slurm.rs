//! Slurm's programs, and an authentication service of one test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the path of a program, which may be in a folder for administrators.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Returns the paths of these programs. Without one of them, prints that the test is skipped.
pub fn programs<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let found = names.map(program);
    if let Some(missing) = found.iter().position(Option::is_none) {
        // Written around the test runner, which hides the output of passing tests.
        let note = format!("SKIPPED: nothing is held against Slurm, there is no {}\n", names[missing]);
        std::io::stderr().write_all(note.as_bytes()).unwrap();
        return None;
    }
    Some(found.map(Option::unwrap))
}

/// Starts Slurm's authentication service, with a key of its own. Its socket is `munge.sock` in `folder`.
pub fn start_munge(munged: &Path, folder: &Path) -> Child {
    std::fs::write(folder.join("munge.key"), [7; 1024]).unwrap();
    std::fs::set_permissions(folder.join("munge.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut command = Command::new(munged);
    command.args(["--foreground", "--force"]);
    for (option, file) in [
        ("key-file", "munge.key"),
        ("socket", "munge.sock"),
        ("pid-file", "munged.pid"),
        ("log-file", "munged.log"),
        ("seed-file", "munged.seed"),
    ] {
        command.arg(format!("--{option}={}", folder.join(file).display()));
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the munge daemon", || folder.join("munge.sock").exists());
    child
}

/// Waits for a part of Slurm.
pub fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_there() {
        assert!(start.elapsed() < TIMEOUT, "{what} did not come up");
        std::thread::sleep(Duration::from_millis(50));
    }
}
