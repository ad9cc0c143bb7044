//! The kernel inception distance (Binkowski et al., "Demystifying MMD GANs", 2018): the squared maximum mean
//! discrepancy with a cubic kernel, estimated without bias.

use super::subsets::{Purpose, draw};
use super::tiles::{Pairs, Panel, TILE, ranges, visit_tiles};
use super::{Features, MeanSpread, MetricError};

/// The number of rows that are converted to float64 at a time.
const PANEL: usize = 4 * TILE;

/// The number of subsets that is usual.
pub const SUBSETS: usize = 100;
/// The number of images of a subset that is usual.
pub const SUBSET_SIZE: usize = 1000;

/// Returns the unbiased estimate over all images with the kernel `(x . y / width + 1)^3`. It may be negative.
///
/// It needs about `width (n + m)^2` operations in float64 for n and m images.
///
/// # Errors
/// [`MetricError::Width`] if the widths differ. [`MetricError::TooFew`] if a table has fewer than two images.
pub fn kernel_inception_distance(left: &Features<'_>, right: &Features<'_>) -> Result<f64, MetricError> {
    left.check_width(right)?;
    left.check_num(2, "the kernel inception distance")?;
    right.check_num(2, "the kernel inception distance")?;
    let (mut sums, mut across) = ([0.0; 2], 0.0);
    for (sum, table) in sums.iter_mut().zip([left, right]) {
        for (number, rows) in ranges(table.num(), PANEL).enumerate() {
            let own = panel(table, rows);
            *sum += sum_within(&own);
            *sum += 2.0 * panels(table).skip(number + 1).map(|other| sum_across(&own, &other())).sum::<f64>();
        }
    }
    for own in panels(left) {
        let own = own();
        across += panels(right).map(|other| sum_across(&own, &other())).sum::<f64>();
    }
    Ok(estimate(sums, across, [left.num(), right.num()]))
}

/// Returns the mean and the deviation of the estimate over subsets: the mean of [`kernel_inception_distance`] over
/// `subsets` pairs of subsets of `size` images, drawn from each table without repetition by (seed, number of the
/// subset).
///
/// # Errors
/// As for [`kernel_inception_distance`]; [`MetricError::TooFew`] also if a table has fewer than `size` images, and
/// [`MetricError::Zero`] if there are no subsets.
pub fn kernel_distance_of_subsets(
    generated: &Features<'_>,
    reference: &Features<'_>,
    subsets: usize,
    size: usize,
    seed: u64,
) -> Result<MeanSpread, MetricError> {
    generated.check_num(size, "a subset for the kernel inception distance")?;
    reference.check_num(size, "a subset for the kernel inception distance")?;
    let rows = |number: usize| {
        [(generated, Purpose::KernelGenerated), (reference, Purpose::KernelReference)]
            .map(|(table, purpose)| draw(seed, purpose, number as u64, table.num(), size))
    };
    over_subsets([generated, reference], subsets, rows)
}

/// As [`kernel_distance_of_subsets`], over given subsets: a pair of lists of rows of `generated` and of `reference`
/// each.
///
/// # Errors
/// As for [`kernel_distance_of_subsets`], and [`MetricError::Index`] if a row does not exist.
pub fn kernel_distance_of_given_subsets(
    generated: &Features<'_>,
    reference: &Features<'_>,
    subsets: &[[Vec<usize>; 2]],
) -> Result<MeanSpread, MetricError> {
    for subset in subsets {
        for (rows, table) in subset.iter().zip([generated, reference]) {
            if let Some(&index) = rows.iter().find(|&&row| row >= table.num()) {
                let what = "a subset for the kernel inception distance";
                return Err(MetricError::Index { what, index, num: table.num() });
            }
        }
    }
    over_subsets([generated, reference], subsets.len(), |number| subsets[number].clone())
}

