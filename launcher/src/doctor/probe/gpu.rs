//! GPUs and the processes that hold their memory, from `nvidia-smi`. It comes with every driver, and a hanging driver
//! cannot block the probe itself.

use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::command::{NoOutput, last_line, output};
use super::leftovers::{ProcessOwner, owner_of};

/// Without persistence mode, a driver takes seconds to wake eight GPUs.
const TIMEOUT: Duration = Duration::from_secs(15);
const GPU_FIELDS: &str =
    "index,name,uuid,memory.total,memory.free,driver_version,ecc.errors.uncorrected.volatile.total";
const HOLDER_FIELDS: &str = "gpu_uuid,pid,used_memory,process_name";

/// All GPUs of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuState {
    /// The GPUs, by index.
    pub gpus: Vec<Gpu>,
    /// The processes that compute on them.
    pub holders: Vec<Holder>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// The driver's index.
    pub index: usize,
    /// The model.
    pub name: String,
    /// The permanent identifier.
    pub uuid: String,
    /// The memory in MiB.
    pub memory_mib: u64,
    /// The free memory in MiB.
    pub free_mib: u64,
    /// The version of the driver.
    pub driver: String,
    /// Uncorrected memory errors since the driver was loaded; `None` if the GPU does not count them.
    pub ecc_errors: Option<u64>,
}

/// A process that holds memory of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The index of the GPU.
    pub gpu: usize,
    /// The memory that it holds in MiB, if the driver knows.
    pub mib: Option<u64>,
    /// The process number.
    pub pid: u32,
    /// The program, as the driver names it.
    pub program: String,
    /// The user, if this host's `/proc` knows the process.
    pub user: Option<String>,
    /// The launch that it belongs to, if any.
    pub launch_id: Option<String>,
}

/// Returns the GPUs of this host; `None` if there is no NVIDIA driver.
pub(super) fn state() -> Option<Result<GpuState, String>> {
    let query = |what: &str, fields: &str| {
        let options = [format!("--query-{what}={fields}"), "--format=csv,noheader,nounits".into()];
        output(Command::new("nvidia-smi").args(options), TIMEOUT)
    };
    let said = match query("gpu", GPU_FIELDS) {
        Ok(said) => said,
        Err(NoOutput::Absent) => return None,
        Err(NoOutput::Failed(reason)) => return Some(Err(reason)),
    };
    let text = String::from_utf8_lossy(&said.stdout);
    if text.contains("No devices were found") {
        return Some(Ok(GpuState::default()));
    }
    if !said.status.success() {
        return Some(Err(format!("nvidia-smi: {}", last_line(&said))));
    }
    Some(read_gpus(&text).map(|gpus| {
        // Without the list of processes, the free memory is still known.
        let holders = query("compute-apps", HOLDER_FIELDS).map(|said| {
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            read_holders(&text, &gpus, owner_of)
        });
        GpuState { gpus, holders: holders.unwrap_or_default() }
    }))
}

fn read_gpus(text: &str) -> Result<Vec<Gpu>, String> {
    let read = |line: &str| {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let [index, name, uuid, total, free, driver, ecc] = cells.as_slice() else { return None };
        Some(Gpu {
            index: index.parse().ok()?,
            name: (*name).into(),
            uuid: (*uuid).into(),
            memory_mib: total.parse().ok()?,
            free_mib: free.parse().ok()?,
            driver: (*driver).into(),
            ecc_errors: ecc.parse().ok(),
        })
    };
    // A GPU that has fallen off the bus has a line of text instead of numbers.
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| read(line).ok_or_else(|| format!("nvidia-smi: {line}"))).collect()
}

fn read_holders(text: &str, gpus: &[Gpu], owner_of: impl Fn(u32) -> ProcessOwner) -> Vec<Holder> {
    let read = |line: &str| {
        let mut cells = line.splitn(4, ',').map(str::trim);
        let (uuid, pid, mib, program) = (cells.next()?, cells.next()?.parse().ok()?, cells.next()?, cells.next()?);
        let gpu = gpus.iter().find(|gpu| gpu.uuid == uuid)?.index;
        let ProcessOwner { user, launch_id } = owner_of(pid);
        Some(Holder { gpu, mib: mib.parse().ok(), pid, program: program.into(), user, launch_id })
    };
    text.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TWO: &str = "0, NVIDIA H100 80GB HBM3, GPU-aa, 81559, 81008, 550.54.15, 0\n\
                       1, Tesla V100-SXM2-32GB, GPU-bb, 32768, 1024, 550.54.15, [N/A]\n";

    #[test]
    fn the_gpu_list_is_parsed() {
        let gpus = read_gpus(TWO).unwrap();
        assert_eq!((gpus[0].index, gpus[0].memory_mib, gpus[0].free_mib), (0, 81559, 81008));
        assert_eq!((gpus[0].ecc_errors, gpus[1].ecc_errors), (Some(0), None));
        assert_eq!(gpus[1].name, "Tesla V100-SXM2-32GB");
        assert_eq!(read_gpus("").unwrap(), []);
    }

    #[test]
    fn a_lost_gpu_is_reported_with_the_drivers_message() {
        let lost = "Unable to determine the device handle for GPU 0000:3B:00.0: Unknown Error";
        assert_eq!(read_gpus(&format!("{TWO}{lost}\n")).unwrap_err(), format!("nvidia-smi: {lost}"));
    }

    #[test]
    fn processes_that_hold_memory_are_parsed() {
        let gpus = read_gpus(TWO).unwrap();
        let text = "GPU-bb, 4711, 31000, python, with a comma\nGPU-aa, 5, [N/A], [Insufficient Permissions]\n\
                    GPU-cc, 1, 1, x\n";
        let who = |pid| ProcessOwner { user: (pid == 4711).then(|| "ada".into()), launch_id: None };
        let holders = read_holders(text, &gpus, who);
        let expected = Holder {
            gpu: 1,
            mib: Some(31000),
            pid: 4711,
            program: "python, with a comma".into(),
            user: Some("ada".into()),
            launch_id: None,
        };
        assert_eq!((holders.len(), &holders[0]), (2, &expected));
        assert_eq!((holders[1].gpu, holders[1].mib, holders[1].user.as_deref()), (0, None, None));
    }
}
