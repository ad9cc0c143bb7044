//! Reads and writes state dicts in PyTorch files, and reads them from safetensors files.
//!
//! A PyTorch file consists of a small pickle, which describes the tensors as views of storages, and the bytes of the
//! storages. Since PyTorch 1.6 both are in a zip archive; before, they follow each other. [`StateDict::open`]
//! interprets the pickle with a machine that supports only the operations and names of a state dict, so no file can
//! execute code. It does not read the storages. The tensors are then read one at a time. [`Writer`] writes an archive
//! that `torch.load` reads with `weights_only=True`, also one tensor at a time.
//!
//! Files may be hostile. Lengths are checked against the length of the file before memory is allocated. The size of the
//! pickle, the number of its operations and the size of the archive's directory are limited. Nothing is decompressed.

mod dtype;
mod error;
mod legacy;
mod pickle;
mod read;
mod safetensors;
mod source;
mod state_dict;
mod storages;
mod write;
mod zip;

pub use dtype::Dtype;
pub use error::Error;
pub use read::{StateDict, TensorInfo};
pub use write::{TensorSpec, Writer};
