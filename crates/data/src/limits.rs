//! Bounds on the cost of one image.

/// The largest number of pixels of an image, before and after scaling: that at which Pillow refuses an image as a
/// decompression bomb. In RGB it takes 0.5 GB.
pub(crate) const MAX_PIXELS: usize = admiral_containers::MAX_PIXELS as usize;

/// The largest number of scans of a progressive JPEG file. Each takes a pass over the whole image, and encoders write about
/// ten.
pub(crate) const MAX_SCANS: i32 = 500;

/// Returns why an image of this size is refused; `None` if it is not.
pub(crate) fn refusal(width: usize, height: usize) -> Option<String> {
    match width.checked_mul(height) {
        Some(0) => Some(format!("it has {width} x {height} pixels")),
        Some(pixels) if pixels <= MAX_PIXELS => None,
        _ => Some(format!("it has {width} x {height} pixels, and at most {MAX_PIXELS} are read")),
    }
}

/// Returns why an image is refused whose short side is scaled to `length` pixels; `None` if it is not.
pub(crate) fn refusal_of_scale(width: usize, height: usize, length: usize) -> Option<String> {
    let (short, long) = (width.min(height), width.max(height));
    if short == 0 {
        return refusal(width, height);
    }
    let scaled = long as f64 * length as f64 / short as f64 * length as f64;
    (scaled > MAX_PIXELS as f64)
        .then(|| format!("it has {width} x {height} pixels, too narrow to scale the short side to {length} pixels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_bounds() {
        assert_eq!(refusal(500, 375), None);
        assert_eq!(refusal(MAX_PIXELS, 1), None);
        for (width, height) in [(30_000, 30_000), (usize::MAX, 2), (0, 5), (5, 0)] {
            assert!(refusal(width, height).is_some(), "{width} x {height}");
        }
        assert_eq!(refusal_of_scale(5000, 50, 512), None);
        assert!(refusal_of_scale(4_000_000, 1, 64).is_some_and(|reason| reason.contains("4000000 x 1")));
    }
}
