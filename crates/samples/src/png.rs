//! The images of a job as PNG files: `png/000012.png`, or `png/0207_000012.png` with label 207. Programs that read classes
//! from file names take what is before the `_`.

use std::collections::HashSet;

use futures::StreamExt;
use image::{ExtendedColorType, ImageEncoder};

use crate::error::Error;
use crate::job::Job;
use crate::layout::PNG;

/// The number of files that are written at the same time.
const WRITES_IN_FLIGHT: usize = 8;

/// Returns the name of the PNG file of an image.
fn png_name(image: u64, label: Option<i64>) -> String {
    label.map_or_else(|| format!("{image:06}.png"), |label| format!("{label:04}_{image:06}.png"))
}

/// Returns the number of the image in the PNG file with this name.
fn image_of(name: &str) -> Option<u64> {
    let name = name.strip_suffix(".png")?;
    name.rsplit_once('_').map_or(name, |(_, image)| image).parse().ok()
}

/// Encodes an image. `pixels` is `[height, width, channels]`.
fn encode(pixels: &[u8], shape: [usize; 3]) -> Result<Vec<u8>, Error> {
    let [height, width, channels] = shape;
    let refuse = |reason: String| Error::Png { shape, reason };
    let color = match channels {
        1 => ExtendedColorType::L8,
        2 => ExtendedColorType::La8,
        3 => ExtendedColorType::Rgb8,
        4 => ExtendedColorType::Rgba8,
        _ => return Err(refuse("it has 1 to 4 channels".into())),
    };
    let side = |pixels: usize| u32::try_from(pixels).map_err(|_| refuse("it is too large".into()));
    let mut png = Vec::new();
    image::codecs::png::PngEncoder::new(&mut png)
        .write_image(pixels, side(width)?, side(height)?, color)
        .map_err(|error| refuse(error.to_string()))?;
    Ok(png)
}

impl Job {
    /// Returns the numbers of the parts of which not all images are there as PNG files, ascending.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn missing_png(&self) -> Result<Vec<u64>, Error> {
        let files = self.store.list_files(PNG)?;
        let there: HashSet<u64> = files.iter().filter_map(|(name, _)| image_of(name)).collect();
        let is_missing = |part: &u64| self.settings.images_of(*part).any(|image| !there.contains(&image));
        Ok((0..self.settings.num_parts()).filter(is_missing).collect())
    }

    /// Writes the images of a published part as PNG files. Existing ones are replaced by the same bytes.
    ///
    /// # Errors
    /// [`Error::Png`] if PNG has no such images; [`Error::Damaged`] if the part is damaged; [`Error::Store`].
    pub fn write_png(&self, part: u64) -> Result<(), Error> {
        let contents = self.read_part(part)?;
        let images = contents.pixels.chunks_exact(self.settings.image_bytes());
        let writes = (contents.first..).zip(images).enumerate().map(|(place, (image, pixels))| {
            let label = contents.labels.as_ref().and_then(|labels| labels.get(place).copied());
            let path = format!("{PNG}/{}", png_name(image, label));
            async move { Ok(self.store.put(&path, encode(pixels, self.settings.shape)?).await?) }
        });
        let written = futures::stream::iter(writes).buffered(WRITES_IN_FLIGHT).collect::<Vec<Result<(), Error>>>();
        self.store.wait(written).into_iter().collect()
    }
}
