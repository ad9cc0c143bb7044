//! Shares results between ranks, so that all of them continue or all of them fail.

use admiral_comm::Collective;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

fn collective_error(error: &impl std::fmt::Display) -> Error {
    Error::Collective { cause: error.to_string() }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| collective_error(&error))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| collective_error(&error))
}

/// Returns the values of all ranks, in rank order, on all ranks.
///
/// # Errors
/// On all ranks, the error of the lowest rank that failed. [`Error::Collective`] if the ranks cannot reach each other.
pub(crate) fn all<T: Serialize + DeserializeOwned>(
    collective: &dyn Collective,
    own: Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let reports = collective.all_gather(&encode(&own)?).map_err(|error| collective_error(&error))?;
    reports.iter().map(|report| decode::<Result<T, Error>>(report)?).collect()
}

/// Returns the result of `root` on all ranks. `own` is ignored on the other ranks.
///
/// # Errors
/// On all ranks, the error of `root`. [`Error::Collective`] if the ranks cannot reach each other.
pub(crate) fn of_root<T: Serialize + DeserializeOwned>(
    collective: &dyn Collective,
    root: usize,
    own: Option<Result<T, Error>>,
) -> Result<T, Error> {
    let mut bytes = own.map_or_else(|| Ok(Vec::new()), |result| encode(&result))?;
    collective.broadcast(root, &mut bytes).map_err(|error| collective_error(&error))?;
    decode::<Result<T, Error>>(&bytes)?
}

/// Replaces `bytes` by the bytes of `root` on all ranks.
///
/// # Errors
/// [`Error::Collective`] if the ranks cannot reach each other.
pub(crate) fn bytes_of_root(collective: &dyn Collective, root: usize, bytes: &mut Vec<u8>) -> Result<(), Error> {
    collective.broadcast(root, bytes).map_err(|error| collective_error(&error))
}
