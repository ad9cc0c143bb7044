//! Errors of NCCL.

use crate::library::LibraryError;

/// An error of NCCL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// NCCL is not available.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A call failed, or an asynchronous operation that it found.
    #[error(
        "{call} failed on rank {rank} of {world}: {description} ({code}){}; NCCL_DEBUG=INFO makes NCCL say more",
        detail(.last_error)
    )]
    Call {
        /// The function that failed, or that found the failure of an asynchronous operation.
        call: &'static str,
        /// This rank.
        rank: usize,
        /// The number of ranks.
        world: usize,
        /// NCCL's error code.
        code: i32,
        /// NCCL's description of the error code.
        description: String,
        /// NCCL's message about its last error; may be empty.
        last_error: String,
    },
    /// Creating or finalizing a communicator took too long.
    #[error(
        "{call} on rank {rank} of {world} has not ended after {seconds} s: a peer is missing or cannot be reached; \
         NCCL_DEBUG=INFO shows who waits for whom, NCCL_SOCKET_IFNAME names the network to use"
    )]
    Timeout {
        /// The function.
        call: &'static str,
        /// This rank.
        rank: usize,
        /// The number of ranks.
        world: usize,
        /// The timeout in seconds.
        seconds: u64,
    },
    /// The communicator was aborted before the call.
    #[error("{call} on rank {rank}: the communicator was aborted before")]
    Aborted {
        /// The function.
        call: &'static str,
        /// This rank.
        rank: usize,
    },
    /// The rank is not below the number of ranks, or a number is too large for NCCL.
    #[error("rank {rank} of {world} cannot be: ranks count from 0 and are fewer than 2^31")]
    Rank {
        /// The requested rank.
        rank: usize,
        /// The requested number of ranks.
        world: usize,
    },
}

fn detail(last_error: &str) -> String {
    if last_error.trim().is_empty() { String::new() } else { format!("; it said: {}", last_error.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_contain_the_call_the_rank_the_description_and_advice() {
        let error = NcclError::Call {
            call: "ncclAllReduce",
            rank: 3,
            world: 8,
            code: 6,
            description: "remote process exited or there was a network error".into(),
            last_error: "Connection closed by remote peer\n".into(),
        };
        assert_eq!(
            error.to_string(),
            "ncclAllReduce failed on rank 3 of 8: remote process exited or there was a network error (6); it said: \
             Connection closed by remote peer; NCCL_DEBUG=INFO makes NCCL say more"
        );
        let error = NcclError::Timeout { call: "ncclCommInitRankConfig", rank: 0, world: 2, seconds: 60 };
        assert!(error.to_string().contains("has not ended after 60 s: a peer is missing"), "{error}");
    }
}
