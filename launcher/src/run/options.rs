//! The options of a launch.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use admiral_contract::{LISTEN_ADDRESS, listen_address};

use crate::console::ShowRank;

/// The options that `run`, `doctor` and `drill` share: the places of the ranks, and how they are reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct HostOptions {
    /// A hostfile in Open MPI's form: one host per line, `node1 slots=8`
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// Hosts on the command line: node1:8,node2:8
    #[arg(long, value_name = "HOSTS")]
    pub hosts: Option<String>,
    /// The number of ranks; without it, as many as the hosts take. Hosts that are not needed are spares
    #[arg(long, value_name = "RANKS")]
    pub np: Option<usize>,
    /// The program `admiral`, at the same path on every host; without it, the one beside this program
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,
    /// Open MPI's mpirun; without it, the first in PATH
    #[arg(long, value_name = "PATH")]
    pub mpirun: Option<PathBuf>,
    /// Passes a variable of this environment to the ranks, besides AWS_*, GOOGLE_*, AZURE_*, NCCL_*, OMP_*, CUDA_*, RUST_LOG and such
    #[arg(long = "pass", value_name = "NAME")]
    pub pass: Vec<String>,
    /// The network that the hosts share: 10.0.0.0/16, or interfaces eth0,ib0
    #[arg(long, value_name = "NETWORK")]
    pub interfaces: Option<String>,
    /// The address of this machine by which the hosts reach it
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Another option for mpirun: --mpirun-option='--mca btl_tcp_links 2'
    #[arg(long = "mpirun-option", value_name = "OPTION", allow_hyphen_values = true)]
    pub mpirun_options: Vec<String>,
}

/// The options that every job has: its hosts, and how it is started and restarted.
#[derive(Debug, Clone, clap::Args)]
pub struct LaunchOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into the help")]
    pub hosts: HostOptions,
    /// The ranks whose output is shown: all, none, or numbers as in 0,3. Errors of every rank are always shown
    #[arg(long, default_value = "0", value_name = "RANKS")]
    pub show_rank: ShowRank,
    /// Restarts within the restart window; without it, launch.max_restarts of the configuration, or 10
    #[arg(long, value_name = "N")]
    pub max_restarts: Option<u64>,
    /// The run stops rather than continue with fewer ranks
    #[arg(long, default_value_t = 1, value_name = "RANKS")]
    pub min_ranks: usize,
    /// Restarts also when ranks were stopped by a signal from outside
    #[arg(long)]
    pub restart_on_preemption: bool,
    /// The unit of the delays before restarts: 1, 2, 4... units while there is no progress; 30 at first after a store
    /// error
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub base_delay_seconds: f64,
    /// Starts without examining the hosts first
    #[arg(long)]
    pub no_preflight: bool,
    /// Starts without hosts that the preflight finds bad, with at least this many
    #[arg(long, value_name = "HOSTS")]
    pub allow_fewer_hosts: Option<usize>,
    /// Serves the launcher's metrics over HTTP: localhost:9465, which only this machine reaches, or an IP address with a
    /// port; without it, launch.listen of the configuration
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Writes the launcher's metrics to a .prom file of node_exporter; without it, launch.textfile of the configuration
    #[arg(long, value_name = "FILE")]
    pub textfile: Option<PathBuf>,
    /// Who is told about incidents, recoveries, silence and the end: the URL of a webhook, or a command for a shell;
    /// without it, launch.notify of the configuration
    #[arg(long, value_name = "URL_OR_COMMAND", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub notify: Option<String>,
    /// Seconds without a new step or image that are reported as silence; without it, launch.dead_man_seconds of the
    /// configuration
    #[arg(long, value_name = "SECONDS")]
    pub dead_man_seconds: Option<u64>,
    /// Prints what would be started, and starts nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The options of a training run.
#[derive(Debug, Clone, clap::Args)]
pub struct RunOptions {
    /// The configuration, a YAML file at the same path on every host
    pub config: PathBuf,
    /// Override a field: --set optimizer.learning_rate=2e-4
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub overrides: Vec<String>,
    /// Where the run begins: auto, latest or a step; once a step is done, restarts continue from the newest checkpoint
    #[arg(long, default_value = "auto", value_name = "WHERE")]
    pub resume: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into the help")]
    pub launch: LaunchOptions,
}

/// The options of a sampling job.
#[derive(Debug, Clone, clap::Args)]
pub struct SampleOptions {
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into the help")]
    pub launch: LaunchOptions,
    /// The folder of the launcher's own files; without it, the folder of the images with -launch at the end of its
    /// name. Images that go to a URL need it
    #[arg(long, value_name = "FOLDER")]
    pub run_folder: Option<PathBuf>,
    /// A rank that is busy with one thing for this long stands still; above the time of a batch of images
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub stall_seconds: u64,
    /// The window in which restarts are counted
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub restart_window_seconds: u64,
    /// The time from a request to stop until ranks are killed
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub grace_seconds: u64,
    /// Examines the hosts as `doctor` does, and starts nothing
    #[arg(long)]
    pub doctor: bool,
    /// The checkpoint, and then the options of `admiral sample`, which are passed on: --num and --out are required, as in
    /// runs/own --num 50000 --out images
    #[arg(required = true, trailing_var_arg = true, value_name = "CHECKPOINT")]
    pub arguments: Vec<String>,
}

/// Parses seconds on the command line, at most a day.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=86400.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, from 0 to 86400".to_owned())
}

/// Parses an address at which metrics are served.
fn address(text: &str) -> Result<SocketAddr, String> {
    listen_address(text).ok_or_else(|| LISTEN_ADDRESS.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_seconds_are_refused() {
        for (text, value) in [("0", 0.0), ("0.1", 0.1), ("86400", 86400.0)] {
            assert_eq!(seconds(text), Ok(value));
        }
        for text in ["-1", "nan", "1e30", "inf", "86401", "x", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
