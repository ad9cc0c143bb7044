//! TensorFlow 1's bilinear resize, exact in float32.

use std::thread;

/// The height and width to which images are resized.
pub(super) const SIDE: usize = 299;

/// The channels of resized images.
pub(super) const CHANNELS: usize = 3;

/// The two source rows (or columns) of a target row, and the weight of the second one.
#[derive(Debug, Clone, Copy)]
struct Between {
    lower: usize,
    upper: usize,
    weight: f32,
}

/// Returns where each of the 299 target positions lies among `length` source positions: neither half pixels nor aligned
/// corners. Positions are rounded to float32.
fn positions(length: usize) -> Vec<Between> {
    let scale = length as f32 / SIDE as f32;
    (0..SIDE)
        .map(|target| {
            let position = target as f32 * scale;
            let lower = position as usize;
            Between { lower, upper: (lower + 1).min(length - 1), weight: position - lower as f32 }
        })
        .collect()
}

fn mix(a: f32, b: f32, weight: f32) -> f32 {
    a + (b - a) * weight
}

/// The shape of images before the resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageShape {
    pub(super) height: usize,
    pub(super) width: usize,
    /// 3, or 1, which is repeated.
    pub(super) channels: usize,
}

impl ImageShape {
    /// Returns the bytes of an image.
    pub(super) fn num_bytes(self) -> usize {
        self.height * self.width * self.channels
    }
}

/// Resizes images of uint8 `[num, height, width, channels]` to `[num, 299, 299, 3]`, on `num_threads` threads. Each
/// value passes through `finish`.
pub(super) fn resize(
    images: &[u8],
    shape: ImageShape,
    num_threads: usize,
    finish: impl Fn(f32) -> f32 + Sync,
) -> Vec<f32> {
    const ROW: usize = SIDE * CHANNELS;
    let num_rows = images.len() / shape.num_bytes() * SIDE;
    let (rows, columns) = (positions(shape.height), positions(shape.width));
    let mut resized = vec![0.0; num_rows * ROW];
    let rows_per_thread = num_rows.div_ceil(num_threads.max(1)).max(1);
    let work = |first: usize, target: &mut [f32]| {
        let mut source_rows = SourceRows::new(images, shape, &columns);
        for (row, target) in target.chunks_exact_mut(ROW).enumerate() {
            let (image, row) = ((first + row) / SIDE, (first + row) % SIDE);
            let Between { lower, upper, weight } = rows[row];
            let [top, bottom] = source_rows.two(image, [lower, upper]);
            for ((target, &top), &bottom) in target.iter_mut().zip(top).zip(bottom) {
                *target = finish(mix(top, bottom, weight));
            }
        }
    };
    thread::scope(|scope| {
        let mut parts = resized.chunks_mut(rows_per_thread * ROW).enumerate();
        // This thread takes the first part.
        let own = parts.next();
        for (part, target) in parts {
            let work = &work;
            scope.spawn(move || work(part * rows_per_thread, target));
        }
        if let Some((_, target)) = own {
            work(0, target);
        }
    });
    resized
}

/// A resized row.
#[derive(Debug)]
struct KeptRow {
    /// The image and the source row.
    from: Option<(usize, usize)>,
    values: Vec<f32>,
}

/// Rows of the source, resized from left to right. The last two are kept, because neighbouring target rows share them.
struct SourceRows<'a> {
    images: &'a [u8],
    shape: ImageShape,
    columns: &'a [Between],
    kept: [KeptRow; 2],
}

impl<'a> SourceRows<'a> {
    fn new(images: &'a [u8], shape: ImageShape, columns: &'a [Between]) -> Self {
        let empty = || KeptRow { from: None, values: vec![0.0; SIDE * CHANNELS] };
        Self { images, shape, columns, kept: [empty(), empty()] }
    }

    /// Returns two rows of an image.
    fn two(&mut self, image: usize, [top, bottom]: [usize; 2]) -> [&[f32]; 2] {
        if self.kept[1].from == Some((image, top)) {
            self.kept.swap(0, 1);
        }
        for (place, row) in [top, bottom].into_iter().enumerate() {
            let kept = &mut self.kept[place];
            if kept.from != Some((image, row)) {
                kept.from = Some((image, row));
                let ImageShape { width, channels, .. } = self.shape;
                let start = image * self.shape.num_bytes() + row * width * channels;
                let source = &self.images[start..start + width * channels];
                if channels == CHANNELS {
                    resize_row::<CHANNELS>(source, self.columns, &mut kept.values);
                } else {
                    resize_row::<1>(source, self.columns, &mut kept.values);
                }
            }
        }
        [&self.kept[0].values, &self.kept[1].values]
    }
}

/// Resizes a row of 3 channels, or of 1 that is repeated.
fn resize_row<const N: usize>(source: &[u8], columns: &[Between], target: &mut [f32]) {
    let (targets, _) = target.as_chunks_mut::<CHANNELS>();
    for (target, &Between { lower, upper, weight }) in targets.iter_mut().zip(columns) {
        for (channel, target) in target.iter_mut().enumerate() {
            let channel = if N == 1 { 0 } else { channel };
            *target = mix(f32::from(source[lower * N + channel]), f32::from(source[upper * N + channel]), weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i * i + 7 * i) as u8).collect()
    }

    #[test]
    fn images_of_299_pass_unchanged() {
        let shape = ImageShape { height: SIDE, width: SIDE, channels: 3 };
        let images = bytes(shape.num_bytes());
        let expected: Vec<f32> = images.iter().map(|&byte| f32::from(byte)).collect();
        assert_eq!(resize(&images, shape, 2, |value| value), expected);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let shape = ImageShape { height: 5, width: 340, channels: 3 };
        let images = bytes(3 * shape.num_bytes());
        let alone = resize(&images, shape, 1, |value| value);
        for threads in [2, 7, 2000] {
            assert_eq!(resize(&images, shape, threads, |value| value), alone, "{threads}");
        }
    }

    #[test]
    fn one_channel_is_repeated() {
        let gray = ImageShape { height: 9, width: 4, channels: 1 };
        let images = bytes(2 * gray.num_bytes());
        let tripled: Vec<u8> = images.iter().flat_map(|&byte| [byte; 3]).collect();
        let color = ImageShape { channels: 3, ..gray };
        assert_eq!(resize(&images, gray, 2, |value| value), resize(&tripled, color, 2, |value| value));
    }

    #[test]
    fn a_single_pixel_fills_the_image() {
        let shape = ImageShape { height: 1, width: 1, channels: 3 };
        let resized = resize(&[1, 2, 3], shape, 1, |value| value - 1.0);
        assert!(resized.chunks(3).all(|pixel| pixel == [0.0, 1.0, 2.0]));
    }
}
