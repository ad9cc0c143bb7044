//! The range, the ticks and the tick labels of an axis.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// The part of the values' range that is added at both ends.
const MARGIN: f64 = 0.05;

/// The power of ten that bounds the values of both ends, so that no computation overflows.
const MAX_POWER: f64 = 300.0;

/// The number of intervals between ticks that a linear axis has at most.
const MAX_INTERVALS: f64 = 10.0;

/// An axis. On a logarithmic axis, positions are logarithms to base 10 of the values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    /// The positions of both ends.
    pub(crate) range: [f64; 2],
    /// The positions of the ticks, ascending.
    pub(crate) ticks: Vec<f64>,
    is_log: bool,
    decimals: usize,
}

impl Axis {
    /// Returns the axis that shows values from `least` to `most`, both finite, and positive if `is_log`. `None` if they
    /// lie too far apart.
    pub(crate) fn new(least: f64, most: f64, is_log: bool) -> Option<Self> {
        let [low, high] = [least, most].map(|value| if is_log { value.log10() } else { value });
        // Equal values get a range around them.
        let span = if high > low { high - low } else { (0.1 * low.abs()).max(0.1) };
        let range = [low - MARGIN * span, high + MARGIN * span];
        let most = if is_log { MAX_POWER } else { 10_f64.powf(MAX_POWER) };
        if !(range.iter().all(|end| end.abs() < most) && range[0] < range[1]) {
            return None;
        }
        if is_log {
            let ticks = log_ticks(range);
            // In a narrow range there may be no round number.
            if ticks.len() > 1 {
                return Some(Self { range, ticks, is_log, decimals: 0 });
            }
            let [from, to] = range.map(|end| 10_f64.powf(end));
            let (ticks, decimals) = linear_ticks(from, to);
            let ticks = ticks.into_iter().filter(|&tick| tick > 0.0).map(f64::log10).collect();
            return Some(Self { range, ticks, is_log, decimals });
        }
        let (ticks, decimals) = linear_ticks(range[0], range[1]);
        Some(Self { range, ticks, is_log, decimals })
    }

    /// Returns the position of a value.
    pub(crate) fn position(&self, value: f64) -> f64 {
        if self.is_log { value.log10() } else { value }
    }

    /// Returns the label of a tick at a position.
    pub(crate) fn label(&self, position: f64) -> String {
        let value = if self.is_log { 10_f64.powf(position) } else { position };
        let size = value.abs();
        if size != 0.0 && !(1e-4..1e6).contains(&size) {
            return format!("{value:.2e}").replace(".00e", "e").replace("0e", "e");
        }
        if self.is_log && self.decimals == 0 {
            // 1, 2 or 5 times a power of ten.
            let decimals = (-(size * 1.000_001).log10().floor()).max(0.0) as usize;
            return format!("{value:.decimals$}");
        }
        // Without the sign of a zero.
        format!("{:.*}", self.decimals, if size < f64::EPSILON { 0.0 } else { value })
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, position: &f64, (start, end): (i32, i32)) -> i32 {
        let [from, to] = self.range;
        start + ((position - from) / (to - from) * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range[0]..self.range[1]
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, position: &f64) -> String {
        self.label(*position)
    }
}

/// Returns round numbers in a range, and the number of decimals that tells them apart.
fn linear_ticks(from: f64, to: f64) -> (Vec<f64>, usize) {
    let raw = (to - from) / MAX_INTERVALS;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|factor| factor * power).find(|&step| step >= raw);
    let step = step.unwrap_or(10.0 * power);
    let decimals = (-(step * 1.000_001).log10().floor()).clamp(0.0, 12.0) as usize;
    let first = (from / step).ceil();
    let ticks = (0..=MAX_INTERVALS as i32 + 1).map(|index| (first + f64::from(index)) * step);
    (ticks.take_while(|&tick| tick <= to).collect(), decimals)
}

/// Returns the positions of 1, 2 and 5 times powers of ten in a range of positions, or of powers of ten only if the range
/// is wide.
fn log_ticks([from, to]: [f64; 2]) -> Vec<f64> {
    let span = to - from;
    let factors: &[f64] = if span > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    // Every so many powers, so that labels do not overlap.
    let stride = (span / MAX_INTERVALS).ceil().max(1.0);
    let mut power = (from.floor() / stride).floor() * stride;
    let mut ticks = Vec::new();
    while power <= to {
        ticks.extend(factors.iter().map(|factor| power + factor.log10()).filter(|&tick| from <= tick && tick <= to));
        power += stride;
    }
    ticks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels(least: f64, most: f64, is_log: bool) -> Vec<String> {
        let axis = Axis::new(least, most, is_log).unwrap();
        axis.ticks.iter().map(|&tick| axis.label(tick)).collect()
    }

    #[test]
    fn linear_ticks_are_round_numbers() {
        assert_eq!(labels(0.0, 10.0, false), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(0.31, 0.48, false), ["0.32", "0.34", "0.36", "0.38", "0.40", "0.42", "0.44", "0.46", "0.48"]);
        assert_eq!(labels(-1.0, 1.0, false), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(0.0, 4e6, false)[..4], ["0", "500000", "1e6", "1.5e6"]);
    }

    #[test]
    fn logarithmic_ticks_are_1_2_and_5_times_powers_of_ten() {
        assert_eq!(labels(5.0, 50.0, true), ["5", "10", "20", "50"]);
        assert_eq!(labels(0.1, 3.0, true), ["0.1", "0.2", "0.5", "1", "2"]);
        assert_eq!(labels(1.0, 1e5, true), ["1", "10", "100", "1000", "10000", "100000"]);
        // No two of them lie in this range.
        assert!(labels(11.0, 13.0, true).contains(&"12.0".to_owned()), "{:?}", labels(11.0, 13.0, true));
        assert!(labels(1e-200, 1e200, true).len() < 12);
    }

    #[test]
    fn every_range_has_ticks_inside_it() {
        for (least, most) in [(3.0, 3.0), (0.0, 0.0), (1e-9, 2e-9), (1e12, 1e12 + 1.0), (-5.0, -4.9), (0.0, 1e299)] {
            for is_log in [false, true] {
                if is_log && least <= 0.0 {
                    continue;
                }
                let axis = Axis::new(least, most, is_log).unwrap();
                assert!((2..=12).contains(&axis.ticks.len()), "{least} {most} {is_log}: {axis:?}");
                let [from, to] = axis.range;
                assert!(axis.ticks.iter().all(|&tick| from <= tick && tick <= to), "{axis:?}");
                assert!(axis.ticks.is_sorted());
            }
        }
        assert_eq!([Axis::new(-f64::MAX, f64::MAX, false), Axis::new(5e-324, 1.0, true)], [None, None]);
    }
}
