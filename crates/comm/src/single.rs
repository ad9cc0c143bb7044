//! Collective operations of a run with one rank.

use admiral_contract::ExitCode;

use crate::collective::Collective;
use crate::error::CollectiveError;

/// A run with one rank. Every sum is the value itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Single;

impl Single {
    fn check_root(operation: &'static str, root: usize) -> Result<(), CollectiveError> {
        if root == 0 { Ok(()) } else { Err(CollectiveError::NoSuchRank { operation, root, world_size: 1 }) }
    }
}

impl Collective for Single {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn all_reduce_sum_f32(&self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn background_all_reduce_sum_f32(&self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_reduce_sum_f64(&self, _values: &mut [f64]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn broadcast(&self, root: usize, _bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        Self::check_root("broadcast", root)
    }

    fn gather(&self, root: usize, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, CollectiveError> {
        Self::check_root("gather", root)?;
        Ok(Some(vec![bytes.to_vec()]))
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        Ok(vec![bytes.to_vec()])
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn background_barrier(&self) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn sendrecv(&self, peer: usize, _bytes: &mut [u8]) -> Result<(), CollectiveError> {
        Self::check_root("sendrecv", peer)
    }

    fn abort(&self, code: ExitCode) -> ! {
        std::process::exit(i32::from(code as u8))
    }
}
