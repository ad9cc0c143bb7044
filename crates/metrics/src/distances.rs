//! Decisions about squared distances of all pairs of rows, as exact as if each distance were computed, at the price of
//! a matrix product.
//!
//! The formula `|a|^2 + |b|^2 - 2 a.b` is fast because it is a matrix product, but it loses small distances to
//! cancellation, and with them the order of neighbors. Here it gives bounds in float32. Where the bounds decide,
//! nothing else is computed. The few pairs where they do not are computed from their differences in float64.

use std::sync::{Mutex, PoisonError};

use super::Features;
use super::bounds::{Bounds, Rows, above, below, is_above, squared_distance};
use super::tiles::{CHUNK, Pairs, TILE, Tile, ranges, visit_tiles};

/// The number of rows of a panel.
const PANEL: usize = 8 * TILE;

/// A neighbor of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbor {
    /// Its position in the table of possible neighbors.
    pub index: usize,
    /// Its squared distance.
    pub squared_distance: f64,
}

/// The rows that may be among the nearest of one row.
struct Candidates {
    /// No row farther away than this, squared, is among the nearest.
    limit: f32,
    /// The smallest upper bounds, ascending, as many as neighbors are wanted.
    uppers: Vec<f32>,
    /// The nearest of the rows whose distance has been computed.
    nearest: Vec<Neighbor>,
    /// Rows that may be nearer, with their lower bounds.
    undecided: Vec<(usize, f32)>,
}

impl Candidates {
    fn new(k: usize) -> Self {
        Self { limit: f32::INFINITY, uppers: vec![f32::INFINITY; k], nearest: Vec::new(), undecided: Vec::new() }
    }

    /// Takes a row with its bounds. `exact` computes the squared distance of a row.
    fn push(&mut self, index: usize, lower: f32, upper: f32, exact: impl Fn(usize) -> f64) {
        let k = self.uppers.len();
        if upper < self.uppers[k - 1] {
            let position = self.uppers.partition_point(|&other| other <= upper);
            self.uppers.insert(position, upper);
            self.uppers.pop();
            self.limit = self.limit.min(self.uppers[k - 1]);
        }
        self.undecided.push((index, lower));
        // Rows that are very close to each other could all stay undecided. The list must not grow with the table.
        if self.undecided.len() >= 4 * k + 128 {
            self.decide(exact);
        }
    }

    /// Computes the distances of the undecided rows that may still be among the nearest.
    fn decide(&mut self, exact: impl Fn(usize) -> f64) {
        let k = self.uppers.len();
        for (index, lower) in std::mem::take(&mut self.undecided) {
            if is_above(lower, self.limit) {
                continue;
            }
            let found = Neighbor { index, squared_distance: exact(index) };
            let position = self.nearest.partition_point(|other| {
                (other.squared_distance, other.index) <= (found.squared_distance, found.index)
            });
            self.nearest.insert(position, found);
            self.nearest.truncate(k);
        }
        if let Some(last) = self.nearest.get(k - 1) {
            self.limit = self.limit.min(above(last.squared_distance));
        }
    }
}

/// Returns the `k` nearest rows of `right` for each row of `left`, ascending. Of equally near rows the first comes
/// first. `k` is at least 1 and at most the number of rows of `right`.
pub(crate) fn nearest_rows(left: &Features<'_>, right: &Features<'_>, k: usize) -> Vec<Vec<Neighbor>> {
    search(left, right, k, false)
}

/// As [`nearest_rows`] of a table in itself. Each row is its own nearest, unless it has copies that come first.
pub(crate) fn nearest_rows_within(table: &Features<'_>, k: usize) -> Vec<Vec<Neighbor>> {
    search(table, table, k, true)
}

fn search(left: &Features<'_>, right: &Features<'_>, k: usize, within: bool) -> Vec<Vec<Neighbor>> {
    let bounds = Bounds::new([left, right]);
    // One lock for the rows of a tile.
    let states: Vec<Mutex<Vec<Candidates>>> =
        ranges(left.num(), TILE).map(|rows| Mutex::new(rows.map(|_| Candidates::new(k)).collect())).collect();
    for (number, left_range) in ranges(left.num(), PANEL).enumerate() {
        let own = bounds.rows(left, left_range);
        for right_range in ranges(right.num(), PANEL).skip(if within { number } else { 0 }) {
            let same = within && right_range.start == own.panel.first;
            let other = (!same).then(|| bounds.rows(right, right_range));
            let other = other.as_ref().unwrap_or(&own);
            let pairs = if same { Pairs::Upper } else { Pairs::All };
            visit_tiles(&own.panel, &other.panel, pairs, |mut tile| {
                bounds.lower(&mut tile, &own, other);
                take_rows(&bounds, &tile, [&own, other], [left, right], &states);
                if within && tile.rows != tile.columns {
                    take_columns(&bounds, &tile, [&own, other], left, &states);
                }
            });
        }
    }
    states
        .into_iter()
        .flat_map(|state| state.into_inner().unwrap_or_else(PoisonError::into_inner))
        .enumerate()
        .map(|(row, mut candidates)| {
            candidates.decide(|index| squared_distance(left.row(row), right.row(index)));
            candidates.nearest
        })
        .collect()
}

