//! Images and labels that are read by number: of an npz file, or of another job.

use std::ops::Range;

use admiral_storage::{Location, Store, StoreOptions};

use crate::error::Error;
use crate::job::Job;
use crate::layout::is_assembled;
use crate::npz_file::{NpzFile, names_npz};
use crate::parts::Part;
use crate::settings::sha256_of;

/// The name of the array with labels in the files of jobs and in the published sample files.
pub const LABELS: &str = "arr_1";

/// Images that are read by number, for example those of a low resolution that another job drew.
#[derive(Debug)]
pub enum Images {
    /// Those of an npz file.
    Npz(NpzFile),
    /// Those of a finished job. The part that was read last is kept.
    Job {
        /// The job.
        job: Box<Job>,
        /// The part that was read last, and its number.
        last: Option<(u64, Part)>,
    },
    /// Those of a finished job whose parts were deleted.
    Assembled {
        /// The job.
        job: Box<Job>,
        /// Its file with all images.
        npz: NpzFile,
    },
}

impl Images {
    /// Opens an npz file or a finished job: a path or a bucket's URL. A job without its parts is read from its npz file.
    ///
    /// # Errors
    /// [`Error::Npz`] if the file has another form; [`Error::NotFound`], [`Error::Schema`] or [`Error::Incomplete`] if there
    /// is no finished job; [`Error::Url`]; [`Error::Store`].
    pub fn open(location: &str, options: &StoreOptions) -> Result<Self, Error> {
        if names_npz(location) {
            return Ok(Self::Npz(NpzFile::open(location, options)?));
        }
        let job = Box::new(Job::open(&Store::open(&Location::parse(location)?, options)?)?);
        match job.check_complete() {
            Ok(()) => Ok(Self::Job { job, last: None }),
            Err(incomplete @ Error::Incomplete { .. }) => match assembled(&job)? {
                Some(npz) => Ok(Self::Assembled { job, npz }),
                None => Err(incomplete),
            },
            Err(error) => Err(error),
        }
    }

    /// Returns height, width and channels of the images.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Npz(npz) => npz.images().shape(),
            Self::Job { job, .. } | Self::Assembled { job, .. } => job.settings().shape,
        }
    }

    /// Returns the number of images.
    #[must_use]
    pub fn num(&self) -> u64 {
        match self {
            Self::Npz(npz) => npz.images().num(),
            Self::Job { job, .. } | Self::Assembled { job, .. } => job.settings().num,
        }
    }

    /// Returns a text that identifies the images: the SHA-256, as hexadecimal digits, of the checksums in an npz file, or of
    /// the settings of a job, which determine its images.
    #[must_use]
    pub fn digest(&self) -> String {
        match self {
            Self::Npz(npz) => sha256_of(npz.images().fingerprint().as_bytes()),
            Self::Job { job, .. } | Self::Assembled { job, .. } => sha256_of(&job.settings().to_json()),
        }
    }

    /// Reads all images of an npz file in order, `at_once` together, which compares its checksum. The parts of a job are
    /// verified when they are read.
    ///
    /// # Errors
    /// [`Error::Npz`] if the file is damaged; [`Error::Store`].
    pub fn verify(&self, at_once: u64) -> Result<(), Error> {
        match self {
            Self::Npz(npz) | Self::Assembled { npz, .. } => npz.verify(at_once),
            Self::Job { .. } => Ok(()),
        }
    }

    /// Reads the pixels of images, `[number, height, width, channels]`. Fastest in ascending order.
    ///
    /// # Errors
    /// [`Error::Npz`] if there are not that many images, or the file is damaged; [`Error::Damaged`]; [`Error::Store`].
    pub fn read(&mut self, images: Range<u64>) -> Result<Vec<u8>, Error> {
        let (job, last) = match self {
            Self::Npz(npz) | Self::Assembled { npz, .. } => return npz.read(images),
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
            Self::Npz(npz) | Self::Assembled { npz, .. } => npz.labels(LABELS),
            Self::Job { job, .. } => job.labels(),
        }
    }
}

/// Opens the npz file of a job, if its manifest names one that is there with its length.
fn assembled(job: &Job) -> Result<Option<NpzFile>, Error> {
    let files = job.manifest()?.map(|manifest| manifest.files).unwrap_or_default();
    let Some(file) = files.iter().find(|file| is_assembled(&file.path)) else { return Ok(None) };
    if job.store().wait(job.store().length(&file.path))? != Some(file.length) {
        return Ok(None);
    }
    let (npz, settings) = (NpzFile::in_store(job.store(), &file.path)?, job.settings());
    let found = (npz.images().num(), npz.images().shape());
    if found != (settings.num, settings.shape) {
        let reason = format!("it has {} images of {:?} (height, width, channels), unlike its job", found.0, found.1);
        return Err(Error::Npz { file: job.store().url(&file.path), reason });
    }
    Ok(Some(npz))
}
