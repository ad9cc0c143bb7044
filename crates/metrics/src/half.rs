//! Precision and recall with distances in half precision, as the published evaluator computes them.
//!
//! With h = half(x), the norm of a row is half(sum of half(h h)), and the distance of the rows u and v is `D =
//! max(half(half(norm_u - 2 half(h_u . h_v)) + norm_v), 0)`. Sums are taken in float32 and then rounded, as libraries
//! do on GPUs. If any distance of a block of rows and columns is not finite, the whole block is `max(norm_u - 2 u . v +
//! norm_v, 0)` in float32, from the features as they are. u is a row of the reference, and v a generated row. For a
//! radius, u is the row itself, and v another row of its set; D(u, v) and D(v, u) can differ in the last bit.

use std::ops::Range;

use super::half_blocks::{Norms, Rows, Rule};
use super::manifold::{PrecisionRecall, check_neighbors};
use super::tiles::{CHUNK, Tile, ranges, vectorized};
use super::{Features, MetricError};

/// The rows and columns of a block of the published evaluator.
pub const BLOCK: usize = 10_000;

/// Returns the distance of each reference row to each generated row, `[reference, generated]`, row-major. A block has
/// at most `block` rows and columns; the evaluator's is [`BLOCK`].
///
/// # Errors
/// [`MetricError::Width`] if the widths differ. [`MetricError::Zero`] if `block` is 0.
pub fn distances(reference: &Features<'_>, generated: &Features<'_>, block: usize) -> Result<Vec<f32>, MetricError> {
    reference.check_width(generated)?;
    check_block(block)?;
    let columns = generated.num();
    let mut result = vec![0.0; reference.num() * columns];
    for rows in ranges(reference.num(), block) {
        let own = Rows::new(reference, rows);
        for range in ranges(columns, block) {
            let other = Rows::new(generated, range);
            let tiles = own.visit(&other, |tile, rule, norms| {
                let mut values = vec![0.0; tile.products.len()];
                let mut finite = true;
                for (row, into) in values.chunks_exact_mut(tile.columns.len()).enumerate() {
                    finite &= rule.distances_from_row(tile.row(row), norms[0][row], norms[1], into);
                }
                ((tile.rows.clone(), tile.columns.clone(), values), finite)
            });
            for (rows, range, values) in tiles {
                for (row, values) in rows.zip(values.chunks_exact(range.len())) {
                    result[row * columns..][range.clone()].copy_from_slice(values);
                }
            }
        }
    }
    Ok(result)
}

/// Returns the distance of each image to its `k`-th nearest neighbor in the same set: the (k + 1)-th smallest distance,
/// that of the image to itself included. In half precision that one need not be 0.
///
/// # Errors
/// [`MetricError::Zero`] if `k` or `block` is 0. [`MetricError::TooFew`] if there are not more than `k` images.
pub fn radii(features: &Features<'_>, k: usize, block: usize) -> Result<Vec<f32>, MetricError> {
    check_block(block)?;
    check_neighbors(features, k, "the radius of a manifold")?;
    let mut all = Smallest::new(features.num(), k + 1);
    for (number, rows) in ranges(features.num(), block).enumerate() {
        let own = Rows::new(features, rows);
        let within = own.visit_within(|tile, rule, norms| {
            let on_diagonal = tile.rows == tile.columns;
            let (found, finite) = smallest_of_tile(tile, rule, norms, k + 1, [true, !on_diagonal]);
            (found, finite[0] && finite[1])
        });
        within.iter().flatten().flatten().for_each(|part| all.merge(part));
        for range in ranges(features.num(), block).skip(number + 1) {
            let other = Rows::new(features, range);
            // The same products give the distances of both blocks that mirror each other. Each is finite or not.
            let both =
                own.visit_both(&other, |tile, rule, norms, wanted| smallest_of_tile(tile, rule, norms, k + 1, wanted));
            both.iter().flatten().flatten().for_each(|part| all.merge(part));
        }
    }
    Ok(all.last())
}

