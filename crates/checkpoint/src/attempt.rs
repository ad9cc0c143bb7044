//! The identity of a run and its attempt.

use admiral_checkpoints_schema::Writer;
use admiral_comm::Collective;
use admiral_contract::host::host_name;

use crate::agree;
use crate::error::Error;

/// Returns the identity of this attempt. `run_id` is that of the run that it resumes, or `None` for a new run. Rank 0 draws
/// the random IDs. Every rank must call it, and gets the same result.
///
/// # Errors
/// [`Error::Collective`] if the ranks cannot communicate, or the system provides no random numbers. The same on every rank.
pub fn identify(run_id: Option<String>, collective: &dyn Collective) -> Result<Writer, Error> {
    let writer = (collective.rank() == 0).then(|| {
        Ok(Writer {
            run_id: run_id.map_or_else(random_id, Ok)?,
            attempt_id: random_id()?,
            host: host_name(),
            started: jiff::Timestamp::now().to_string(),
        })
    });
    agree::of_root(collective, 0, writer)
}

/// Returns [`ID_DIGITS`](crate::layout::ID_DIGITS) random hexadecimal digits.
///
/// # Errors
/// [`Error::Collective`] if the system provides no random numbers.
pub(crate) fn random_id() -> Result<String, Error> {
    let mut bytes = [0; crate::layout::ID_DIGITS / 2];
    getrandom::fill(&mut bytes).map_err(|error| Error::Collective { cause: format!("no random number: {error}") })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
