//! Blocks of distances in half precision, or in float32 if a distance of the block is not finite.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Features;
use super::rounding::round_to_half;
use super::tiles::{Pairs, Panel, Tile, vectorized, visit_tiles};

/// The largest finite number of half precision.
const LARGEST: f32 = 65504.0;

/// How a distance follows from a product and two norms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// In half precision.
    Half,
    /// In float32.
    Full,
}

impl Rule {
    /// Writes the distances of the row u to the columns v. Returns whether all are finite.
    pub fn distances_from_row(self, products: &[f32], norm_u: f32, norms_v: &[f32], into: &mut [f32]) -> bool {
        match self {
            Self::Half => fill(products, norms_v, into, move |product, norm_v| half_distance(product, norm_u, norm_v)),
            Self::Full => fill(products, norms_v, into, move |product, norm_v| full_distance(product, norm_u, norm_v)),
        }
    }

    /// Writes the distances of the columns u to the row v. Returns whether all are finite.
    pub fn distances_from_columns(self, products: &[f32], norms_u: &[f32], norm_v: f32, into: &mut [f32]) -> bool {
        match self {
            Self::Half => fill(products, norms_u, into, move |product, norm_u| half_distance(product, norm_u, norm_v)),
            Self::Full => fill(products, norms_u, into, move |product, norm_u| full_distance(product, norm_u, norm_v)),
        }
    }
}

/// Writes `distance(product, norm)` for each product and the norm of its column. Returns whether all are finite.
fn fill(products: &[f32], norms: &[f32], into: &mut [f32], distance: impl Fn(f32, f32) -> f32) -> bool {
    vectorized(
        // The closure owns the slices: were they behind references, each store could change them.
        #[inline(always)]
        move || {
            for ((into, &product), &norm) in into.iter_mut().zip(products).zip(norms) {
                *into = distance(product, norm);
            }
            into.iter().fold(0, |wrong, &distance| wrong | u32::from(!distance.is_finite())) == 0
        },
    )
}

#[inline(always)]
fn half_distance(product: f32, norm_u: f32, norm_v: f32) -> f32 {
    // Doubling is exact, unless the result is too large.
    let twice = 2.0 * round_to_half(product);
    let twice = if twice.abs() > LARGEST { twice * f32::INFINITY } else { twice };
    positive(round_to_half(round_to_half(norm_u - twice) + norm_v))
}

#[inline(always)]
fn full_distance(product: f32, norm_u: f32, norm_v: f32) -> f32 {
    positive(norm_u - 2.0 * product + norm_v)
}

/// Returns max(value, 0). NaN stays NaN.
#[inline(always)]
fn positive(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

/// Rows in one precision, and their norms.
struct Converted {
    panel: Panel<f32>,
    norms: Vec<f32>,
}

impl Converted {
    fn norms(&self, rows: &Range<usize>) -> &[f32] {
        &self.norms[rows.start - self.panel.first..rows.end - self.panel.first]
    }
}

/// The rows of a block.
pub(crate) struct Rows<'a> {
    table: &'a Features<'a>,
    range: Range<usize>,
    half: Converted,
    /// The rows as they are, for blocks that are not finite in half precision.
    full: OnceLock<Converted>,
}

/// What a visit of a tile computes distances with: the rule, and the norms of the rows and columns.
pub(crate) type Norms<'a> = [&'a [f32]; 2];

impl<'a> Rows<'a> {
    /// Returns the given rows of a table.
    pub fn new(table: &'a Features<'a>, range: Range<usize>) -> Self {
        let panel = Panel::new(range.start, range.len(), table.width(), |index, row: &mut [f32]| {
            for (out, &value) in row.iter_mut().zip(table.row(range.start + index)) {
                *out = round_to_half(value);
            }
        });
        let norms = panel.map_rows(|row| round_to_half(row.iter().map(|&value| round_to_half(value * value)).sum()));
        Self { table, range, half: Converted { panel, norms }, full: OnceLock::new() }
    }

