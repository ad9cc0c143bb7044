//! Kernel, limits, memory and disks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::command::output;

/// The system of a host. A limit is the one in force; `None` if there is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct System {
    /// The name that the host gives itself.
    pub host_name: String,
    /// The identity of the machine, by whatever name it is reached.
    pub machine: String,
    /// The release of the kernel.
    pub kernel: String,
    /// The version of the C library, if known.
    pub glibc: Option<String>,
    /// The number of cores that this process may use.
    pub num_cpus: usize,
    /// The memory in bytes.
    pub memory_bytes: u64,
    /// The available memory in bytes.
    pub memory_free_bytes: u64,
    /// The free space in `/dev/shm`, in bytes.
    pub shm_free_bytes: Option<u64>,
    /// The limit of open files.
    pub max_open_files: Option<u64>,
    /// The limit of locked memory, in bytes.
    pub max_locked_bytes: Option<u64>,
    /// The limit of core dumps, in bytes.
    pub max_core_bytes: Option<u64>,
    /// Whether there is InfiniBand (or RoCE), which needs locked memory.
    pub has_infiniband: bool,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The folder for which the disk was looked up.
    pub folder: PathBuf,
    /// The space that can be written, in bytes.
    pub free_bytes: u64,
    /// The size in bytes.
    pub bytes: u64,
}

pub(super) fn system() -> System {
    let names = rustix::system::uname();
    let limit = |resource| getrlimit(resource).current;
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    System {
        host_name: names.nodename().to_string_lossy().into_owned(),
        machine: admiral_contract::host::machine_identity(),
        kernel: names.release().to_string_lossy().into_owned(),
        glibc: glibc(),
        num_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: meminfo(&memory, "MemTotal:"),
        memory_free_bytes: meminfo(&memory, "MemAvailable:"),
        shm_free_bytes: disk(Path::new("/dev/shm")).map(|disk| disk.free_bytes),
        max_open_files: limit(Resource::Nofile),
        max_locked_bytes: limit(Resource::Memlock),
        max_core_bytes: limit(Resource::Core),
        has_infiniband: std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some()),
    }
}

/// Returns the disk of a folder, which need not exist yet.
pub(super) fn disk(folder: &Path) -> Option<Disk> {
    let absolute = std::path::absolute(folder).ok()?;
    let there = absolute.ancestors().find(|folder| folder.exists())?;
    let fs = rustix::fs::statvfs(there).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    Some(Disk { folder: absolute.clone(), free_bytes: bytes(fs.f_bavail), bytes: bytes(fs.f_blocks) })
}

fn glibc() -> Option<String> {
    let said = output(Command::new("getconf").arg("GNU_LIBC_VERSION"), Duration::from_secs(2)).ok()?;
    let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    (!said.is_empty()).then_some(said)
}

fn meminfo(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_host_describes_itself() {
        let system = system();
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(system.host_name, name.trim());
        assert!(system.memory_free_bytes > 0 && system.memory_free_bytes <= system.memory_bytes);
        assert!(system.num_cpus > 0 && !system.kernel.is_empty());
    }

    #[test]
    fn a_missing_folder_is_on_the_disk_of_its_parent() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("a/b");
        let disk = disk(&folder).unwrap();
        assert_eq!((disk.folder, disk.bytes), (folder, super::disk(temporary.path()).unwrap().bytes));
    }

    #[test]
    fn meminfo_is_parsed_to_bytes() {
        assert_eq!(meminfo("MemFree: 3 kB\nMemTotal:  16 kB\n", "MemTotal:"), 16 * 1024);
        assert_eq!(meminfo("", "MemTotal:"), 0);
    }
}
