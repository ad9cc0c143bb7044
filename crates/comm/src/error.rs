//! Errors of communication between ranks.

/// A failure of the communication between ranks. The run cannot recover from any of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// MPI can be initialized only once in a process.
    #[error("MPI is already running in this process: connect once and share the connection")]
    AlreadyConnected,
    /// The MPI library does not support calls from several threads.
    #[error(
        "the MPI library grants thread level {granted}, and Admiral needs MPI_THREAD_SERIALIZED or more: \
         use an MPI built with thread support"
    )]
    ThreadLevel {
        /// The level that the library grants.
        granted: String,
    },
    /// The launcher does not belong to the MPI library that Admiral is linked to. Each process would be a run with one
    /// rank, and all of them would write to the same folder.
    #[error(
        "the launcher started {declared} ranks ({variable}={declared}), but the MPI library sees {found}: start \
         Admiral with the mpirun of the MPI it was built with ({library})"
    )]
    WorldMismatch {
        /// The environment variable that holds the number of ranks.
        variable: &'static str,
        /// The number of ranks that the launcher declares.
        declared: usize,
        /// The number of ranks that the library reports.
        found: usize,
        /// The name and version of the library.
        library: String,
    },
    /// A scheduler started several processes, and MPI knows of one. Each would be a run of its own in the same folder.
    #[error(
        "this process is one of several tasks ({variable}={value}), but MPI does not connect them; with Slurm, start them \
         with `mpirun`, `admiral-launch run` or `srun --mpi=pmix`, and start a run of one process with `srun -n 1`"
    )]
    AloneAmongTasks {
        /// The environment variable that says so.
        variable: &'static str,
        /// Its value.
        value: u64,
    },
    /// The root is not a rank.
    #[error("{operation}: there is no rank {root} among {world_size} ranks")]
    NoSuchRank {
        /// The collective.
        operation: &'static str,
        /// The root asked for.
        root: usize,
        /// The number of ranks.
        world_size: usize,
    },
    /// A GPU, or NCCL, failed or hung while gradients were summed.
    #[error(
        "bucket {bucket} of the gradients was not summed on rank {rank} of {world_size}: {message}; {standing}. If several \
         ranks hang, the others wait for the one with the fewest exchanges"
    )]
    Gpu {
        /// The rank that detected it.
        rank: usize,
        /// The number of ranks.
        world_size: usize,
        /// The number of the bucket.
        bucket: usize,
        /// The message of the driver or of NCCL.
        message: String,
        /// The state in the rank's ledger.
        standing: String,
    },
    /// MPI returned an error.
    #[error("{operation} failed on rank {rank} of {world_size}: {message}")]
    Transport {
        /// The MPI call.
        operation: &'static str,
        /// The rank that detected it.
        rank: usize,
        /// The number of ranks.
        world_size: usize,
        /// The message of MPI.
        message: String,
    },
}
