//! The element types of device memory.

/// The type of a value in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IEEE single precision, 32 bits.
    Float,
    /// IEEE half precision, 16 bits.
    Half,
    /// bfloat16: the upper 16 bits of a single-precision value.
    BFloat16,
}

impl Kind {
    /// All types.
    pub const ALL: [Self; 3] = [Self::Float, Self::Half, Self::BFloat16];

    /// Returns the size of a value in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Float => 4,
            Self::Half | Self::BFloat16 => 2,
        }
    }

    /// Returns the number of values in 16 bytes, the most that a thread loads or stores at once.
    #[must_use]
    pub fn vector_width(self) -> usize {
        16 / self.bytes()
    }

    /// Returns its number in the kernels (`elements.cuh`).
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Float => 0,
            Self::Half => 1,
            Self::BFloat16 => 2,
        }
    }
}
