//! The filters of a resize, and the weights of old pixels for each new one, in fixed point.

/// The number of fractional bits of a coefficient. A sum of 32 bits also has 8 bits for a pixel and 2 bits of headroom.
pub(crate) const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The mean of the old pixels that a new pixel covers.
    Box,
    /// Cubic convolution with a = -0.5 (Keys 1981).
    Bicubic,
}

impl Filter {
    /// Returns the half width of the filter.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    /// Returns the weight at the distance `x` from the center.
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bicubic => match x.abs() {
                x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                _ => 0.0,
            },
        }
    }
}

/// For some neighboring pixels of a new line: the pixels of the old line that contribute to each, and their weights.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// The first old pixel of each window.
    pub(crate) firsts: Vec<usize>,
    /// The number of old pixels of each window.
    pub(crate) counts: Vec<usize>,
    /// The weights of all windows, `stride` for each. Those after the window's count are 0.
    pub(crate) weights: Vec<i32>,
    pub(crate) stride: usize,
    /// Whether each window is the mean of two old pixels, and the windows follow each other without a gap.
    pub(crate) is_half: bool,
}

impl Windows {
    /// Returns the windows of the `kept` pixels of a line of `new` pixels that is made from `old` pixels.
    pub(crate) fn new(old: usize, new: usize, kept: std::ops::Range<usize>, filter: Filter) -> Self {
        let scale = old as f64 / new as f64;
        // When reducing, widen the filter, so that every old pixel contributes.
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let inverse = 1.0 / filter_scale;
        let stride = (2 * support.ceil() as usize + 1).next_multiple_of(4);
        let mut windows = Self {
            firsts: Vec::with_capacity(kept.len()),
            counts: Vec::with_capacity(kept.len()),
            weights: vec![0; kept.len() * stride],
            stride,
            is_half: filter == Filter::Box && old == 2 * new,
        };
        if windows.is_half {
            windows.firsts.extend(kept.clone().map(|position| 2 * position));
            windows.counts.resize(kept.len(), 2);
            windows.weights.chunks_exact_mut(stride).for_each(|fixed| fixed[..2].fill(1 << (PRECISION_BITS - 1)));
            return windows;
        }
        let mut exact = vec![0.0; stride];
        for (position, fixed) in kept.zip(windows.weights.chunks_exact_mut(stride)) {
            let center = (position as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let exact = &mut exact[..end - first];
            let mut sum = 0.0;
            for (x, weight) in (first..end).zip(exact.iter_mut()) {
                *weight = filter.weight((x as f64 - center + 0.5) * inverse);
                sum += *weight;
            }
            for (weight, fixed) in exact.iter().zip(fixed) {
                let scaled = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1 << PRECISION_BITS);
                // Round half away from zero, as Pillow does with a cast of x + 0.5 or x - 0.5.
                *fixed = (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32;
            }
            windows.firsts.push(first);
            windows.counts.push(end - first);
        }
        windows
    }

    /// Returns the range of old pixels that contribute to any of the new ones.
    pub(crate) fn sources(&self) -> std::ops::Range<usize> {
        let start = self.firsts.first().copied().unwrap_or(0);
        let ends = self.firsts.iter().zip(&self.counts).map(|(first, count)| first + count);
        start..ends.max().unwrap_or(start)
    }

    /// Makes the windows those of a line that lacks its first `skipped` pixels.
    pub(crate) fn shift(&mut self, skipped: usize) {
        self.firsts.iter_mut().for_each(|first| *first -= skipped);
    }
}
