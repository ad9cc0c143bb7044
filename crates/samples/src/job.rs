//! A job: its location, its settings, and which parts are missing.

use admiral_storage::{Location, PROBE, Store};

use crate::error::Error;
use crate::layout::{JOB, PARTS, missing_parts};
use crate::settings::JobSettings;
use crate::settings::sha256_of;

/// A sampling job in a store. Clones share the connection.
///
/// Its methods block the calling thread, which must not belong to an asynchronous runtime.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) store: Store,
    pub(crate) settings: JobSettings,
    /// The SHA-256 of its `job.json`, which is in the record of each part.
    pub(crate) id: String,
}

impl Job {
    /// Begins a job in an empty store, or continues it in a store that holds the same one. All ranks may call it, at the same
    /// time.
    ///
    /// # Errors
    /// [`Error::Settings`]; [`Error::OtherJob`] if a job with other settings is there; [`Error::Occupied`] if something else
    /// is there; [`Error::Schema`] if its `job.json` cannot be read by this version; [`Error::Store`].
    pub fn create_or_open(store: &Store, settings: JobSettings) -> Result<Self, Error> {
        settings.validate()?;
        let id = sha256_of(&settings.to_json());
        let job = Self { store: store.clone(), settings, id };
        let there = match read_job(store)? {
            Some(there) => there,
            None => {
                Self::check_vacant(store)?;
                // Otherwise two jobs could begin here.
                store.wait(store.require_new_files())?;
                if store.wait(store.put_new(JOB, job.settings.to_json()))? {
                    tracing::info!("a new job of {} images in {}", job.settings.num, store.url(""));
                    return Ok(job);
                }
                read_job(store)?.ok_or_else(|| no_job(store))?
            }
        };
        there.check_settings(&job.settings)?;
        Ok(Self { id: there.id, ..job })
    }

    /// Checks that this job, as it is in the store, is the `wanted` one.
    ///
    /// # Errors
    /// [`Error::OtherJob`] with the differences.
    pub fn check_settings(&self, wanted: &JobSettings) -> Result<(), Error> {
        let differences = wanted.differences_from(&self.settings);
        if differences.is_empty() { Ok(()) } else { Err(Error::OtherJob { url: self.store.url(""), differences }) }
    }

    /// Opens the job in a store, whatever its settings.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Schema`] if its `job.json` cannot be read by this version;
    /// [`Error::Store`].
    pub fn open(store: &Store) -> Result<Self, Error> {
        read_job(store)?.ok_or_else(|| no_job(store))
    }

    /// Checks that a store without a job holds nothing else. Files that another rank writes there as soon as it has begun a
    /// job do not count.
    ///
    /// # Errors
    /// [`Error::Occupied`]; [`Error::Store`].
    pub fn check_vacant(store: &Store) -> Result<(), Error> {
        match other_files(store)? {
            Some(found) => Err(Error::Occupied { url: store.url(""), found }),
            None => Ok(()),
        }
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &JobSettings {
        &self.settings
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the numbers of the missing parts, ascending. Other ranks may write parts meanwhile, so rank 0 should call it
    /// and send the result.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn missing(&self) -> Result<Vec<u64>, Error> {
        Ok(missing_parts(&self.settings, &self.store.list_files(PARTS)?))
    }

    /// Checks that all parts are there.
    ///
    /// # Errors
    /// [`Error::Incomplete`]; [`Error::Store`].
    pub fn check_complete(&self) -> Result<(), Error> {
        let missing = self.missing()?;
        let Some(&first) = missing.first() else { return Ok(()) };
        let (missing, num_parts) = (missing.len() as u64, self.settings.num_parts());
        Err(Error::Incomplete { url: self.store.url(""), missing, num_parts, first })
    }
}

/// Returns the first names in the store if there are any and none is `job.json`, which another rank may have written.
fn other_files(store: &Store) -> Result<Option<String>, Error> {
    let (mut names, folders) =
        store.wait(async { Ok::<_, Error>((store.files_right_under("").await?, store.folders("").await?)) })?;
    if names.iter().any(|name| name == JOB) {
        return Ok(None);
    }
    // Those of other ranks.
    names.retain(|name| !name.starts_with(PROBE));
    names.extend(folders.into_iter().map(|folder| format!("{folder}/")));
    names.truncate(5);
    Ok((!names.is_empty()).then(|| names.join(", ")))
}

fn no_job(store: &Store) -> Error {
    Error::NotFound { url: store.url(""), reason: format!("it has no {JOB}") }
}

fn read_job(store: &Store) -> Result<Option<Job>, Error> {
    let read = |bytes: bytes::Bytes| {
        let settings =
            JobSettings::from_json(&bytes).map_err(|reason| Error::Schema { url: store.url(JOB), reason })?;
        Ok(Job { store: store.clone(), settings, id: sha256_of(&bytes) })
    };
    store.wait(store.get(JOB))?.map(read).transpose()
}

/// Returns the folder of a store. `None` for a bucket.
pub(crate) fn folder_of(store: &Store) -> Option<&std::path::Path> {
    match store.location() {
        Some(Location::Folder(path)) => Some(path),
        _ => None,
    }
}
