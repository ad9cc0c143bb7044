//! What a run has in its hands: the other ranks, the device, its kernels, the phase tracker, injected faults. It is handed
//! down; nothing below looks for it in statics or in the environment.

use std::sync::Arc;

use admiral_comm::{Collective, CollectiveError, FaultInjector, FaultsConfig, PhaseTracker};
use admiral_contract::Ledger;
use admiral_contract::host::host_name;
use admiral_telemetry::Terminal;
use tch::Device;

use crate::environment::Environment;
use crate::gpus::Gpus;
use crate::ops::{self, Kernels, bridge};
use crate::run_config::{DeviceChoice, FusedKernels, RunConfig};

/// What a process has before it knows its configuration.
#[derive(Clone, Copy)]
pub struct RankContext<'a> {
    /// The ranks of the run.
    pub collective: &'a dyn Collective,
    /// The environment variables.
    pub environment: &'a Environment,
    /// The ledger in which this rank records its progress.
    pub ledger: &'a Arc<Ledger>,
    /// The GPUs of this process.
    pub gpus: &'a Gpus,
    /// Standard error, with the progress line.
    pub terminal: &'a Terminal,
}

/// What a run has.
#[derive(Clone)]
pub struct RunContext<'a> {
    /// The ranks of the run.
    pub collective: &'a dyn Collective,
    /// The environment variables.
    pub environment: &'a Environment,
    /// The GPUs of this process.
    pub gpus: &'a Gpus,
    /// The device of this rank's network.
    pub device: Device,
    /// The kernels of that device.
    pub kernels: Kernels,
    /// Records what this rank does in its ledger.
    pub phases: PhaseTracker,
    /// The faults that strike this rank.
    pub faults: Option<Arc<FaultInjector>>,
    /// Standard error, with the progress line.
    pub progress: &'a Terminal,
}

/// Why a run cannot use this machine.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The configuration asks for a device that this rank does not have.
    #[error("{0}")]
    Device(String),
    /// libtorch refused.
    #[error(transparent)]
    Operation(#[from] ops::Error),
    /// The ranks cannot reach each other.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
}

impl<'a> RunContext<'a> {
    /// Prepares this rank for a run: its share of the host's cores, its device and kernels, its faults. Every rank calls
    /// it.
    ///
    /// # Errors
    /// When the rank has no such device, or the ranks cannot reach each other.
    pub fn open(rank: RankContext<'a>, config: &RunConfig) -> Result<Self, ContextError> {
        let RankContext { collective, environment, ledger, gpus, terminal } = rank;
        let faults = fault_injector(&config.faults, collective, environment);
        // All ranks take part in this, so it comes before what may fail on one of them.
        set_threads(config.run.num_threads, collective)?;
        let device = choose_device(config.run.device, collective.local_rank())?;
        let kernels = match config.run.fused_kernels {
            FusedKernels::Auto => Kernels::open(device, gpus),
            FusedKernels::Off => Kernels::libtorch(device),
        };
        let phases = PhaseTracker::new(Arc::clone(ledger), faults.clone());
        Ok(Self { collective, environment, gpus, device, kernels, phases, faults, progress: terminal })
    }

    /// Logs the device and its kernels, on rank 0.
    pub fn log_kernels(&self) {
        if self.collective.rank() == 0 {
            tracing::info!("fused operations on {:?}: {}", self.device, self.kernels.choice());
        }
    }
}

fn fault_injector(
    faults: &FaultsConfig,
    collective: &dyn Collective,
    environment: &Environment,
) -> Option<Arc<FaultInjector>> {
    FaultInjector::new(faults, collective.rank(), environment.attempt).map(Arc::new)
}

/// Gives this rank its share of the host's cores, or `wanted` threads if that is not 0.
fn set_threads(wanted: usize, collective: &dyn Collective) -> Result<(), CollectiveError> {
    // Every rank takes part, whatever it wants: another rank may want a share.
    let hosts = collective.all_gather(host_name().as_bytes())?;
    let num_local_ranks = hosts.iter().filter(|host| **host == hosts[collective.rank()]).count();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if wanted > 0 { wanted } else { (cores / num_local_ranks).max(1) };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    Ok(())
}

/// The device of the rank with index `local_rank` on its host.
///
/// # Errors
/// When there is no such device.
pub fn choose_device(choice: DeviceChoice, local_rank: usize) -> Result<Device, ContextError> {
    // float32 means float32: the numbers that a run is compared with were not rounded to TF32 either.
    bridge::allow_tf32(false)?;
    let num_gpus = if tch::Cuda::is_available() { tch::Cuda::device_count() as usize } else { 0 };
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto if num_gpus == 0 => Ok(Device::Cpu),
        DeviceChoice::Cuda if num_gpus == 0 => Err(ContextError::Device(
            "run.device (or --device) is cuda, but this libtorch sees no GPU; check the driver, or choose cpu".into(),
        )),
        DeviceChoice::Auto | DeviceChoice::Cuda if local_rank < num_gpus => Ok(Device::Cuda(local_rank)),
        DeviceChoice::Auto | DeviceChoice::Cuda => Err(ContextError::Device(format!(
            "this host has {num_gpus} GPUs, but is given rank number {local_rank} (from 0) of its own; start one \
             rank a GPU"
        ))),
    }
}
