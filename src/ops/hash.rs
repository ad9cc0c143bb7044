//! Hashes of flat tensors, by which ranks compare what they hold.

use admiral_gpu::hash::{hash_words, num_partials, of_words};
use tch::{Device, Kind, Tensor};

use super::launcher::{GpuLauncher, address};
use super::{Error, Kernels};

/// The bytes of a word that is hashed.
const WORD: usize = 8;

/// Returns the hash of the bytes of each tensor, as [`admiral_gpu::hash`] defines it. It is the same on every device. The
/// tensors are contiguous and on one device, and their length in bytes is a multiple of 8. On a GPU the host waits once.
///
/// # Errors
/// If a tensor is unsuitable, or a kernel launch or libtorch fails.
pub fn hashes(kernels: &Kernels, tensors: &[&Tensor]) -> Result<Vec<u64>, Error> {
    let _no_grad = tch::no_grad_guard();
    if let Some(tensor) =
        tensors.iter().find(|tensor| !tensor.is_contiguous() || !num_bytes(tensor).is_multiple_of(WORD))
    {
        return Err(unsuitable(tensor));
    }
    let Some(first) = tensors.first() else { return Ok(Vec::new()) };
    match kernels.gpu(first.device()) {
        Some(launcher) => run_gpu_kernels(launcher, tensors),
        None => tensors.iter().map(|tensor| on_host(&tensor.f_to_device(Device::Cpu)?)).collect(),
    }
}

fn num_bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

fn unsuitable(tensor: &Tensor) -> Error {
    Error::Unsuitable {
        operation: "hash",
        tensor: "flat memory",
        found: format!("{:?} of {:?} with strides {:?}", tensor.kind(), tensor.size(), tensor.stride()),
        expected: "contiguous, with a multiple of 8 bytes".into(),
    }
}

/// Returns the hash of a contiguous tensor on the CPU.
fn on_host(tensor: &Tensor) -> Result<u64, Error> {
    let num_words = num_bytes(tensor) / WORD;
    let words = tensor.data_ptr().cast::<u64>().cast_const();
    // SAFETY: the tensor is contiguous CPU memory of this length and outlives the iterator. Its alignment may be less
    // than that of a word.
    let word = |index| unsafe { words.add(index).read_unaligned() };
    Ok(of_words((0..num_words).map(word)))
}

/// Enqueues the hashes of all tensors, then copies their partial sums to the host at once.
fn run_gpu_kernels(launcher: &GpuLauncher, tensors: &[&Tensor]) -> Result<Vec<u64>, Error> {
    let lengths: Vec<usize> = tensors.iter().map(|tensor| num_bytes(tensor) / WORD).collect();
    let total: usize = lengths.iter().map(|&length| num_partials(length)).sum();
    let partials = Tensor::f_empty([total as i64], (Kind::Int64, tensors[0].device()))?;
    let mut output = address(&partials);
    for (tensor, &length) in tensors.iter().zip(&lengths) {
        // SAFETY: the memory is contiguous and of this length, and `partials` has room for the sums of each tensor.
        // libtorch frees both on the same stream.
        unsafe { hash_words(launcher.launch(), address(tensor), length, output)? };
        output += (num_partials(length) * size_of::<u64>()) as u64;
    }
    let sums = Vec::<i64>::try_from(partials.f_to_device(Device::Cpu)?)?;
    let mut rest = sums.as_slice();
    let hash = |length: usize| {
        let (own, others) = rest.split_at(num_partials(length));
        rest = others;
        own.iter().fold(0, |sum: u64, partial| sum.wrapping_add(partial.cast_unsigned()))
    };
    Ok(lengths.into_iter().map(hash).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::emulator::Emulator;

    #[test]
    fn the_hash_is_the_same_on_all_devices_and_changes_with_each_bit() {
        tch::manual_seed(4);
        let tensors = [
            Tensor::randn([5000], (Kind::Float, Device::Cpu)),
            Tensor::randn([48], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16),
            Tensor::zeros([0], (Kind::Float, Device::Cpu)),
        ];
        let tensors: Vec<&Tensor> = tensors.iter().collect();
        let found = hashes(&Kernels::cpu(), &tensors).unwrap();
        // The source of the GPU kernel, run on the CPU.
        let launcher = GpuLauncher::new(Emulator::new(3));
        assert_eq!(run_gpu_kernels(&launcher, &tensors).unwrap(), found);
        for (place, bit) in [(0, 0), (4999, 31), (17, 12)] {
            let changed = tensors[0].copy();
            let _ = changed.view_dtype(Kind::Int).get(place).bitwise_xor_(1i64 << bit);
            assert_ne!(hashes(&Kernels::cpu(), &[&changed]).unwrap()[0], found[0], "bit {bit} of value {place}");
        }
    }

    #[test]
    fn unsuitable_tensors_are_refused() {
        let odd = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        let strided = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).tr();
        for tensor in [odd, strided] {
            assert!(hashes(&Kernels::cpu(), &[&tensor]).is_err());
        }
    }
}
