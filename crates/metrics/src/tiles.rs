//! Inner products of all pairs of rows, computed in tiles on all cores.
//!
//! A table is converted in panels of a few thousand rows, and two panels are multiplied in tiles. No matrix of all
//! pairs and no converted copy of a whole table exists, so that memory does not grow with the number of images.

use std::ops::Range;

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul, traits::ComplexField};
use rayon::prelude::*;

/// The number of rows and columns of a tile. Its two operands and its result fit into the cache of a core.
pub(crate) const TILE: usize = 512;

/// The number of elements of a row of a tile that are tested at a time, before any is looked at on its own.
pub(crate) const CHUNK: usize = 16;

/// A floating-point number that is multiplied in tiles.
pub(crate) trait Number: ComplexField + Copy + Send + Sync {
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
}

impl Number for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

impl Number for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

/// Some rows of a table, converted for products.
pub(crate) struct Panel<T> {
    /// The position of the first row in the table.
    pub first: usize,
    width: usize,
    values: Vec<T>,
}

impl<T: Number> Panel<T> {
    /// Returns the panel of `num` rows whose row `i` is written by `fill(i, row)`. `first` is the position of row 0 in
    /// the table.
    pub fn new(first: usize, num: usize, width: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Self {
        let mut values = vec![T::ZERO; num * width];
        values.par_chunks_exact_mut(width).enumerate().for_each(|(index, row)| fill(index, row));
        Self { first, width, values }
    }

    /// Returns the number of rows.
    pub fn num(&self) -> usize {
        self.values.len() / self.width
    }

    /// Returns the number of values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns a value of each row.
    pub fn map_rows<R: Send>(&self, value: impl Fn(&[T]) -> R + Sync + Send) -> Vec<R> {
        self.values.par_chunks_exact(self.width).map(value).collect()
    }

    /// Returns some rows as a matrix.
    fn matrix(&self, rows: Range<usize>) -> MatRef<'_, T> {
        let values = &self.values[rows.start * self.width..rows.end * self.width];
        MatRef::from_row_major_slice(values, rows.len(), self.width)
    }

    /// Returns the rows of a tile.
    fn tile(&self, index: usize) -> Range<usize> {
        index * TILE..self.num().min((index + 1) * TILE)
    }
}

/// The inner products of some rows of a left panel with some rows of a right panel.
pub(crate) struct Tile<'a, T> {
    /// The positions of the left rows in their table.
    pub rows: Range<usize>,
    /// The positions of the right rows in their table.
    pub columns: Range<usize>,
    /// The products, `[rows, columns]`, row-major.
    pub products: &'a mut [T],
}

impl<T> Tile<'_, T> {
    /// Returns the products of one row, counted from the first row of the tile.
    pub fn row(&self, row: usize) -> &[T] {
        &self.products[row * self.columns.len()..][..self.columns.len()]
    }
}

/// Which pairs of rows two panels have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// All pairs of a left and a right row.
    All,
    /// The panels are the same. Of two tiles that mirror each other only the one above the diagonal is computed.
    Upper,
}

/// Computes each tile of two panels and visits it. Returns what the visits return, in an order that does not depend on
/// the threads.
pub(crate) fn visit_tiles<T: Number, R: Send>(
    left: &Panel<T>,
    right: &Panel<T>,
    pairs: Pairs,
    visit: impl Fn(Tile<'_, T>) -> R + Sync,
) -> Vec<R> {
    let counts = [left.num().div_ceil(TILE), right.num().div_ceil(TILE)];
    let tiles: Vec<(usize, usize)> = (0..counts[0])
        .flat_map(|i| (0..counts[1]).map(move |j| (i, j)))
        .filter(|(i, j)| pairs == Pairs::All || i <= j)
        .collect();
    tiles
        .into_par_iter()
        .map_init(
            || vec![T::ZERO; TILE * TILE],
            |buffer, (i, j)| {
                let (rows, columns) = (left.tile(i), right.tile(j));
                let products = &mut buffer[..rows.len() * columns.len()];
                let into = MatMut::from_row_major_slice_mut(products, rows.len(), columns.len());
                let (a, b) = (left.matrix(rows.clone()), right.matrix(columns.clone()));
                matmul(into, Accum::Replace, a, b.transpose(), T::ONE, Par::Seq);
                let shift = |range: Range<usize>, by: usize| range.start + by..range.end + by;
                visit(Tile { rows: shift(rows, left.first), columns: shift(columns, right.first), products })
            },
        )
        .collect()
}

/// Runs loops that are compiled for the vector instructions of this processor, as far as they are inlined into `work`.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Returns the ranges of at most `length` that cover `0..num`.
pub(crate) fn ranges(num: usize, length: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..num.div_ceil(length)).map(move |index| index * length..num.min((index + 1) * length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_in_one_tile_at_its_place() {
        let (left_num, right_num) = (TILE + 3, 2 * TILE + 1);
        let left = Panel::new(10, left_num, 2, |i, row: &mut [f64]| row.copy_from_slice(&[i as f64, 1.0]));
        let right = Panel::new(20, right_num, 2, |j, row| row.copy_from_slice(&[1.0, 1e4 * j as f64]));
        let tiles = visit_tiles(&left, &right, Pairs::All, |tile| {
            for (i, row) in tile.rows.clone().zip(tile.products.chunks_exact(tile.columns.len())) {
                for (j, &product) in tile.columns.clone().zip(row) {
                    assert_eq!(product, (i - 10) as f64 + 1e4 * (j - 20) as f64);
                }
            }
            tile.products.len()
        });
        assert_eq!(tiles.iter().sum::<usize>(), left_num * right_num);
        assert_eq!(tiles.len(), 6);
        assert_eq!(visit_tiles(&left, &left, Pairs::Upper, |tile| tile.rows.start), [10, 10, 10 + TILE]);
    }

    #[test]
    fn ranges_cover_all_rows() {
        assert_eq!(ranges(7, 3).collect::<Vec<_>>(), [0..3, 3..6, 6..7]);
        assert_eq!(ranges(0, 3).count(), 0);
    }
}
