//! What can go wrong between ranks.

/// A failure of the ranks' connection. None can be repaired within the run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// MPI can be started once in a process.
    #[error("MPI is already running in this process: connect once and share the connection")]
    AlreadyConnected,
    /// The MPI library allows no calls from a second thread.
    #[error(
        "the MPI library grants thread level {granted}, and Admiral needs MPI_THREAD_SERIALIZED or more: \
         use an MPI built with thread support"
    )]
    ThreadLevel {
        /// The level that the library grants.
        granted: String,
    },
    /// The launcher and the MPI library that Admiral is linked to are of different kinds, so that every
    /// process would be a run of its own, writing to the same folder.
    #[error(
        "the launcher started {declared} ranks ({variable}={declared}), but the MPI library sees {found}: start \
         Admiral with the mpirun of the MPI it was built with ({library})"
    )]
    WorldMismatch {
        /// The environment variable by which the launcher says so.
        variable: &'static str,
        /// The number of ranks that the launcher declares.
        declared: usize,
        /// The number of ranks that the library sees.
        found: usize,
        /// The library's own description.
        library: String,
    },
    /// A root that is no rank.
    #[error("{operation}: there is no rank {root} among {world_size} ranks")]
    NoSuchRank {
        /// The collective.
        operation: &'static str,
        /// The root asked for.
        root: usize,
        /// The number of ranks.
        world_size: usize,
    },
    /// A GPU, or NCCL between GPUs, failed or stood still while gradients were summed.
    #[error(
        "bucket {bucket} of the gradients was not summed on rank {rank} of {world_size}: {message}; {standing}. Of ranks \
         that stand still the one with the fewest exchanges is the one that the others wait for"
    )]
    Gpu {
        /// The rank that saw it.
        rank: usize,
        /// The number of ranks.
        world_size: usize,
        /// The bucket.
        bucket: usize,
        /// The words of the driver or of NCCL.
        message: String,
        /// What the rank's ledger says.
        standing: String,
    },
    /// MPI returned an error.
    #[error("{operation} failed on rank {rank} of {world_size}: {message}")]
    Transport {
        /// The MPI call.
        operation: &'static str,
        /// The rank that saw it.
        rank: usize,
        /// The number of ranks.
        world_size: usize,
        /// MPI's own words.
        message: String,
    },
}