    fn full(&self) -> &Converted {
        self.full.get_or_init(|| {
            let first = self.range.start;
            let panel = Panel::new(first, self.range.len(), self.table.width(), |index, row: &mut [f32]| {
                row.copy_from_slice(self.table.row(first + index));
            });
            let norms = panel.map_rows(|row| row.iter().map(|value| value * value).sum());
            Converted { panel, norms }
        })
    }

    /// Visits the tiles of the block with another set's rows. A visit also returns whether its distances are finite.
    pub fn visit<R: Send>(
        &self,
        other: &Self,
        visit: impl Fn(&Tile<'_, f32>, Rule, Norms<'_>) -> (R, bool) + Sync,
    ) -> Vec<R> {
        self.visit_pairs(other, Pairs::All, visit)
    }

    /// Visits the tiles of the block with itself that are not below the diagonal.
    pub fn visit_within<R: Send>(&self, visit: impl Fn(&Tile<'_, f32>, Rule, Norms<'_>) -> (R, bool) + Sync) -> Vec<R> {
        self.visit_pairs(self, Pairs::Upper, visit)
    }

    fn visit_pairs<R: Send>(
        &self,
        other: &Self,
        pairs: Pairs,
        visit: impl Fn(&Tile<'_, f32>, Rule, Norms<'_>) -> (R, bool) + Sync,
    ) -> Vec<R> {
        let not_finite = AtomicBool::new(false);
        let visit_half = |tile: Tile<'_, f32>| {
            if not_finite.load(Ordering::Relaxed) {
                return None;
            }
            let norms = [self.half.norms(&tile.rows), other.half.norms(&tile.columns)];
            let (found, finite) = visit(&tile, Rule::Half, norms);
            not_finite.fetch_or(!finite, Ordering::Relaxed);
            finite.then_some(found)
        };
        let found = visit_tiles(&self.half.panel, &other.half.panel, pairs, visit_half);
        found.into_iter().collect::<Option<Vec<R>>>().unwrap_or_else(|| {
            let (left, right) = (self.full(), other.full());
            visit_tiles(&left.panel, &right.panel, pairs, |tile| {
                visit(&tile, Rule::Full, [left.norms(&tile.rows), right.norms(&tile.columns)]).0
            })
        })
    }

    /// Visits the tiles of the block with other rows of the same set, for that block and the mirrored one, which are
    /// finite or not each on its own. A visit is told which of the two are wanted, and returns a result for each.
    pub fn visit_both<R: Send>(
        &self,
        other: &Self,
        visit: impl Fn(&Tile<'_, f32>, Rule, Norms<'_>, [bool; 2]) -> ([Option<R>; 2], [bool; 2]) + Sync,
    ) -> Vec<[Option<R>; 2]> {
        let not_finite = [AtomicBool::new(false), AtomicBool::new(false)];
        let mut found = visit_tiles(&self.half.panel, &other.half.panel, Pairs::All, |tile| {
            let wanted = [0, 1].map(|side: usize| !not_finite[side].load(Ordering::Relaxed));
            let norms = [self.half.norms(&tile.rows), other.half.norms(&tile.columns)];
            let (found, finite) = visit(&tile, Rule::Half, norms, wanted);
            (0..2).for_each(|side| _ = not_finite[side].fetch_or(!finite[side], Ordering::Relaxed));
            found
        });
        let again = not_finite.map(AtomicBool::into_inner);
        if again != [false, false] {
            let (left, right) = (self.full(), other.full());
            let full = visit_tiles(&left.panel, &right.panel, Pairs::All, |tile| {
                visit(&tile, Rule::Full, [left.norms(&tile.rows), right.norms(&tile.columns)], again).0
            });
            for (found, full) in found.iter_mut().zip(full) {
                for ((found, full), again) in found.iter_mut().zip(full).zip(again) {
                    if again {
                        *found = full;
                    }
                }
            }
        }
        found
    }
}
