//! Bounds of squared distances from products in float32.
//!
//! With u = 2^-24, a dot product of w terms in float32 has an error of at most `w u / (1 - w u) |a||b|` in any order of
//! summation (Higham, "Accuracy and stability of numerical algorithms", section 3.1). So the error of the squared
//! distance is at most `w u / (1 - w u) (|a| + |b|)^2 / 2`, and a few u more for the rounding of rows and of the
//! formula itself. Rows are taken about the mean of both tables, which makes |a| and |b| small.

use super::Features;
use super::tiles::{Panel, Tile, vectorized};

/// The unit roundoff of float32.
const ROUNDOFF: f32 = 1.0 / 16_777_216.0;

/// What turns products of rows into bounds of their distances.
pub(crate) struct Bounds {
    center: Vec<f32>,
    /// The error of a squared distance is at most this times the square of the sum of both norms.
    error: f32,
}

/// The norms of the rows of a panel about the center.
struct Norms {
    plain: Vec<f32>,
    squared: Vec<f32>,
}

/// Some rows of a table about the center.
pub(crate) struct Rows {
    pub panel: Panel<f32>,
    norms: Norms,
}

impl Bounds {
    /// Returns the bounds for two tables of the same width.
    pub fn new(tables: [&Features<'_>; 2]) -> Self {
        let width = tables[0].width();
        let mut sums = vec![0.0; width];
        for table in tables {
            for row in table.values().chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        let num = (tables[0].num() + tables[1].num()).max(1) as f64;
        let relative = (width as f32 + 2.0) * ROUNDOFF;
        Self {
            center: sums.iter().map(|sum| (sum / num) as f32).collect(),
            // No bound exists for widths above 2^23. All pairs are computed from their differences then.
            error: if relative < 0.5 { 0.5 * relative / (1.0 - relative) + 16.0 * ROUNDOFF } else { f32::INFINITY },
        }
    }

    /// Returns some rows of a table.
    pub fn rows(&self, table: &Features<'_>, range: std::ops::Range<usize>) -> Rows {
        let first = range.start;
        let panel = Panel::new(first, range.len(), table.width(), |index, row| {
            for ((out, &value), &center) in row.iter_mut().zip(table.row(first + index)).zip(&self.center) {
                *out = value - center;
            }
        });
        let squared = panel.map_rows(|row| row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>());
        let norms = Norms {
            plain: squared.iter().map(|squared| squared.sqrt() as f32).collect(),
            squared: squared.iter().map(|&squared| squared as f32).collect(),
        };
        Rows { panel, norms }
    }

    /// Replaces the products of a tile by lower bounds of the squared distances. Where float32 overflows, the bound is
    /// NaN, which [`is_above`] no limit.
    pub fn lower(&self, tile: &mut Tile<'_, f32>, left: &Rows, right: &Rows) {
        let columns = tile.columns.len();
        let first = tile.columns.start - right.panel.first;
        let (plain, squared) = (&right.norms.plain[first..][..columns], &right.norms.squared[first..][..columns]);
        for (row, values) in tile.rows.clone().zip(tile.products.chunks_exact_mut(columns)) {
            let row = row - left.panel.first;
            let own = [left.norms.plain[row], left.norms.squared[row]];
            lower_bounds(values, own, [plain, squared], self.error);
        }
    }

    /// Returns the upper bound that belongs to a lower bound.
    #[inline(always)]
    pub fn upper(&self, lower: f32, norms: [f32; 2]) -> f32 {
        let both = norms[0] + norms[1];
        lower + 2.0 * self.error * (both * both)
    }
}

/// Replaces the products of a row by lower bounds. `own` and `other` are the norms of the row and of the columns, plain
/// and squared.
fn lower_bounds(values: &mut [f32], own: [f32; 2], other: [&[f32]; 2], error: f32) {
    vectorized(
        // The closure owns the slices: were they behind references, each store could change them.
        #[inline(always)]
        move || {
            for ((value, &norm), &squared) in values.iter_mut().zip(other[0]).zip(other[1]) {
                let both = own[0] + norm;
                let bound = (own[1] + squared - 2.0 * *value) - error * (both * both);
                // An infinite bound is as useless as NaN. Multiplied by 0, it is NaN.
                *value = bound + 0.0 * bound;
            }
        },
    );
}

impl Rows {
    /// Returns the norm of a row, by its position in the table.
    pub fn norm(&self, row: usize) -> f32 {
        self.norms.plain[row - self.panel.first]
    }
}

/// Returns a number in float32 that is at least `value`.
pub(crate) fn above(value: f64) -> f32 {
    let rounded = value as f32;
    if f64::from(rounded) < value { rounded.next_up() } else { rounded }
}

/// Returns a number in float32 that is at most `value`.
pub(crate) fn below(value: f64) -> f32 {
    let rounded = value as f32;
    if f64::from(rounded) > value { rounded.next_down() } else { rounded }
}

/// Returns whether a bound is certainly above a limit. NaN is not.
#[inline(always)]
pub(crate) fn is_above(bound: f32, limit: f32) -> bool {
    bound > limit
}

/// Returns the squared distance of two rows, computed from their differences in float64. It is the same to the bit in
/// both directions, and equal rows have distance 0.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            let difference = f64::from(a[lane]) - f64::from(b[lane]);
            sums[lane] += difference * difference;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tests::pool_like;
    use crate::tiles::{Pairs, visit_tiles};

    #[test]
    fn bounds_contain_the_distances() {
        let (left, right) = (pool_like(40, 300, 3), pool_like(50, 300, 4));
        let (left, right) = (Features::new(&left, 300).unwrap(), Features::new(&right, 300).unwrap());
        let bounds = Bounds::new([&left, &right]);
        let (own, other) = (bounds.rows(&left, 0..40), bounds.rows(&right, 0..50));
        visit_tiles(&own.panel, &other.panel, Pairs::All, |mut tile| {
            bounds.lower(&mut tile, &own, &other);
            for row in 0..40 {
                for (column, &lower) in tile.row(row).iter().enumerate() {
                    let exact = squared_distance(left.row(row), right.row(column));
                    let upper = bounds.upper(lower, [own.norm(row), other.norm(column)]);
                    assert!(f64::from(lower) < exact && exact < f64::from(upper));
                    assert!(f64::from(upper - lower) < 1e-4 * f64::from(own.norm(row) + other.norm(column)).powi(2));
                }
            }
        });
    }

    #[test]
    fn small_distances_of_large_values_are_exact() {
        let (a, b): (Vec<f32>, Vec<f32>) = (vec![4096.0; 19], vec![4096.001; 19]);
        let step = f64::from(4096.001_f32) - 4096.0;
        assert!((squared_distance(&a, &b) / (19.0 * step * step) - 1.0).abs() < 1e-14);
        assert_eq!(squared_distance(&a, &a), 0.0);
    }
}
