//! The lease of a store: only one attempt of one run may write checkpoints to it.
//!
//! `owner.json` names the attempt that holds the lease. It renews the file while it runs, and checks before it publishes a
//! checkpoint that the file still names it. If two runs are given the same store, the second one is therefore refused at
//! its start. If it could not know of the first, the one that lost the lease stops at its next save.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admiral_checkpoints_schema::{Owner, SCHEMA_VERSION, Writer};
use admiral_contract::host::Life;
use admiral_storage::Store;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::layout;
use crate::manifests::json;
use crate::owner::{life_of, own_process, read_owner, write_owner};

/// The time between two renewals.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// A holder on another machine that does not renew the lease for this long counts as dead.
const EXPIRY: Duration = Duration::from_secs(35);

/// The time between two reads of a lease that may be renewed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The lease of this attempt. It is released when this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Store,
    /// The file as it was last written. The renewal increments its beat.
    owner: Arc<Mutex<Owner>>,
    attempt_id: String,
    renewal: JoinHandle<()>,
    /// The attempt that has taken the lease from this one, if the renewal noticed it.
    taken_by: Arc<Mutex<Option<Writer>>>,
}

impl Lease {
    /// Acquires the lease of a store for an attempt. Rank 0 calls it. `ended_attempts` are the IDs of attempts whose
    /// processes are known to have ended.
    ///
    /// # Errors
    /// [`Error::Owned`] if another attempt holds it and is alive; [`Error::Store`].
    pub(crate) fn acquire(
        store: &Store,
        writer: Writer,
        resumed_from: Option<u64>,
        ended_attempts: &[String],
    ) -> Result<Self, Error> {
        let owner = Owner {
            schema_version: SCHEMA_VERSION,
            writer,
            process: own_process(),
            resumed_from,
            beat: 0,
            is_released: false,
        };
        store.wait(acquire(store, &owner, ended_attempts))?;
        let taken_by = Arc::default();
        let attempt_id = owner.writer.attempt_id.clone();
        let owner = Arc::new(Mutex::new(owner));
        let renewal = store.spawn(renew(store.clone(), Arc::clone(&owner), Arc::clone(&taken_by)));
        Ok(Self { store: store.clone(), owner, attempt_id, renewal, taken_by })
    }

    fn owner(&self) -> Owner {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the step that the attempt has resumed from.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) fn set_resumed_from(&self, step: u64) -> Result<(), Error> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).resumed_from = Some(step);
        self.store.wait(write_owner(&self.store, &self.owner()))
    }

    /// Returns an error if the renewal noticed that another attempt has taken the lease. Does not access the store.
    pub(crate) fn lost(&self) -> Option<Error> {
        let taken_by = self.taken_by.lock().unwrap_or_else(PoisonError::into_inner);
        taken_by.as_ref().map(|writer| owned(&self.store, writer))
    }

    /// Reads the file and checks that this attempt still holds the lease.
    ///
    /// # Errors
    /// [`Error::Owned`] if it does not; [`Error::Store`].
    pub(crate) fn check(&self) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let (store, attempt_id) = (self.store.clone(), self.attempt_id.clone());
        async move {
            match read_owner(&store).await? {
                Some(other) if other.writer.attempt_id != attempt_id => Err(owned(&store, &other.writer)),
                _ => Ok(()),
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        let released = Owner { is_released: true, ..self.owner() };
        let release = async {
            let is_own = read_owner(&self.store).await?.is_some_and(|found| found.writer.attempt_id == self.attempt_id);
            if is_own { write_owner(&self.store, &released).await } else { Ok(()) }
        };
        // If the release fails, the next attempt takes the lease over when it finds this one dead.
        let _ = self.store.wait(async { tokio::time::timeout(POLL_INTERVAL * 5, release).await });
    }
}

fn owned(store: &Store, writer: &Writer) -> Error {
    Error::Owned { url: store.url(""), by: writer.to_string() }
}

/// Acquires the lease, which another attempt may hold. `ended` are the IDs of attempts that are known to have ended.
async fn acquire(store: &Store, own: &Owner, ended: &[String]) -> Result<(), Error> {
    let start = tokio::time::Instant::now();
    if store.put_new(layout::OWNER, json(store, layout::OWNER, own)?).await? {
        return Ok(());
    }
    let latency = start.elapsed().min(POLL_INTERVAL);
    if let Some(found) = read_owner(store).await?
        && !found.is_released
    {
        let is_alive = match life_of(&found.process) {
            Life::Alive => true,
            Life::Dead => false,
            Life::Unknown if ended.contains(&found.writer.attempt_id) => false,
            Life::Unknown => is_renewed(store, &found).await?,
        };
        if is_alive {
            return Err(owned(store, &found.writer));
        }
        tracing::info!("taking over {} from {}, which ended without releasing its lease", store.url(""), found.writer);
    }
    write_owner(store, own).await?;
    // If two attempts get here at the same time, the one that writes last holds the lease. The other one must not read
    // before that.
    tokio::time::sleep(Duration::from_millis(50) + 3 * latency).await;
    match read_owner(store).await? {
        Some(found) if found.writer.attempt_id != own.writer.attempt_id => Err(owned(store, &found.writer)),
        _ => Ok(()),
    }
}

