//! Summing gradients over ranks, bucket by bucket.

use tch::{Device, Kind, Tensor};

use super::buckets::{Bucket, Slot, cut};
use super::{Collective, CollectiveError};
use crate::ledger;

/// Sums flat gradient buffers over ranks.
#[derive(Debug)]
pub struct GradientReducer {
    buckets: Vec<Bucket>,
    /// For each buffer that is not in float32 the float32 buffer that takes its sums; made at the first use.
    sums: Vec<Option<Tensor>>,
}

impl GradientReducer {
    /// Prepares for flat buffers in which each parameter lies where `slots` says, in the network's order, with
    /// buckets of at most `bucket_bytes` ([`DEFAULT_BUCKET_BYTES`](super::DEFAULT_BUCKET_BYTES)).
    #[must_use]
    pub fn new(slots: &[Slot], bucket_bytes: usize) -> Self {
        Self { buckets: cut(slots, bucket_bytes), sums: Vec::new() }
    }

    /// Sums the flat buffers `gradients`, each `[elements]`, over the ranks and returns the sums, one for each
    /// buffer and on its device.
    ///
    /// A float32 buffer is summed in place and returned. The sums of a half-precision buffer come in float32, in
    /// memory that the next call uses again: a sum of finite gradients does not overflow, and one rank's infinity
    /// or NaN is there on all ranks, so that all skip the step alike. One rank alone gets its buffers back as
    /// they are. CUDA buffers pass through host memory.
    ///
    /// Every rank calls it with buffers of the same lengths and types.
    ///
    /// # Errors
    /// When the ranks cannot reach each other; the contents of the buffers are then undefined.
    ///
    /// # Panics
    /// When a buffer is not a contiguous vector that holds the slots.
    pub fn reduce(
        &mut self,
        collective: &dyn Collective,
        gradients: &[&Tensor],
    ) -> Result<Vec<Tensor>, CollectiveError> {
        if collective.world_size() == 1 {
            return Ok(gradients.iter().map(|gradient| gradient.shallow_clone()).collect());
        }
        let _no_grad = tch::no_grad_guard();
        self.sums.resize_with(gradients.len(), || None);
        let sums: Vec<Tensor> =
            gradients.iter().zip(&mut self.sums).map(|(gradient, kept)| sum_buffer(gradient, kept)).collect();
        for (number, Bucket { buffer, elements, .. }) in self.buckets.iter().enumerate() {
            let part = |flat: &Tensor| flat.narrow(0, elements.start as i64, elements.len() as i64);
            let mut sum = part(&sums[*buffer]);
            if gradients[*buffer].kind() != Kind::Float {
                sum.copy_(&part(gradients[*buffer]));
            }
            let is_on_host = sum.device() == Device::Cpu;
            // Here a rank waits for its GPU: until that has done the bucket's part of backward, it has not come to it.
            let mut host = if is_on_host { sum.shallow_clone() } else { sum.to_device(Device::Cpu) };
            let exchange = ledger::reduce(number);
            collective.all_reduce_sum_f32(values(&mut host))?;
            drop(exchange);
            if !is_on_host {
                sum.copy_(&host);
            }
        }
        Ok(sums)
    }
}

/// Where the sums of a flat buffer go: the buffer itself in float32, else `kept`, made when there is none yet.
fn sum_buffer(gradient: &Tensor, kept: &mut Option<Tensor>) -> Tensor {
    if gradient.kind() == Kind::Float {
        return gradient.shallow_clone();
    }
    kept.get_or_insert_with(|| Tensor::zeros(gradient.size(), (Kind::Float, gradient.device()))).shallow_clone()
}

/// The values of a flat float32 tensor in host memory.
fn values(flat: &mut Tensor) -> &mut [f32] {
    assert!(
        flat.kind() == Kind::Float && flat.device() == Device::Cpu && flat.dim() == 1 && flat.is_contiguous(),
        "gradients are summed in contiguous float32 vectors, not in {flat:?}"
    );
    // SAFETY: a contiguous vector of `numel` floats in host memory, which lives as long as the borrow of its tensor.
    unsafe { std::slice::from_raw_parts_mut(flat.data_ptr().cast(), flat.numel()) }
}