/// Offers each column of a tile to the candidates of each row.
fn take_rows(
    bounds: &Bounds,
    tile: &Tile<'_, f32>,
    rows: [&Rows; 2],
    tables: [&Features<'_>; 2],
    states: &[Mutex<Vec<Candidates>>],
) {
    let mut states = states[tile.rows.start / TILE].lock().unwrap_or_else(PoisonError::into_inner);
    for ((row, values), state) in
        tile.rows.clone().zip(tile.products.chunks_exact(tile.columns.len())).zip(states.iter_mut())
    {
        let norm = rows[0].norm(row);
        for (number, chunk) in values.chunks(CHUNK).enumerate() {
            let limit = state.limit;
            if chunk.iter().fold(true, |all, &lower| all & is_above(lower, limit)) {
                continue;
            }
            for (offset, &lower) in chunk.iter().enumerate() {
                if is_above(lower, state.limit) {
                    continue;
                }
                let index = tile.columns.start + number * CHUNK + offset;
                let upper = bounds.upper(lower, [norm, rows[1].norm(index)]);
                state.push(index, lower, upper, |index| squared_distance(tables[0].row(row), tables[1].row(index)));
            }
        }
    }
}

/// Offers each row of a tile to the candidates of each column, which is a row of the same table.
fn take_columns(
    bounds: &Bounds,
    tile: &Tile<'_, f32>,
    rows: [&Rows; 2],
    table: &Features<'_>,
    states: &[Mutex<Vec<Candidates>>],
) {
    let mut states = states[tile.columns.start / TILE].lock().unwrap_or_else(PoisonError::into_inner);
    let mut limits: Vec<f32> = states.iter().map(|state| state.limit).collect();
    for (row, values) in tile.rows.clone().zip(tile.products.chunks_exact(tile.columns.len())) {
        let norm = rows[0].norm(row);
        for (number, (chunk, limits)) in values.chunks(CHUNK).zip(limits.chunks_mut(CHUNK)).enumerate() {
            if chunk.iter().zip(limits.iter()).fold(true, |all, (&lower, &limit)| all & is_above(lower, limit)) {
                continue;
            }
            for (offset, (&lower, limit)) in chunk.iter().zip(limits).enumerate() {
                if is_above(lower, *limit) {
                    continue;
                }
                let column = number * CHUNK + offset;
                let index = tile.columns.start + column;
                let upper = bounds.upper(lower, [norm, rows[1].norm(index)]);
                let state = &mut states[column];
                state.push(row, lower, upper, |row| squared_distance(table.row(row), table.row(index)));
                *limit = state.limit;
            }
        }
    }
}

/// What a search for pairs asks of a pair.
pub(crate) trait Within: Sync {
    /// Whether a pair still matters. Asked before a distance is computed.
    fn matters(&self, row: usize, column: usize) -> bool;
    /// Takes a pair whose distance is at most the radius.
    fn take(&self, row: usize, column: usize);
}

/// The balls around the rows of a table, and what takes the pairs of a ball and a row of the other table inside.
pub(crate) struct Balls<'a> {
    /// The squared radii.
    pub radii: &'a [f64],
    /// What takes the pairs (left row, right row).
    pub within: &'a dyn Within,
}

/// The radii of some balls in float32, so that a bound above the first number is outside and below the second inside.
struct Limits {
    outside: Vec<f32>,
    inside: Vec<f32>,
}

impl Limits {
    fn new(balls: Option<&Balls<'_>>) -> Self {
        let radii = balls.map_or([].as_slice(), |balls| balls.radii);
        Self {
            outside: radii.iter().map(|&radius| above(radius)).collect(),
            inside: radii.iter().map(|&radius| below(radius)).collect(),
        }
    }
}