/// Waits for up to [`EXPIRY`] and returns whether a holder on another machine renews the lease.
async fn is_renewed(store: &Store, found: &Owner) -> Result<bool, Error> {
    let (holder, url, seconds) = (&found.writer, store.url(""), EXPIRY.as_secs());
    tracing::warn!("{holder} holds the lease of {url}; waiting up to {seconds} s for a sign of life");
    let end = tokio::time::Instant::now() + EXPIRY;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(POLL_INTERVAL).await;
        match read_owner(store).await? {
            Some(now) if now.is_released => return Ok(false),
            Some(now) if now != *found => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// Renews the lease until another attempt takes it.
async fn renew(store: Store, owner: Arc<Mutex<Owner>>, taken_by: Arc<Mutex<Option<Writer>>>) {
    loop {
        tokio::time::sleep(RENEWAL_INTERVAL).await;
        let now = {
            let mut owner = owner.lock().unwrap_or_else(PoisonError::into_inner);
            owner.beat += 1;
            owner.clone()
        };
        match read_owner(&store).await {
            Ok(Some(found)) if found.writer.attempt_id != now.writer.attempt_id => {
                *taken_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.writer);
                return;
            }
            // Errors of the store are not reported here: it may answer at the next renewal, and saves report their own.
            Ok(_) => {
                if let Err(error) = write_owner(&store, &now).await {
                    tracing::debug!("{error}");
                }
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_checkpoints_schema::Process;

    use super::*;
    use crate::owner::owner_state;
    use crate::testing::memory;

    fn writer(attempt: &str) -> Writer {
        Writer {
            run_id: "r".into(),
            attempt_id: attempt.into(),
            host: "node0".into(),
            started: "2021-05-11T00:00:00Z".into(),
        }
    }

    #[test]
    fn a_second_run_is_refused_until_the_first_releases_the_lease() {
        let store = memory();
        let first = Lease::acquire(&store, writer("first"), Some(20), &[]).unwrap();
        let owner = store.wait(owner_state(&store)).unwrap().unwrap();
        assert_eq!((owner.writer.attempt_id.as_str(), owner.life), ("first", Life::Alive));
        assert_eq!(owner.step_in_use(), Some(20));
        assert_eq!([20, 21].map(|step| owner.may_be_writing(step)), [false, true]);
        let error = Lease::acquire(&store, writer("second"), None, &[]).unwrap_err();
        assert!(matches!(&error, Error::Owned { by, .. } if by.contains("first") && by.contains("node0")), "{error}");
        store.wait(first.check()).unwrap();
        drop(first);
        let owner = store.wait(owner_state(&store)).unwrap().unwrap();
        assert!(owner.is_released && owner.step_in_use().is_none() && !owner.may_be_writing(21));
        Lease::acquire(&store, writer("second"), None, &[]).unwrap();
    }

    #[test]
    fn a_dead_holder_is_replaced_and_detects_it() {
        let store = memory();
        let first = Lease::acquire(&store, writer("first"), None, &[]).unwrap();
        // As after an attempt was killed, and its process ID was reused.
        let mut dead = first.owner();
        dead.process.start_ticks += 1;
        dead.resumed_from = Some(20);
        store.wait(write_owner(&store, &dead)).unwrap();
        let owner = store.wait(owner_state(&store)).unwrap().unwrap();
        assert_eq!((owner.life, owner.step_in_use(), owner.may_be_writing(21)), (Life::Dead, Some(20), false));
        let second = Lease::acquire(&store, writer("second"), None, &[]).unwrap();
        let error = store.wait(first.check()).unwrap_err();
        assert!(matches!(&error, Error::Owned { by, .. } if by.contains("second")), "{error}");
        drop(first);
        store.wait(second.check()).unwrap();
    }

    #[test]
    fn a_remote_holder_that_is_known_to_have_ended_is_replaced_immediately() {
        let store = memory();
        let owner = |attempt: &str| Owner {
            schema_version: SCHEMA_VERSION,
            writer: writer(attempt),
            process: Process { machine: "elsewhere".into(), ..own_process() },
            resumed_from: None,
            beat: 0,
            is_released: false,
        };
        store.wait(acquire(&store, &owner("first"), &[])).unwrap();
        // Without knowing it, an attempt waits for a sign of life, for longer than this test does.
        let second =
            async { tokio::time::timeout(POLL_INTERVAL, acquire(&store, &owner("second"), &["other".into()])).await };
        assert!(store.wait(second).is_err());
        store.wait(acquire(&store, &owner("second"), &["other".into(), "first".into()])).unwrap();
        assert_eq!(store.wait(owner_state(&store)).unwrap().unwrap().writer.attempt_id, "second");
        // A process that this machine knows to be alive has not ended, whatever the caller says.
        let here = Owner { process: own_process(), ..owner("here") };
        store.wait(write_owner(&store, &here)).unwrap();
        assert!(store.wait(acquire(&store, &owner("third"), &["here".into()])).is_err());
    }

    #[test]
    fn a_damaged_lease_file_is_replaced() {
        let store = memory();
        store.wait(store.put(layout::OWNER, b"{".to_vec())).unwrap();
        Lease::acquire(&store, writer("first"), None, &[]).unwrap();
    }
}
