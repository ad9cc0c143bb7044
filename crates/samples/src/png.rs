//! The images of a job as PNG files: `png/000012.png`, or `png/0207_000012.png` with label 207. Programs that read classes
//! from file names take what is before the `_`.

use std::collections::HashSet;

use admiral_png::encode;
use futures::StreamExt;

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
            let shape = self.settings.shape;
            async move {
                let file = encode(pixels, shape).map_err(|reason| Error::Png { shape, reason })?;
                Ok(self.store.put(&path, file).await?)
            }
        });
        let written = futures::stream::iter(writes).buffered(WRITES_IN_FLIGHT).collect::<Vec<Result<(), Error>>>();
        self.store.wait(written).into_iter().collect()
    }
}
