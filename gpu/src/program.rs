//! Kernel sources: which files make up a program, and the variants in which it is compiled.

use crate::Kind;

/// One compilable text with its options.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program {
    topic: Topic,
    options: Vec<String>,
}

/// What a program's kernels do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Topic {
    GroupNormChannelsLast,
    GroupNormContiguous,
    Adam,
    Norms,
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
    /// Group normalization of values of one kind, moved `width` at once.
    #[must_use]
    pub fn group_norm(channels_last: bool, kind: Kind, width: usize, silu: bool, dropout: bool) -> Self {
        let topic = if channels_last { Topic::GroupNormChannelsLast } else { Topic::GroupNormContiguous };
        let options = vec![
            format!("-DKIND={}", kind.number()),
            format!("-DWIDTH={width}"),
            format!("-DSILU={}", u8::from(silu)),
            format!("-DDROPOUT={}", u8::from(dropout)),
        ];
        Self { topic, options }
    }

    /// The optimizer for gradients and a half copy of these kinds.
    #[must_use]
    pub fn adam(gradient: Kind, half: Option<Kind>) -> Self {
        let half = half.map_or(-1, Kind::number);
        let options = vec![format!("-DGRADIENT_KIND={}", gradient.number()), format!("-DHALF_KIND={half}")];
        Self { topic: Topic::Adam, options }
    }

    /// Sums of squares of values of one kind.
    #[must_use]
    pub fn norms(kind: Kind) -> Self {
        Self { topic: Topic::Norms, options: vec![format!("-DKIND={}", kind.number())] }
    }

    /// The name of its main file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.files().last().map_or("", |(name, _)| name)
    }

    /// The options that choose the variant, as a compiler takes them.
    #[must_use]
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// The kernels in it.
    #[must_use]
    pub fn kernels(&self) -> &'static [&'static str] {
        match self.topic {
            Topic::GroupNormChannelsLast => &[
                "group_norm_statistics_channels_last",
                "group_norm_apply_channels_last",
                "group_norm_sums_channels_last",
                "group_norm_levels",
                "group_norm_dx_channels_last",
                "group_norm_weights",
            ],
            Topic::GroupNormContiguous => &[
                "group_norm_statistics_contiguous",
                "group_norm_apply_contiguous",
                "group_norm_sums_contiguous",
                "group_norm_levels",
                "group_norm_dx_contiguous",
                "group_norm_weights",
            ],
            Topic::Adam => &["adam", "more_averages"],
            Topic::Norms => &["sum_of_squares", "finish_norms"],
        }
    }

    fn files(&self) -> &'static [(&'static str, &'static str)] {
        match self.topic {
            Topic::GroupNormChannelsLast => {
                &[ELEMENTS, REDUCE, PHILOX, GROUP_NORM, file!("group_norm_channels_last.cu")]
            }
            Topic::GroupNormContiguous => &[ELEMENTS, REDUCE, PHILOX, GROUP_NORM, file!("group_norm_contiguous.cu")],
            Topic::Adam => &[ELEMENTS, CONTROL, file!("adam.cu")],
            Topic::Norms => &[ELEMENTS, REDUCE, CONTROL, file!("norms.cu")],
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
                        all.push(Self::group_norm(channels_last, kind, width, silu, dropout));
                    }
                }
            }
            for half in [None, Some(Kind::Half), Some(Kind::BFloat16)] {
                all.push(Self::adam(kind, half));
            }
            all.push(Self::norms(kind));
        }
        all
    }
}
