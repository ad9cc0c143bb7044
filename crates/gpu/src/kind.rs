//! Kinds of elements.

/// The kind of a value in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 32 bits.
    Float,
    /// IEEE half precision.
    Half,
    /// The upper half of a float.
    BFloat16,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Float, Self::Half, Self::BFloat16];

    /// Bytes of one value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Float => 4,
            Self::Half | Self::BFloat16 => 2,
        }
    }

    /// Values in the 16 bytes that a thread moves at once.
    #[must_use]
    pub fn vector_width(self) -> usize {
        16 / self.bytes()
    }

    /// Its number in the kernels (`elements.cuh`).
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Float => 0,
            Self::Half => 1,
            Self::BFloat16 => 2,
        }
    }
}