/// Returns precision and recall for balls that reach to the `k`-th nearest neighbor. The evaluator's `k` is 3, its
/// `block` [`BLOCK`].
///
/// # Errors [`MetricError::Width`] if the widths differ. [`MetricError::Zero`] if `k` or `block` is 0.
/// [`MetricError::TooFew`] if an image has fewer than `k` neighbors.
pub fn precision_recall(
    reference: &Features<'_>,
    generated: &Features<'_>,
    k: usize,
    block: usize,
) -> Result<PrecisionRecall, MetricError> {
    reference.check_width(generated)?;
    let [reference_radii, generated_radii] = [radii(reference, k, block)?, radii(generated, k, block)?];
    let mut reference_inside = vec![false; reference.num()];
    let mut generated_inside = vec![false; generated.num()];
    for rows in ranges(reference.num(), block) {
        let own = Rows::new(reference, rows);
        for range in ranges(generated.num(), block) {
            let other = Rows::new(generated, range);
            let tiles = own.visit(&other, |tile, rule, norms| {
                let radii = [&reference_radii[tile.rows.clone()], &generated_radii[tile.columns.clone()]];
                let (inside, finite) = inside_of_tile(tile, rule, norms, radii);
                ((tile.rows.clone(), tile.columns.clone(), inside), finite)
            });
            for (rows, columns, [in_rows, in_columns]) in tiles {
                reference_inside[rows].iter_mut().zip(in_rows).for_each(|(all, inside)| *all |= inside);
                generated_inside[columns].iter_mut().zip(in_columns).for_each(|(all, inside)| *all |= inside);
            }
        }
    }
    let fraction = |inside: &[bool]| inside.iter().filter(|inside| **inside).count() as f64 / inside.len() as f64;
    Ok(PrecisionRecall { precision: fraction(&generated_inside), recall: fraction(&reference_inside) })
}

fn check_block(block: usize) -> Result<(), MetricError> {
    if block == 0 { Err(MetricError::Zero { what: "the number of rows of a block" }) } else { Ok(()) }
}

/// The smallest distances of some rows of a table.
struct Smallest {
    first: usize,
    k: usize,
    /// `[rows, k]`, ascending.
    values: Vec<f32>,
}

impl Smallest {
    fn new(num: usize, k: usize) -> Self {
        Self { first: 0, k, values: vec![f32::INFINITY; num * k] }
    }

    fn of(rows: &Range<usize>, k: usize) -> Self {
        Self { first: rows.start, ..Self::new(rows.len(), k) }
    }

    /// Takes a distance. Returns the largest that is kept.
    fn push(&mut self, row: usize, distance: f32) -> f32 {
        let kept = &mut self.values[row * self.k..][..self.k];
        let last = self.k - 1;
        if distance < kept[last] {
            let position = kept.partition_point(|&other| other <= distance);
            kept[position..].rotate_right(1);
            kept[position] = distance;
        }
        kept[last]
    }

    fn merge(&mut self, part: &Self) {
        for (row, kept) in part.values.chunks_exact(self.k).enumerate() {
            for &distance in kept {
                self.push(part.first - self.first + row, distance);
            }
        }
    }

    fn last(&self) -> Vec<f32> {
        self.values.chunks_exact(self.k).map(|kept| kept[self.k - 1]).collect()
    }
}

