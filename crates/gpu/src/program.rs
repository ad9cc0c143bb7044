//! Kernel sources: which files make up a program, and the variants in which it is compiled.

use crate::kind::Kind;

/// One compilable text with its options: what the kernels do, and for which kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// Group normalization.
    GroupNorm {
        /// Whether channels lie together, not positions.
        channels_last: bool,
        /// Of the values.
        kind: Kind,
        /// Values that a thread moves at once: 1, or [`Kind::vector_width`].
        width: usize,
        /// Whether SiLU follows.
        silu: bool,
        /// Whether dropout follows that.
        dropout: bool,
    },
    /// The optimizer.
    Adam {
        /// Of the gradient.
        gradient: Kind,
        /// Of the copy that the network computes with, where there is one.
        half: Option<Kind>,
    },
    /// Sums of squares, and what follows from them for a step.
    Norms {
        /// Of the values.
        kind: Kind,
    },
}

macro_rules! file {
    ($name:literal) => {
        ($name, include_str!(concat!("kernels/", $name)))
    };
}

const ELEMENTS: (&str, &str) = file!("elements.cuh");
const REDUCE: (&str, &str) = file!("reduce.cuh");
const PHILOX: (&str, &str) = file!("philox.cuh");
const GROUP_NORM: (&str, &str) = file!("group_norm.cuh");
const CONTROL: (&str, &str) = file!("control.cuh");

impl Program {
    /// The name of its main file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.files().last().map_or("", |(name, _)| name)
    }

    /// The options that choose the variant, as a compiler takes them.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        match *self {
            Self::GroupNorm { kind, width, silu, dropout, .. } => vec![
                format!("-DKIND={}", kind.number()),
                format!("-DWIDTH={width}"),
                format!("-DSILU={}", u8::from(silu)),
                format!("-DDROPOUT={}", u8::from(dropout)),
            ],
            Self::Adam { gradient, half } => vec![
                format!("-DGRADIENT_KIND={}", gradient.number()),
                format!("-DHALF_KIND={}", half.map_or(-1, Kind::number)),
            ],
            Self::Norms { kind } => vec![format!("-DKIND={}", kind.number())],
        }
    }

    /// The kernels in it.
    #[must_use]
    pub fn kernels(&self) -> &'static [&'static str] {
        match self {
            Self::GroupNorm { channels_last: true, .. } => &[
                "group_norm_statistics_channels_last",
                "group_norm_apply_channels_last",
                "group_norm_sums_channels_last",
                "group_norm_levels",
                "group_norm_dx_channels_last",
                "group_norm_weights",
            ],
            Self::GroupNorm { channels_last: false, .. } => &[
                "group_norm_statistics_contiguous",
                "group_norm_apply_contiguous",
                "group_norm_sums_contiguous",
                "group_norm_levels",
                "group_norm_dx_contiguous",
                "group_norm_weights",
            ],
            Self::Adam { .. } => &["adam", "more_averages"],
            Self::Norms { .. } => &["sum_of_squares", "finish_norms"],
        }
    }

    fn files(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::GroupNorm { channels_last: true, .. } => {
                &[ELEMENTS, REDUCE, PHILOX, GROUP_NORM, file!("group_norm_channels_last.cu")]
            }
            Self::GroupNorm { channels_last: false, .. } => {
                &[ELEMENTS, REDUCE, PHILOX, GROUP_NORM, file!("group_norm_contiguous.cu")]
            }
            Self::Adam { .. } => &[ELEMENTS, CONTROL, file!("adam.cu")],
            Self::Norms { .. } => &[ELEMENTS, REDUCE, CONTROL, file!("norms.cu")],
        }
    }

    /// The whole text. Each file starts with a line directive, so that messages name the file that they are about.
    #[must_use]
    pub fn source(&self) -> String {
        self.files().iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
    }

    /// Every variant that Admiral may ask for.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            for channels_last in [true, false] {
                for width in [1, kind.vector_width()] {
                    for (silu, dropout) in [(false, false), (true, false), (true, true)] {
                        all.push(Self::GroupNorm { channels_last, kind, width, silu, dropout });
                    }
                }
            }
            for half in [None, Some(Kind::Half), Some(Kind::BFloat16)] {
                all.push(Self::Adam { gradient: kind, half });
            }
            all.push(Self::Norms { kind });
        }
        all
    }
}
