//! Images and labels that are read by number: of an npz file, or of another job.

use std::ops::Range;
use std::path::Path;

use admiral_npz::NpzImages;
use admiral_storage::{Location, Store, StoreOptions};

use crate::error::Error;
use crate::job::Job;
use crate::parts::{Part, sha256_of};

/// The name of the array with labels in the files of jobs and in the published sample files.
pub const LABELS: &str = "arr_1";

/// Images that are read by number, for example those of a low resolution that another job drew.
#[derive(Debug)]
pub enum Images {
    /// Those of an npz file.
    Npz(NpzImages),
    /// Those of a finished job. The part that was read last is kept.
    Job {
        /// The job.
        job: Box<Job>,
        /// The part that was read last, and its number.
        last: Option<(u64, Part)>,
    },
}

impl Images {
    /// Opens a local npz file, or the location of a finished job: a folder or a bucket's URL.
    ///
    /// # Errors
    /// [`Error::Npz`] if the file has another form; [`Error::NotFound`], [`Error::Schema`] or [`Error::Incomplete`] if there
    /// is no finished job; [`Error::Url`]; [`Error::Store`].
    pub fn open(location: &str, options: &StoreOptions) -> Result<Self, Error> {
        if location.ends_with(".npz") && !location.contains("://") {
            return Ok(Self::Npz(NpzImages::open(Path::new(location))?));
        }
        let job = Job::open(&Store::open(&Location::parse(location)?, options)?)?;
        job.check_complete()?;
        Ok(Self::Job { job: Box::new(job), last: None })
    }

    /// Returns height, width and channels of the images.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Npz(images) => images.shape(),
            Self::Job { job, .. } => job.settings().shape,
        }
    }

    /// Returns the number of images.
    #[must_use]
    pub fn num(&self) -> u64 {
        match self {
            Self::Npz(images) => images.num(),
            Self::Job { job, .. } => job.settings().num,
        }
    }

    /// Returns a text that identifies the images: the SHA-256, as hexadecimal digits, of the checksums in an npz file, or of
    /// the settings of a job, which determine its images.
    #[must_use]
    pub fn digest(&self) -> String {
        match self {
            Self::Npz(images) => sha256_of(images.fingerprint().as_bytes()),
            Self::Job { job, .. } => sha256_of(&job.settings().to_json()),
        }
    }

    /// Reads the pixels of images, `[number, height, width, channels]`. Fastest in ascending order.
    ///
    /// # Errors
    /// [`Error::Npz`] if there are not that many images, or the file is damaged; [`Error::Damaged`]; [`Error::Store`].
    pub fn read(&mut self, images: Range<u64>) -> Result<Vec<u8>, Error> {
        let (job, last) = match self {
            Self::Npz(npz) => return Ok(npz.read(images)?),
            Self::Job { job, last } => (job, last),
        };
        let settings = job.settings();
        if images.start > images.end || images.end > settings.num {
            let reason = format!("it has {} images, and images {images:?} are needed", settings.num);
            return Err(Error::Npz { file: job.store().url(""), reason });
        }
        let (image_bytes, mut pixels, mut next) = (settings.image_bytes(), Vec::new(), images.start);
        while next < images.end {
            let part = next / settings.part_size;
            if last.as_ref().is_none_or(|(number, _)| *number != part) {
                *last = Some((part, job.read_part(part)?));
            }
            let Some((_, contents)) = &last else { break };
            let end = settings.images_of(part).end.min(images.end);
            let place = |image: u64| (image - contents.first) as usize * image_bytes;
            pixels.extend_from_slice(&contents.pixels[place(next)..place(end)]);
            next = end;
        }
        Ok(pixels)
    }

    /// Returns the labels of all images: the array `arr_1` of an npz file, or those of a job.
    ///
    /// # Errors
    /// [`Error::NoLabels`] if there are none; the errors of [`read`](Self::read).
    pub fn labels(&self) -> Result<Vec<i64>, Error> {
        match self {
            Self::Npz(images) => Ok(images.labels(LABELS)?),
            Self::Job { job, .. } => job.labels(),
        }
    }
}
