//! What the threads of a rank are doing, as far as the system lets another process see it.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// A debugger that takes longer does not help.
const PATIENCE: Duration = Duration::from_secs(5);

/// The stacks of a program's threads, where a debugger is installed (`gdb` or `eu-stack`); nothing without one.
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
        if let Ok(Ok(output)) = timeout(PATIENCE, command.output()).await
            && output.status.success()
        {
            return format!("\n{program}:\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }
    String::new()
}

/// For each thread its name, its state, and the kernel's word for what it waits for; its stack in the kernel where root
/// asks.
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
