//! State dicts in files: PyTorch's, read and written without executing them, and safetensors'.
//!
//! A file of PyTorch's is a small pickle, which names tensors and says how they lie in storages, and the bytes of the
//! storages: in a zip archive since PyTorch 1.6, one after the other before. [`StateDict::open`] runs the pickle on a
//! machine of its own that knows what a state dict needs and nothing else, so no file can make it call anything; it
//! reads no storage. Tensors are then read one at a time, from a file of safetensors too. [`Writer`] writes an archive
//! that `torch.load` reads with `weights_only=True`, again one tensor at a time.
//!
//! Files may be hostile. Lengths are checked against the file's before memory is taken; the pickle's size, the number
//! of its operations and the archive's directory have limits; nothing is decompressed.

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
