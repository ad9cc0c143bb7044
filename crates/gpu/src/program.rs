//! The sources of the kernels, and the variants in which they are compiled.

use crate::kind::Kind;

/// A variant of a kernel source: the kernels of one operation, for given types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// Group normalization.
    GroupNorm {
        /// Whether the layout is channels-last.
        channels_last: bool,
        /// The type of the values.
        kind: Kind,
        /// The number of values that a thread loads or stores at once: 1, or [`Kind::vector_width`].
        width: usize,
        /// Whether SiLU follows the normalization.
        silu: bool,
        /// Whether dropout follows SiLU.
        dropout: bool,
    },
    /// The optimizer.
    Adam {
        /// The type of the gradient.
        gradient: Kind,
        /// The type of the half-precision copy of the parameters, if there is one.
        half: Option<Kind>,
    },
    /// A hash of memory.
    Hash,
    /// Sums of squares, and the decision about a step that follows from them.
    Norms {
        /// The type of the values.
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
    /// Returns the name of its main file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.files().last().map_or("", |(name, _)| name)
    }

    /// Returns the compiler options that select the variant.
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
            Self::Hash => Vec::new(),
            Self::Norms { kind } => vec![format!("-DKIND={}", kind.number())],
        }
    }

    /// Returns the names of its kernels.
    #[must_use]
    pub fn kernels(&self) -> &'static [&'static str] {
        match self {
            Self::GroupNorm { channels_last: true, .. } => &[
                "group_norm_statistics_channels_last",
                "group_norm_apply_channels_last",
                "group_norm_sums_channels_last",
                "group_norm_dx_terms",
                "group_norm_dx_channels_last",
                "group_norm_weights",
            ],
            Self::GroupNorm { channels_last: false, .. } => &[
                "group_norm_statistics_contiguous",
                "group_norm_apply_contiguous",
                "group_norm_sums_contiguous",
                "group_norm_dx_terms",
                "group_norm_dx_contiguous",
                "group_norm_weights",
            ],
            Self::Adam { .. } => &["adam", "more_averages"],
            Self::Hash => &["hash_words"],
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
            Self::Hash => &[ELEMENTS, REDUCE, file!("hash.cu")],
            Self::Norms { .. } => &[ELEMENTS, REDUCE, CONTROL, file!("norms.cu")],
        }
    }

    /// Returns the complete source. Each file starts with a line directive, so that the compiler's messages name the
    /// file.
    #[must_use]
    pub fn source(&self) -> String {
        self.files().iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
    }

    /// Returns every variant that Admiral uses.
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
        all.push(Self::Hash);
        all
    }
}
