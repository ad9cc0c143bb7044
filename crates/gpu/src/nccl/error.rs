//! Errors of NCCL.

use crate::library::LibraryError;

/// Why NCCL did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// NCCL is not at hand.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A call failed, or one that was under way did.
    #[error(
        "{call} failed on rank {rank} of {world}: {word} ({code}){}; NCCL_DEBUG=INFO makes NCCL say more",
        detail(.last)
    )]
    Call {
        /// The function; of an asynchronous failure, what found it.
        call: &'static str,
        /// This rank.
        rank: usize,
        /// How many ranks there are.
        world: usize,
        /// NCCL's number of the failure.
        code: i32,
        /// NCCL's word for it.
        word: String,
        /// What NCCL itself wrote of its last error; may be empty.
        last: String,
    },
    /// A start or an end took too long.
    #[error(
        "{call} on rank {rank} of {world} has not ended after {seconds} s: a peer is missing or cannot be reached; \
         NCCL_DEBUG=INFO shows who waits for whom, NCCL_SOCKET_IFNAME names the network to use"
    )]
    Deadline {
        /// The function.
        call: &'static str,
        /// This rank.
        rank: usize,
        /// How many ranks there are.
        world: usize,
        /// How long was waited.
        seconds: u64,
    },
    /// The communicator was aborted.
    #[error("{call} on rank {rank}: the communicator was aborted before")]
    Aborted {
        /// The function.
        call: &'static str,
        /// This rank.
        rank: usize,
    },
    /// A rank that is not below the number of ranks, or numbers too large for NCCL.
    #[error("rank {rank} of {world} cannot be: ranks count from 0 and are fewer than 2^31")]
    Rank {
        /// As asked for.
        rank: usize,
        /// As asked for.
        world: usize,
    },
}

fn detail(last: &str) -> String {
    if last.trim().is_empty() { String::new() } else { format!("; it said: {}", last.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_call_rank_nccls_word_and_what_to_do() {
        let error = NcclError::Call {
            call: "ncclAllReduce",
            rank: 3,
            world: 8,
            code: 6,
            word: "remote process exited or there was a network error".into(),
            last: "Connection closed by remote peer\n".into(),
        };
        assert_eq!(
            error.to_string(),
            "ncclAllReduce failed on rank 3 of 8: remote process exited or there was a network error (6); it said: \
             Connection closed by remote peer; NCCL_DEBUG=INFO makes NCCL say more"
        );
        let error = NcclError::Deadline { call: "ncclCommInitRankConfig", rank: 0, world: 2, seconds: 60 };
        assert!(error.to_string().contains("has not ended after 60 s: a peer is missing"), "{error}");
    }
}
