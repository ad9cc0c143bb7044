//! The choice between exact and fast decoding.

use serde::{Deserialize, Serialize};

/// How the pixels of JPEG files are decoded. Other formats are always decoded exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// Every pixel is that of Pillow.
    #[default]
    Exact,
    /// A photograph is decoded at 1/2, 1/4 or 1/8 of its size, by inverse cosine transforms of fewer frequencies, if its
    /// short side keeps at least the length to which it is then resized. This takes the place of the halving with the box
    /// filter.
    Fast,
}

impl Decoding {
    /// Returns by how much a JPEG file is reduced while it is decoded: 1, 2, 4 or 8. `short_side` is that of the file, and
    /// `length` that to which the image is then resized.
    pub(crate) fn reduction(self, short_side: usize, length: usize) -> usize {
        match self {
            Self::Exact => 1,
            Self::Fast => [8, 4, 2].into_iter().find(|reduction| short_side / reduction >= length).unwrap_or(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_side_stays_long_enough() {
        let reductions = |length| [375, 512, 64, 2000].map(|side| Decoding::Fast.reduction(side, length));
        assert_eq!(reductions(64), [4, 8, 1, 8]);
        assert_eq!(reductions(256), [1, 2, 1, 4]);
        assert_eq!(Decoding::Exact.reduction(2000, 64), 1);
    }
}
