//! A mock collective for tests in which gradients must not pass through the host.

use admiral_comm::{Collective, CollectiveError, ExitCode};

/// Rank 0 of two ranks. The peer does the same as this rank, but gathers the given bytes. Sums on the host panic.
pub(super) struct MockPeer(pub(super) Vec<u8>);

impl Collective for MockPeer {
    fn rank(&self) -> usize {
        0
    }
    fn world_size(&self) -> usize {
        2
    }
    fn local_rank(&self) -> usize {
        0
    }
    fn all_reduce_sum_f32(&self, _: &mut [f32]) -> Result<(), CollectiveError> {
        panic!("gradients do not pass through the host")
    }
    fn background_all_reduce_sum_f32(&self, _: &mut [f32]) -> Result<(), CollectiveError> {
        panic!("gradients do not pass through the host")
    }
    fn all_reduce_sum_f64(&self, _: &mut [f64]) -> Result<(), CollectiveError> {
        panic!("gradients do not pass through the host")
    }
    fn broadcast(&self, _: usize, _: &mut Vec<u8>) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn gather(&self, _: usize, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, CollectiveError> {
        self.all_gather(bytes).map(Some)
    }
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        Ok(vec![bytes.to_vec(), self.0.clone()])
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn background_barrier(&self) -> Result<(), CollectiveError> {
        panic!("no barrier on the host")
    }
    fn sendrecv(&self, _: usize, _: &mut [u8]) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn abort(&self, _: ExitCode) -> ! {
        panic!("no test aborts")
    }
}
