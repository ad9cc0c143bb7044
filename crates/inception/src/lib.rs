//! The weights of the Inception network of 2015, whose features the paper's metrics use.
//!
//! The network is Inception-v3 (Szegedy et al., 2015) as TensorFlow published it on 2015-12-05, with 1008 classes.
//! [`convolutions`] describes its convolutions, and [`tensors`] lists its 472 tensors by the names of pytorch-fid and
//! torch-fidelity. [`Weights::open`] reads them from a PyTorch file, a safetensors file, or TensorFlow's graph file.
//!
//! Files may be hostile. No pickle is executed, no memory is allocated for more values than the file has bytes or the
//! network has weights, and nothing in the file recurses.

mod convert;
mod error;
mod fingerprint;
mod graph;
mod known;
mod layers;
mod names;
mod read;
mod state_dict;
mod tensorflow;
mod tensors;
mod weights;
mod wire;

pub use convert::Conversion;
pub use error::Error;
pub use graph::{Constant, Graph};
pub use known::{KnownFile, VARIABLE, how_to_get};
pub use layers::{Convolution, convolutions};
pub use tensors::{CLASSES, POOL, TensorShape, tensors};
pub use weights::{FileKind, Weights};
