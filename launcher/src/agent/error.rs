//! The errors of an agent.

/// An agent cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// This process was not started by a launcher.
    #[error("{0} is not set as a launcher sets it; `agent` is what admiral-launch starts under mpirun, not a command")]
    Environment(&'static str),
    /// The launcher cannot be reached from this host.
    #[error(
        "{host} cannot reach the launcher at {addresses} ({source}); its ports must not be closed between the hosts, \
         or give the address that they can reach with --address"
    )]
    Unreachable {
        /// This host.
        host: String,
        /// All addresses that were tried.
        addresses: String,
        /// The error of the last one.
        source: std::io::Error,
    },
    /// A system call failed.
    #[error("{0}")]
    System(#[from] std::io::Error),
}
