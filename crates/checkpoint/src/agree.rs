//! How the ranks come to the same outcome, so that none goes on where another has failed.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use admiral_comm::Collective;

fn broken(error: &impl std::fmt::Display) -> Error {
    Error::Collective { cause: error.to_string() }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| broken(&error))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| broken(&error))
}

/// What all ranks brought, on all ranks; the error of the lowest rank that failed, where one did.
///
/// # Errors
/// That rank's, or [`Error::Collective`].
pub(super) fn all<T: Serialize + DeserializeOwned>(
    collective: &dyn Collective,
    own: Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let reports = collective.all_gather(&encode(&own)?).map_err(|error| broken(&error))?;
    reports.iter().map(|report| decode::<Result<T, Error>>(report)?).collect()
}

/// The outcome that `root` has, on all ranks. The others' `own` is not looked at.
///
/// # Errors
/// The root's, or [`Error::Collective`].
pub(super) fn of_root<T: Serialize + DeserializeOwned>(
    collective: &dyn Collective,
    root: usize,
    own: Option<Result<T, Error>>,
) -> Result<T, Error> {
    let mut bytes = own.map_or_else(|| Ok(Vec::new()), |outcome| encode(&outcome))?;
    collective.broadcast(root, &mut bytes).map_err(|error| broken(&error))?;
    decode::<Result<T, Error>>(&bytes)?
}

/// The bytes that `root` has, on all ranks.
///
/// # Errors
/// [`Error::Collective`].
pub(super) fn bytes_of_root(collective: &dyn Collective, root: usize, bytes: &mut Vec<u8>) -> Result<(), Error> {
    collective.broadcast(root, bytes).map_err(|error| broken(&error))
}