/// Returns the smallest distances of a tile: those of each row to the columns, and those of each column to the rows, as
/// far as they are wanted; and whether they are all finite.
fn smallest_of_tile(
    tile: &Tile<'_, f32>,
    rule: Rule,
    norms: Norms<'_>,
    k: usize,
    wanted: [bool; 2],
) -> ([Option<Smallest>; 2], [bool; 2]) {
    let mut of_rows = wanted[0].then(|| Smallest::of(&tile.rows, k));
    let mut of_columns = wanted[1].then(|| Smallest::of(&tile.columns, k));
    let mut finite = [true; 2];
    let mut distances = vec![0.0; tile.columns.len()];
    let mut limits = vec![f32::INFINITY; tile.columns.len()];
    for row in 0..tile.rows.len() {
        let (products, norm) = (tile.row(row), norms[0][row]);
        if let Some(smallest) = &mut of_rows {
            finite[0] &= rule.distances_from_row(products, norm, norms[1], &mut distances);
            let mut limit = f32::INFINITY;
            for chunk in distances.chunks(CHUNK) {
                if chunk.iter().fold(0, |any, &distance| any | u32::from(distance < limit)) != 0 {
                    for &distance in chunk {
                        if distance < limit {
                            limit = smallest.push(row, distance);
                        }
                    }
                }
            }
        }
        if let Some(smallest) = &mut of_columns {
            finite[1] &= rule.distances_from_columns(products, norms[1], norm, &mut distances);
            for (number, (chunk, limits)) in distances.chunks(CHUNK).zip(limits.chunks_mut(CHUNK)).enumerate() {
                if chunk.iter().zip(&*limits).fold(0, |any, (distance, limit)| any | u32::from(distance < limit)) != 0 {
                    for (offset, (&distance, limit)) in chunk.iter().zip(limits).enumerate() {
                        if distance < *limit {
                            *limit = smallest.push(number * CHUNK + offset, distance);
                        }
                    }
                }
            }
        }
    }
    ([of_rows, of_columns], finite)
}

/// Returns which rows of a tile are inside the ball of a column, and which columns are inside the ball of a row; and
/// whether all distances are finite.
fn inside_of_tile(tile: &Tile<'_, f32>, rule: Rule, norms: Norms<'_>, radii: [&[f32]; 2]) -> ([Vec<bool>; 2], bool) {
    let mut in_rows = vec![false; tile.rows.len()];
    let mut in_columns = vec![0; tile.columns.len()];
    let mut distances = vec![0.0; tile.columns.len()];
    let mut finite = true;
    for (row, in_row) in in_rows.iter_mut().enumerate() {
        finite &= rule.distances_from_row(tile.row(row), norms[0][row], norms[1], &mut distances);
        *in_row = take_inside(&distances, radii[0][row], radii[1], &mut in_columns);
    }
    ([in_rows, in_columns.into_iter().map(|inside| inside != 0).collect()], finite)
}