fn over_subsets(
    tables: [&Features<'_>; 2],
    subsets: usize,
    rows: impl Fn(usize) -> [Vec<usize>; 2],
) -> Result<MeanSpread, MetricError> {
    tables[0].check_width(tables[1])?;
    if subsets == 0 {
        return Err(MetricError::Zero { what: "the number of subsets" });
    }
    let mut estimates = Vec::with_capacity(subsets);
    for number in 0..subsets {
        let rows = rows(number);
        if let Some(short) = rows.iter().find(|rows| rows.len() < 2) {
            let metric = "a subset for the kernel inception distance";
            return Err(MetricError::TooFew { metric, needed: 2, given: short.len() });
        }
        let [left, right] = [0, 1].map(|side: usize| {
            let table = tables[side];
            Panel::new(0, rows[side].len(), table.width(), |index, row: &mut [f64]| {
                row.iter_mut().zip(table.row(rows[side][index])).for_each(|(out, &value)| *out = f64::from(value));
            })
        });
        let sums = [sum_within(&left), sum_within(&right)];
        estimates.push(estimate(sums, sum_across(&left, &right), [left.num(), right.num()]));
    }
    Ok(MeanSpread::of(&estimates))
}

/// Returns the estimate from the sums of the kernel over the ordered pairs of each table, and over the pairs across.
fn estimate(within: [f64; 2], across: f64, nums: [usize; 2]) -> f64 {
    let nums = nums.map(|num| num as f64);
    let mean = |side: usize| within[side] / (nums[side] * (nums[side] - 1.0));
    mean(0) + mean(1) - 2.0 * across / (nums[0] * nums[1])
}

/// Returns some rows of a table in float64.
fn panel(table: &Features<'_>, rows: std::ops::Range<usize>) -> Panel<f64> {
    Panel::new(rows.start, rows.len(), table.width(), |index, row: &mut [f64]| {
        row.iter_mut().zip(table.row(rows.start + index)).for_each(|(out, &value)| *out = f64::from(value));
    })
}

/// Returns what converts each panel of a table, so that panels can be skipped.
fn panels<'a>(table: &'a Features<'a>) -> impl Iterator<Item = impl FnOnce() -> Panel<f64> + 'a> {
    ranges(table.num(), PANEL).map(move |rows| move || panel(table, rows))
}

/// Returns the sum of the kernel over all ordered pairs of different rows of a panel.
fn sum_within(panel: &Panel<f64>) -> f64 {
    let sums = visit_tiles(panel, panel, Pairs::Upper, |tile| {
        let all = kernel_sum(tile.products, panel.width());
        if tile.rows != tile.columns {
            return 2.0 * all;
        }
        let diagonal: Vec<f64> = tile.products.iter().step_by(tile.columns.len() + 1).copied().collect();
        all - kernel_sum(&diagonal, panel.width())
    });
    sums.into_iter().sum()
}

/// Returns the sum of the kernel over all pairs of a row of `left` and a row of `right`.
fn sum_across(left: &Panel<f64>, right: &Panel<f64>) -> f64 {
    visit_tiles(left, right, Pairs::All, |tile| kernel_sum(tile.products, left.width())).into_iter().sum()
}

/// Returns the sum of the kernel over inner products.
fn kernel_sum(products: &[f64], width: usize) -> f64 {
    let scale = 1.0 / width as f64;
    let kernel = |product: f64| {
        let base = product * scale + 1.0;
        base * base * base
    };
    let (chunks, rest) = products.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for chunk in chunks {
        for (sum, &product) in sums.iter_mut().zip(chunk) {
            *sum += kernel(product);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&product| kernel(product)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_small_example_matches_the_formula() {
        // Within left: (0 * 1 + 1)^3 = 1. Within right: (1 * 2 + 1)^3 = 27. Across: (1 + 1 + 8 + 27) / 4.
        let left = Features::new(&[0.0, 1.0], 1).unwrap();
        let right = Features::new(&[1.0, 2.0], 1).unwrap();
        assert!((kernel_inception_distance(&left, &right).unwrap() - 9.5).abs() < 1e-12);
    }

    #[test]
    fn only_the_diagonal_is_left_out_across_panels() {
        let (ones, twos) = (vec![1.0; PANEL + 3], vec![2.0; 2]);
        let distance =
            kernel_inception_distance(&Features::new(&ones, 1).unwrap(), &Features::new(&twos, 1).unwrap()).unwrap();
        assert!((distance - (8.0 + 125.0 - 2.0 * 27.0)).abs() < 1e-10, "{distance}");
        let doubled: Vec<f32> = (0..PANEL + 3).map(|row| 1.0 + (row / PANEL) as f32).collect();
        let (num, three) = (doubled.len() as f64, 3.0);
        let within = (8.0 * (num - three) * (num - three - 1.0) + 2.0 * 27.0 * (num - three) * three + 125.0 * 6.0)
            / (num * (num - 1.0));
        let across = (27.0 * (num - three) + 125.0 * three) / num;
        let distance =
            kernel_inception_distance(&Features::new(&doubled, 1).unwrap(), &Features::new(&twos, 1).unwrap()).unwrap();
        assert!((distance - (within + 125.0 - 2.0 * across)).abs() < 1e-10, "{distance}");
    }

    #[test]
    fn subsets_are_estimated_one_by_one() {
        let (left, right) = ([0.0, 1.0, 3.0, 2.0], [1.0, 2.0, 0.0, 4.0]);
        let (left, right) = (Features::new(&left, 1).unwrap(), Features::new(&right, 1).unwrap());
        let subsets = [[vec![0, 1], vec![0, 1]], [vec![1, 2], vec![3, 0, 1]]];
        let both = kernel_distance_of_given_subsets(&left, &right, &subsets).unwrap();
        let second = kernel_inception_distance(
            &Features::new(&[1.0, 3.0], 1).unwrap(),
            &Features::new(&[4.0, 1.0, 2.0], 1).unwrap(),
        )
        .unwrap();
        assert!((both.mean - (9.5 + second) / 2.0).abs() < 1e-10);
        assert!((both.deviation - (9.5 - second).abs() / 2.0).abs() < 1e-10);
        // A subset of all images is the estimate over all of them, in whichever order it is drawn.
        let drawn = kernel_distance_of_subsets(&left, &right, 3, 4, 7).unwrap();
        assert!((drawn.mean - kernel_inception_distance(&left, &right).unwrap()).abs() < 1e-10);
        assert!(drawn.deviation < 1e-10);
    }

    #[test]
    fn bad_subsets_are_errors() {
        let table = Features::new(&[0.0, 1.0, 2.0], 1).unwrap();
        let given =
            |subsets: &[[Vec<usize>; 2]]| kernel_distance_of_given_subsets(&table, &table, subsets).unwrap_err();
        assert!(matches!(given(&[[vec![0, 3], vec![0, 1]]]), MetricError::Index { index: 3, num: 3, .. }));
        assert!(matches!(given(&[[vec![0, 1], vec![0]]]), MetricError::TooFew { needed: 2, given: 1, .. }));
        assert_eq!(given(&[]), MetricError::Zero { what: "the number of subsets" });
        let drawn = kernel_distance_of_subsets(&table, &table, 1, 4, 0).unwrap_err();
        assert!(matches!(drawn, MetricError::TooFew { needed: 4, given: 3, .. }));
    }

    #[test]
    fn different_widths_are_errors() {
        let (narrow, wide) = ([0.0; 4], [0.0; 4]);
        let result = kernel_inception_distance(&Features::new(&narrow, 1).unwrap(), &Features::new(&wide, 2).unwrap());
        assert_eq!(result.unwrap_err(), MetricError::Width { left: 1, right: 2 });
    }
}
