//! The names that a pickle may use, and the types of numbers.

use super::refusal::{refuse, refuse_form};
use crate::error::shown;

/// A name that a pickle may use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name {
    /// `numpy.core.multiarray._reconstruct`, which makes an empty array. Its state follows.
    Reconstruct,
    /// `numpy.core.multiarray.scalar`: a number from a type and bytes.
    Scalar,
    /// `numpy.ndarray`, an argument of `_reconstruct`.
    NdArray,
    /// `numpy.dtype`.
    Dtype,
    /// `_codecs.encode`, by which protocol 2 writes bytes.
    Encode,
    /// `bytes`, by which protocol 2 writes no bytes.
    Bytes,
}

impl Name {
    pub(super) fn find(module: &str, name: &str) -> Result<Self, String> {
        match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Ok(Self::Reconstruct),
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Ok(Self::Scalar),
            ("numpy", "ndarray") => Ok(Self::NdArray),
            ("numpy", "dtype") => Ok(Self::Dtype),
            ("_codecs", "encode") => Ok(Self::Encode),
            ("__builtin__" | "builtins", "bytes") => Ok(Self::Bytes),
            _ => refuse(shown(&format!("{module}.{name}"))),
        }
    }
}

/// The type of the elements of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Object,
}

impl Dtype {
    pub(super) fn find(code: &str) -> Result<Self, String> {
        match code {
            "f4" => Ok(Self::Float32),
            "f8" => Ok(Self::Float64),
            "i1" => Ok(Self::Int8),
            "i2" => Ok(Self::Int16),
            "i4" => Ok(Self::Int32),
            "i8" => Ok(Self::Int64),
            "u1" => Ok(Self::UInt8),
            "u2" => Ok(Self::UInt16),
            "u4" => Ok(Self::UInt32),
            "u8" => Ok(Self::UInt64),
            "O" | "O8" => Ok(Self::Object),
            other => refuse_form(format_args!("type {}", shown(other))),
        }
    }

    /// Returns the numbers that bytes hold, or `None` if they are no whole number of them.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<Vec<f64>> {
        fn all<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
            let (numbers, rest) = bytes.as_chunks::<N>();
            rest.is_empty().then(|| numbers.iter().map(|&bytes| number(bytes)).collect())
        }
        match self {
            Self::Float32 => all(bytes, |bytes| f32::from_le_bytes(bytes).into()),
            Self::Float64 => all(bytes, f64::from_le_bytes),
            Self::Int8 => all(bytes, |bytes| i8::from_le_bytes(bytes).into()),
            Self::Int16 => all(bytes, |bytes| i16::from_le_bytes(bytes).into()),
            Self::Int32 => all(bytes, |bytes| i32::from_le_bytes(bytes).into()),
            Self::Int64 => all(bytes, |bytes| i64::from_le_bytes(bytes) as f64),
            Self::UInt8 => all(bytes, |bytes| u8::from_le_bytes(bytes).into()),
            Self::UInt16 => all(bytes, |bytes| u16::from_le_bytes(bytes).into()),
            Self::UInt32 => all(bytes, |bytes| u32::from_le_bytes(bytes).into()),
            Self::UInt64 => all(bytes, |bytes| u64::from_le_bytes(bytes) as f64),
            Self::Object => None,
        }
    }
}
