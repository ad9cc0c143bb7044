//! The stacks of a rank's threads, as far as the system shows them to another process.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// The timeout for a debugger.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the stacks of a program's threads if a debugger is installed (`gdb` or `eu-stack`), else an empty text.
pub(super) async fn in_program(pid: u32) -> String {
    for (program, arguments) in [
        (
            "gdb",
            vec![
                "-p".to_owned(),
                pid.to_string(),
                "-batch".into(),
                "-ex".into(),
                "thread apply all backtrace 24".into(),
            ],
        ),
        ("eu-stack", vec!["-p".to_owned(), pid.to_string(), "-n".into(), "24".into()]),
    ] {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        if let Ok(Ok(output)) = timeout(TIMEOUT, command.output()).await
            && output.status.success()
        {
            return format!("\n{program}:\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }
    String::new()
}

/// Returns, for each thread, its name, its state, and the kernel function in which it waits; with root privileges also
/// its kernel stack.
pub(super) fn in_kernel(pid: u32) -> String {
    let mut text = String::new();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return "its process is gone".into();
    };
    for task in tasks.flatten() {
        let path = task.path();
        let read = |name: &str| read_line(&path, name);
        let state = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let state = state.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("").trim().to_owned();
        let _ = writeln!(
            text,
            "thread {} ({}): {state}, waits in {}, system call {}",
            task.file_name().to_string_lossy(),
            read("comm"),
            read("wchan"),
            read("syscall"),
        );
        for frame in std::fs::read_to_string(path.join("stack")).unwrap_or_default().lines() {
            let _ = writeln!(text, "    {frame}");
        }
    }
    text
}

fn read_line(folder: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() || text == "0" { "-".into() } else { text.to_owned() }
}