/// Finds the pairs of a left and a right row that are not farther from each other than the radius of the left row, for
/// `left_balls`, or of the right row, for `right_balls`. Both searches share their products.
pub(crate) fn pairs_within(
    left: &Features<'_>,
    right: &Features<'_>,
    left_balls: Option<&Balls<'_>>,
    right_balls: Option<&Balls<'_>>,
) {
    let bounds = Bounds::new([left, right]);
    let (left_limits, right_limits) = (Limits::new(left_balls), Limits::new(right_balls));
    for left_range in ranges(left.num(), PANEL) {
        let own = bounds.rows(left, left_range);
        for right_range in ranges(right.num(), PANEL) {
            let other = bounds.rows(right, right_range);
            visit_tiles(&own.panel, &other.panel, Pairs::All, |mut tile| {
                bounds.lower(&mut tile, &own, &other);
                let decide = |balls: &Balls<'_>, row: usize, column: usize, lower: f32, inside: f32, radius: f64| {
                    if !balls.within.matters(row, column) {
                        return;
                    }
                    let upper = bounds.upper(lower, [own.norm(row), other.norm(column)]);
                    if upper < inside || squared_distance(left.row(row), right.row(column)) <= radius {
                        balls.within.take(row, column);
                    }
                };
                let columns = tile.columns.clone();
                for (row, values) in tile.rows.clone().zip(tile.products.chunks_exact(columns.len())) {
                    for (number, chunk) in values.chunks(CHUNK).enumerate() {
                        let first = columns.start + number * CHUNK;
                        if let Some(balls) = left_balls {
                            let limit = left_limits.outside[row];
                            if !chunk.iter().fold(true, |all, &lower| all & is_above(lower, limit)) {
                                for (column, &lower) in (first..).zip(chunk) {
                                    if !is_above(lower, limit) {
                                        decide(balls, row, column, lower, left_limits.inside[row], balls.radii[row]);
                                    }
                                }
                            }
                        }
                        if let Some(balls) = right_balls {
                            let limits = &right_limits.outside[first..][..chunk.len()];
                            let outside =
                                chunk.iter().zip(limits).fold(true, |all, (&l, &limit)| all & is_above(l, limit));
                            if !outside {
                                for ((column, &lower), &limit) in (first..).zip(chunk).zip(limits) {
                                    if !is_above(lower, limit) {
                                        let inside = right_limits.inside[column];
                                        decide(balls, row, column, lower, inside, balls.radii[column]);
                                    }
                                }
                            }
                        }
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::pool_like;

    fn table(values: &[f32], width: usize) -> Features<'_> {
        Features::new(values, width).expect("the values are finite and complete")
    }

    /// Returns what [`nearest_rows`] must return, from all distances.
    fn nearest_by_definition(left: &Features<'_>, right: &Features<'_>, k: usize) -> Vec<Vec<Neighbor>> {
        (0..left.num())
            .map(|row| {
                let mut all: Vec<Neighbor> = (0..right.num())
                    .map(|index| Neighbor {
                        index,
                        squared_distance: squared_distance(left.row(row), right.row(index)),
                    })
                    .collect();
                all.sort_by(|a, b| a.squared_distance.total_cmp(&b.squared_distance));
                all.truncate(k);
                all
            })
            .collect()
    }

    /// Collects pairs.
    struct Collected(Mutex<Vec<(usize, usize)>>);

    impl Within for Collected {
        fn matters(&self, _row: usize, _column: usize) -> bool {
            true
        }

        fn take(&self, row: usize, column: usize) {
            self.0.lock().expect("no test panics while it holds the lock").push((row, column));
        }
    }

    /// Checks all searches of two tables against the definition.
    fn check(left: &Features<'_>, right: &Features<'_>, k: usize) {
        assert_eq!(nearest_rows(left, right, k), nearest_by_definition(left, right, k));
        assert_eq!(nearest_rows_within(right, k), nearest_by_definition(right, right, k));
        // Radii that are distances of pairs, so that the boundary is hit.
        let radii = |from: &Features<'_>, to: &Features<'_>| -> Vec<f64> {
            (0..from.num()).map(|row| squared_distance(from.row(row), to.row(row * 7 % to.num()))).collect()
        };
        let radii = [radii(left, right), radii(right, left)];
        let found = [Collected(Mutex::new(Vec::new())), Collected(Mutex::new(Vec::new()))];
        let balls = |side: usize| Balls { radii: &radii[side], within: &found[side] };
        pairs_within(left, right, Some(&balls(0)), Some(&balls(1)));
        for (side, found) in found.into_iter().enumerate() {
            let mut found = found.0.into_inner().expect("no test panics while it holds the lock");
            found.sort_unstable();
            let expected: Vec<(usize, usize)> = (0..left.num())
                .flat_map(|row| (0..right.num()).map(move |column| (row, column)))
                .filter(|&(row, column)| {
                    squared_distance(left.row(row), right.row(column)) <= radii[side][[row, column][side]]
                })
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn searches_agree_with_all_distances_across_tiles() {
        let (left, right) = (pool_like(TILE + 9, 5, 1), pool_like(2 * TILE + 3, 5, 2));
        check(&table(&left, 5), &table(&right, 5), 4);
    }

    #[test]
    fn distances_that_float32_cannot_tell_apart_are_told_apart() {
        // All rows are within 1e-5 of one point, and the center of both tables is far away.
        let near = |num: usize, seed: u64| -> Vec<f32> {
            pool_like(num, 3, seed).iter().map(|value| 1000.0 + (value * 64.0).round() / 8192.0).collect()
        };
        let (mut left, mut right) = (near(300, 1), near(400, 2));
        left.extend([-3000.0; 30]);
        right.extend([-3000.0; 30]);
        check(&table(&left, 3), &table(&right, 3), 3);
    }

    #[test]
    fn many_copies_and_overflow_are_decided_exactly() {
        let copies = vec![0.25; 2 * 700];
        check(&table(&copies[..400], 2), &table(&copies, 2), 3);
        let huge: Vec<f32> = (0..60).map(|i| (i % 7) as f32 * 1e37 - 2e37 * (i % 3) as f32).collect();
        check(&table(&huge[..20], 2), &table(&huge, 2), 3);
    }
}
