//! What is known to mislead about a comparison.

use admiral_statistics::ExtractorIdentity;

use crate::images::Classes;
use crate::parts::FeatureTables;
use crate::report::SideReport;

/// The number of images below which FID is known to mislead.
const FEW_IMAGES: u64 = 10_000;

/// What warnings about a side are made from.
#[derive(Clone, Copy)]
pub(crate) struct WarnedSide<'a> {
    pub(crate) report: &'a SideReport,
    pub(crate) classes: Classes,
    pub(crate) tables: Option<&'a FeatureTables>,
}

/// Returns what is known to mislead about a comparison of `samples` with `reference`.
pub(crate) fn warnings(
    samples: WarnedSide<'_>,
    reference: WarnedSide<'_>,
    extractor: &ExtractorIdentity,
) -> Vec<String> {
    let mut warnings = of_reports(samples.report, reference.report);
    if let (Some(left), Some(right)) = (samples.tables, reference.tables)
        && left.num != right.num
    {
        warnings.push(
            "precision, recall, density and coverage compare sets of different sizes: they depend on the numbers"
                .into(),
        );
    }
    for (side, other, name) in [(samples, reference, "the samples"), (reference, samples, "the reference")] {
        if let Some(tables) = side.tables.filter(|tables| is_one_picture(tables, extractor)) {
            warnings.push(format!(
                "all {} images of {name} have the same features: they are the same picture, and no metric means anything",
                tables.num
            ));
        }
        if let Classes::One(class) = side.classes
            && other.classes != side.classes
        {
            warnings.push(format!("all images of {name} have the class {class}, and those of the other side may not"));
        }
    }
    if samples.tables.is_some() && extractor.classes.is_none() {
        warnings.push("there is no Inception Score: the weights of the network have no last layer (fc)".into());
    }
    if samples.report.num.is_some_and(|num| num <= extractor.pool as u64) {
        warnings.push(format!(
            "there are not more samples than the {} features: their covariance has no inverse, and FID says little",
            extractor.pool
        ));
    }
    warnings
}

fn of_reports(samples: &SideReport, reference: &SideReport) -> Vec<String> {
    let mut warnings = Vec::new();
    for (side, name) in [(samples, "the samples are"), (reference, "the reference has")] {
        if let Some(num) = side.num.filter(|num| *num < FEW_IMAGES) {
            warnings.push(format!(
                "{name} only {num} images: FID is too high below {FEW_IMAGES}, and only comparable at equal numbers"
            ));
        }
    }
    if reference.statistics.is_none() && reference.num == Some(FEW_IMAGES) {
        warnings.push(format!(
            "the reference is {FEW_IMAGES} pictures without statistics; published values use the statistics of the whole \
             training set, which the published npz files hold as mu and sigma"
        ));
    }
    if let (Some(left), Some(right)) = (samples.shape, reference.shape)
        && left != right
    {
        warnings.push(format!(
            "the samples have {}x{}x{} (height, width, channels) and the reference {}x{}x{}: a resize shows in FID",
            left[0], left[1], left[2], right[0], right[1], right[2]
        ));
    }
    if samples.pixels.is_some() && samples.pixels == reference.pixels {
        warnings.push("the reference is evaluated against itself: the same pixels are on both sides".into());
    }
    warnings
}

/// Whether several images have the same features, to the bit. The features of an image do not depend on the others.
fn is_one_picture(tables: &FeatureTables, extractor: &ExtractorIdentity) -> bool {
    let mut rows = tables.pool.chunks_exact(extractor.pool.max(1));
    let first = rows.next();
    tables.num > 1 && rows.all(|row| Some(row) == first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::measure::{MeasureOptions, Side, measure};

    fn report(num: u64, pixels: &str) -> SideReport {
        SideReport {
            location: "x".into(),
            num: Some(num),
            shape: Some([8, 8, 3]),
            pixels: Some(pixels.into()),
            statistics: None,
        }
    }

    #[test]
    fn numbers_and_shapes_that_mislead_are_warned_about() {
        assert_eq!(of_reports(&report(50_000, "a"), &report(50_000, "b")), Vec::<String>::new());
        let found = of_reports(&report(500, "a"), &report(10_000, "b"));
        assert!(found[0].contains("only 500 images") && found[1].contains("without statistics"), "{found:?}");
        assert!(of_reports(&report(50_000, "a"), &report(50_000, "a"))[0].contains("against itself"));
        let mut large = report(50_000, "b");
        large.shape = Some([16, 16, 3]);
        assert!(of_reports(&report(50_000, "a"), &large)[0].contains("8x8x3"));
    }

    fn extractor(classes: Option<usize>) -> ExtractorIdentity {
        ExtractorIdentity {
            network: "inception-2015".into(),
            weights: "0".into(),
            resize: "none".into(),
            pool: 2,
            spatial: None,
            classes,
        }
    }

    /// A side of `num` images whose features depend on their number, or not.
    fn side(num: u64, is_varied: bool, classes: Option<usize>) -> Side {
        let value = |index: u64| if is_varied { (index * index % 11) as f32 } else { 3.0 };
        let tables = FeatureTables {
            num,
            pool: (0..2 * num).map(value).collect(),
            logits: classes.map(|width| (0..num * width as u64).map(value).collect()),
            pixels: format!("{num} {is_varied}"),
            ..FeatureTables::default()
        };
        Side::drawn("x".into(), [8, 8, 3], tables)
    }

    fn warned(samples: &Side, reference: &Side, classes: Option<usize>) -> String {
        let options = MeasureOptions { adm: false, only_main: true, ..MeasureOptions::default() };
        measure(samples, reference, &extractor(classes), &options).unwrap().warnings.join("\n")
    }

    #[test]
    fn equal_pictures_one_class_and_a_missing_last_layer_are_warned_about() {
        let usual = warned(&side(6, true, Some(2)), &side(7, true, Some(2)), Some(2));
        assert!(usual.contains("different sizes"), "{usual}");
        for other in ["same features", "class", "Inception Score"] {
            assert!(!usual.contains(other), "{usual}");
        }
        assert!(warned(&side(6, false, None), &side(6, true, None), None).contains("all 6 images of the samples"));
        assert!(warned(&side(6, true, None), &side(6, false, None), None).contains("all 6 images of the reference"));
        assert!(warned(&side(6, true, None), &side(6, true, None), None).contains("no Inception Score"));
        let of_class = |classes| {
            let mut side = side(6, true, None);
            side.classes = classes;
            side
        };
        let of_one = warned(&of_class(Classes::One(3)), &of_class(Classes::Several), None);
        assert!(of_one.contains("all images of the samples have the class 3"), "{of_one}");
        assert!(!warned(&of_class(Classes::One(3)), &of_class(Classes::One(3)), None).contains("the class 3"));
    }

    #[test]
    fn a_prepared_reference_has_the_number_of_all_its_images() {
        let reference = side(9, true, None).prepared(&extractor(None), 6).unwrap();
        let text = warned(&side(6, true, None), &reference, None);
        assert!(text.contains("the reference has only 9 images"), "{text}");
        // The metrics that compare images with images take equally many.
        assert!(!text.contains("different sizes"), "{text}");
    }
}