/// Marks the columns inside the ball of a row. Returns whether the row is inside the ball of a column.
fn take_inside(distances: &[f32], radius: f32, column_radii: &[f32], in_columns: &mut [u32]) -> bool {
    vectorized(
        #[inline(always)]
        move || {
            let mut in_any = 0;
            for ((inside, &distance), &column_radius) in in_columns.iter_mut().zip(distances).zip(column_radii) {
                *inside |= u32::from(distance <= radius);
                in_any |= u32::from(distance <= column_radius);
            }
            in_any != 0
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use half::f16;

    use super::*;
    use crate::tests::pool_like;

    /// Returns the distances by the definition, one block at a time.
    fn by_definition(u: &Features<'_>, v: &Features<'_>, block: usize) -> Vec<f32> {
        let half = |value: f32| f16::from_f32(value).to_f32();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let rounded = |row: &[f32]| row.iter().map(|&value| half(value)).collect::<Vec<f32>>();
        let norm = |row: &[f32]| half(rounded(row).iter().map(|value| half(value * value)).sum());
        let in_half = |a: &[f32], b: &[f32]| {
            let twice = half(2.0 * half(dot(&rounded(a), &rounded(b))));
            let distance = half(half(norm(a) - twice) + norm(b));
            if distance < 0.0 { 0.0 } else { distance }
        };
        let in_full = |a: &[f32], b: &[f32]| (dot(a, a) - 2.0 * dot(a, b) + dot(b, b)).max(0.0);
        let mut result = vec![0.0; u.num() * v.num()];
        for rows in ranges(u.num(), block) {
            for columns in ranges(v.num(), block) {
                let pairs: Vec<_> = rows.clone().flat_map(|i| columns.clone().map(move |j| (i, j))).collect();
                let finite = pairs.iter().all(|&(i, j)| in_half(u.row(i), v.row(j)).is_finite());
                for (i, j) in pairs {
                    let distance = if finite { in_half(u.row(i), v.row(j)) } else { in_full(u.row(i), v.row(j)) };
                    result[i * v.num() + j] = distance;
                }
            }
        }
        result
    }

    /// Rows of multiples of 1/8, whose sums in float32 are the same in any order. Those that `scale` makes large
    /// overflow half precision.
    fn table(num: usize, seed: u64, scale: impl Fn(usize) -> f32) -> Vec<f32> {
        let mut values = pool_like(num, WIDTH, seed);
        for (row, values) in values.chunks_exact_mut(WIDTH).enumerate() {
            values.iter_mut().for_each(|value| *value = (*value * 16.0 * scale(row)).round() / 8.0);
        }
        values
    }

    const WIDTH: usize = 12;

    fn check(reference: &[f32], generated: &[f32], block: usize) {
        let [u, v] = [reference, generated].map(|values| Features::new(values, WIDTH).unwrap());
        let expected = by_definition(&u, &v, block);
        assert_eq!(distances(&u, &v, block).unwrap(), expected);
        let radii_of = |table: &Features<'_>| -> Vec<f32> {
            let all = by_definition(table, table, block);
            all.chunks_exact(table.num())
                .map(|row| {
                    let mut row = row.to_vec();
                    row.sort_by(f32::total_cmp);
                    row[3]
                })
                .collect()
        };
        let [own, other] = [radii_of(&u), radii_of(&v)];
        assert_eq!(radii(&u, 3, block).unwrap(), own);
        assert_eq!(radii(&v, 3, block).unwrap(), other);
        let is_inside = |i: usize, j: usize, radius: f32| expected[i * v.num() + j] <= radius;
        let precise = (0..v.num()).filter(|&j| (0..u.num()).any(|i| is_inside(i, j, own[i]))).count();
        let recalled = (0..u.num()).filter(|&i| (0..v.num()).any(|j| is_inside(i, j, other[j]))).count();
        let both = precision_recall(&u, &v, 3, block).unwrap();
        assert_eq!(both.precision, precise as f64 / v.num() as f64);
        assert_eq!(both.recall, recalled as f64 / u.num() as f64);
    }

    #[test]
    fn finite_blocks_are_in_half_precision_across_tiles() {
        check(&table(530, 1, |_| 1.0), &table(520, 2, |_| 1.0), BLOCK);
    }

    #[test]
    fn blocks_that_overflow_are_in_float32_each_on_its_own() {
        let one_of = |at: usize| move |row: usize| if row == at { 200.0 } else { 1.0 };
        let (reference, generated) = (table(90, 1, one_of(40)), table(70, 2, one_of(3)));
        check(&reference, &generated, 32);
        check(&reference, &generated, BLOCK);
    }

    #[test]
    fn a_block_can_be_finite_where_its_mirror_image_is_not() {
        let far = [[64.0, 102.0], [-116.0, -80.0]].concat();
        let pair = Features::new(&far, 2).unwrap();
        // In float32 the distance is 65524, which rounds to infinity; but with the norms added in the other order, the
        // first sum is rounded down.
        assert_eq!(distances(&pair, &pair, 1).unwrap(), [0.0, 65524.0, 65504.0, 0.0]);
        assert_eq!(radii(&pair, 1, 1).unwrap(), [65524.0, 65504.0]);
        assert_eq!(radii(&pair, 1, 2).unwrap(), [65524.0, 65524.0]);
    }

    #[test]
    fn blocks_of_no_rows_are_errors() {
        let values = table(8, 1, |_| 1.0);
        let features = Features::new(&values, WIDTH).unwrap();
        let zero = MetricError::Zero { what: "the number of rows of a block" };
        assert_eq!(distances(&features, &features, 0).unwrap_err(), zero);
        assert_eq!(radii(&features, 3, 0).unwrap_err(), zero);
        assert!(precision_recall(&features, &features, 8, BLOCK).is_err());
    }
}
