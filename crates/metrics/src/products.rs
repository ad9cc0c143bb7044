//! Large matrix products on all cores. The bits of a result do not depend on the number of threads.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular_matmul};
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// The number of columns of a result that one task computes.
const COLUMNS: usize = 256;

/// Returns `left * right`.
pub(crate) fn product(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut result = Mat::zeros(left.nrows(), right.ncols());
    product_into(result.as_mut(), left, right);
    result
}

fn product_into(into: MatMut<'_, f64>, left: MatRef<'_, f64>, right: MatRef<'_, f64>) {
    let columns = into.ncols();
    if columns <= COLUMNS {
        return matmul(into, Accum::Replace, left, right, 1.0, Par::Seq);
    }
    let at = columns.div_ceil(COLUMNS) / 2 * COLUMNS;
    let (first, second) = into.split_at_col_mut(at);
    let (right_first, right_second) = right.split_at_col(at);
    rayon::join(|| product_into(first, left, right_first), || product_into(second, left, right_second));
}

/// Adds the lower triangle of `rows' * rows` to `into`. What is above its diagonal is undefined afterwards.
pub(crate) fn add_gram(into: MatMut<'_, f64>, rows: MatRef<'_, f64>) {
    add_gram_columns(into, rows, 0);
}

/// As [`add_gram`], for the columns of the triangle that begin at `first`.
fn add_gram_columns(into: MatMut<'_, f64>, rows: MatRef<'_, f64>, first: usize) {
    let columns = into.ncols();
    if columns > COLUMNS {
        let at = columns.div_ceil(COLUMNS) / 2 * COLUMNS;
        let (left, right) = into.split_at_col_mut(at);
        rayon::join(|| add_gram_columns(left, rows, first), || add_gram_columns(right, rows, first + at));
        return;
    }
    let own = rows.subcols(first, columns);
    let (square, below) = into.split_at_row_mut(first).1.split_at_row_mut(columns);
    triangular_matmul(
        square,
        BlockStructure::TriangularLower,
        Accum::Add,
        own.transpose(),
        BlockStructure::Rectangular,
        own,
        BlockStructure::Rectangular,
        1.0,
        Par::Seq,
    );
    let after = first + columns;
    matmul(below, Accum::Add, rows.subcols(after, rows.ncols() - after).transpose(), own, 1.0, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: usize, columns: usize) -> Mat<f64> {
        Mat::from_fn(rows, columns, |i, j| ((i * 7 + j * 13) % 11) as f64 - 5.0)
    }

    #[test]
    fn products_in_tasks_are_products() {
        let (left, right) = (table(9, 30), table(30, 2 * COLUMNS + 5));
        assert_eq!(product(left.as_ref(), right.as_ref()), &left * &right);
        let rows = table(4, 2 * COLUMNS + 5);
        let mut gram = Mat::from_fn(rows.ncols(), rows.ncols(), |_, _| 1.0);
        add_gram(gram.as_mut(), rows.as_ref());
        let expected = rows.transpose() * &rows;
        for j in 0..rows.ncols() {
            for i in j..rows.ncols() {
                assert_eq!(gram[(i, j)], 1.0 + expected[(i, j)]);
            }
        }
    }
}
