//! Who writes to a place: one attempt of one run at a time.
//!
//! `owner.json` names it. The attempt renews the file while it lives; before it publishes a checkpoint it looks whether
//! the file still names it. So the second of two runs that are given the same place is refused at its start, and where
//! it could not know of the first, the one that lost the place stops at its next save.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admiral_checkpoints_schema::{Owner, Process, SCHEMA_VERSION, Writer};
use admiral_comm::Collective;
use admiral_contract::host::{host_name, process_identity, start_ticks};
use admiral_storage::Store;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::manifests::json;
use crate::{agree, layout};

/// The time between two renewals.
const BEAT: Duration = Duration::from_secs(10);

/// An owner on another machine that does not renew the file for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(35);

/// The time between two looks at a file that may be renewed.
const LOOK: Duration = Duration::from_secs(1);

/// Whether the process that has a place lives, as far as can be told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// This machine's system says so.
    Alive,
    /// This machine's system says that it is gone.
    Dead,
    /// It is of another machine, or of another part of this one.
    Unknown,
}

/// The attempt that `owner.json` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerState {
    /// The run and the attempt.
    pub writer: Writer,
    /// The step that it resumed from; none where it began anew.
    pub resumed_from: Option<u64>,
    /// Whether it has ended in good order and given the place back.
    pub is_released: bool,
    /// Whether its process lives.
    pub life: Life,
}

impl OwnerState {
    /// The step that it resumed from and may have to go back to, also where it was killed and will be started again;
    /// none where it has ended in good order.
    #[must_use]
    pub fn step_in_use(&self) -> Option<u64> {
        self.resumed_from.filter(|_| !self.is_released)
    }

    /// Whether it may be writing a step: one that lives, or may live, writes those after the one that it resumed from.
    #[must_use]
    pub fn may_be_writing(&self, step: u64) -> bool {
        !self.is_released && self.life != Life::Dead && self.resumed_from.is_none_or(|from| step > from)
    }
}

/// Names this attempt, of the run `run_id` that it resumes or of a new one: rank 0 draws what is drawn. Every rank
/// calls it and gets the same.
///
/// # Errors
/// The same on every rank: [`Error::Collective`].
pub fn identify(run_id: Option<String>, collective: &dyn Collective) -> Result<Writer, Error> {
    let writer = (collective.rank() == 0).then(|| {
        Ok(Writer {
            run_id: run_id.map_or_else(draw_id, Ok)?,
            attempt_id: draw_id()?,
            host: host_name(),
            started: jiff::Timestamp::now().to_string(),
        })
    });
    agree::of_root(collective, 0, writer)
}

/// Sixteen hexadecimal digits that nobody draws twice.
fn draw_id() -> Result<String, Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| Error::Collective { cause: format!("no random number: {error}") })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The claim of this attempt on a place. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    store: Store,
    /// As it was last written; the renewal counts its beat.
    owner: Arc<Mutex<Owner>>,
    attempt_id: String,
    renewal: JoinHandle<()>,
    /// The owner that has taken the place from this attempt.
    taken_by: Arc<Mutex<Option<Writer>>>,
}

impl Claim {
    /// Takes a place for an attempt. Rank 0 calls it.
    ///
    /// # Errors
    /// [`Error::Owned`] where another attempt lives there; [`Error::Store`].
    pub(super) fn take(
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
        store.wait(take(store, &owner, ended_attempts))?;
        let taken_by = Arc::default();
        let attempt_id = owner.writer.attempt_id.clone();
        let owner = Arc::new(Mutex::new(owner));
        let renewal = store.spawn(renew(store.clone(), Arc::clone(&owner), Arc::clone(&taken_by)));
        Ok(Self { store: store.clone(), owner, attempt_id, renewal, taken_by })
    }

    fn owner(&self) -> Owner {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which step the attempt has really resumed from.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) fn resumed_from(&self, step: u64) -> Result<(), Error> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).resumed_from = Some(step);
        self.store.wait(write(&self.store, &self.owner()))
    }

    /// The owner that has taken the place from this attempt, as far as is known.
    pub(super) fn lost(&self) -> Option<Error> {
        let taken_by = self.taken_by.lock().unwrap_or_else(PoisonError::into_inner);
        taken_by.as_ref().map(|writer| owned(&self.store, writer))
    }

    /// Looks whether the place is still this attempt's.
    ///
    /// # Errors
    /// [`Error::Owned`], [`Error::Store`].
    pub(super) fn check(&self) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let (store, attempt_id) = (self.store.clone(), self.attempt_id.clone());
        async move {
            match read(&store).await? {
                Some(other) if other.writer.attempt_id != attempt_id => Err(owned(&store, &other.writer)),
                _ => Ok(()),
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.renewal.abort();
        let released = Owner { is_released: true, ..self.owner() };
        let release = async {
            let is_own = read(&self.store).await?.is_some_and(|found| found.writer.attempt_id == self.attempt_id);
            if is_own { write(&self.store, &released).await } else { Ok(()) }
        };
        // What is not given back is taken by the next attempt, which finds this one dead.
        let _ = self.store.wait(async { tokio::time::timeout(LOOK * 5, release).await });
    }
}

/// The attempt that has a place, or had it last.
///
/// # Errors
/// [`Error::Store`].
pub(super) async fn state(store: &Store) -> Result<Option<OwnerState>, Error> {
    Ok(read(store).await?.map(|owner| OwnerState {
        life: life(&owner.process),
        writer: owner.writer,
        resumed_from: owner.resumed_from,
        is_released: owner.is_released,
    }))
}

fn owned(store: &Store, writer: &Writer) -> Error {
    Error::Owned { url: store.url(""), by: writer.to_string() }
}

/// The owner; none where there is none, or a file that says nothing.
async fn read(store: &Store) -> Result<Option<Owner>, Error> {
    let Some(bytes) = store.get(layout::OWNER).await? else { return Ok(None) };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(None) };
    match value.get("schema_version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(SCHEMA_VERSION) => Err(Error::Schema {
            url: store.url(layout::OWNER),
            reason: format!(
                "a newer Admiral writes here (schema version {version}, and this one knows {SCHEMA_VERSION}): use that \
                 one, or give this run another run.folder or checkpoint.url"
            ),
        }),
        _ => Ok(serde_json::from_value(value).ok()),
    }
}

async fn write(store: &Store, owner: &Owner) -> Result<(), Error> {
    Ok(store.put(layout::OWNER, json(store, layout::OWNER, owner)?).await?)
}

/// Takes a place, which another attempt may own. `ended` are the ids of attempts whose processes are known to be gone.
async fn take(store: &Store, own: &Owner, ended: &[String]) -> Result<(), Error> {
    let start = tokio::time::Instant::now();
    if store.put_new(layout::OWNER, json(store, layout::OWNER, own)?).await? {
        return Ok(());
    }
    let answer = start.elapsed().min(LOOK);
    if let Some(found) = read(store).await?
        && !found.is_released
    {
        let is_alive = match life(&found.process) {
            Life::Alive => true,
            Life::Dead => false,
            Life::Unknown if has_ended(&found.writer, ended) => false,
            Life::Unknown => is_renewed(store, &found).await?,
        };
        if is_alive {
            return Err(owned(store, &found.writer));
        }
        tracing::info!("taking {} over from {}, which has ended without giving it back", store.url(""), found.writer);
    }
    write(store, own).await?;
    // Of two that come at the same time the later writer has the place: the earlier one looks when it must be there.
    tokio::time::sleep(Duration::from_millis(50) + 3 * answer).await;
    match read(store).await? {
        Some(found) if found.writer.attempt_id != own.writer.attempt_id => Err(owned(store, &found.writer)),
        _ => Ok(()),
    }
}

/// Whether an attempt is one of those that have `ended`.
fn has_ended(writer: &Writer, ended: &[String]) -> bool {
    ended.contains(&writer.attempt_id)
}

/// Whether an owner of another machine still renews the file.
async fn is_renewed(store: &Store, found: &Owner) -> Result<bool, Error> {
    let patience = SILENCE.as_secs();
    tracing::warn!("{} has {}; waiting up to {patience} s for a sign of life", found.writer, store.url(""));
    let end = tokio::time::Instant::now() + SILENCE;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        match read(store).await? {
            Some(now) if now.is_released => return Ok(false),
            Some(now) if now != *found => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

async fn renew(store: Store, owner: Arc<Mutex<Owner>>, taken_by: Arc<Mutex<Option<Writer>>>) {
    loop {
        tokio::time::sleep(BEAT).await;
        // A store that does not answer now may at the next beat; saves find out by themselves.
        let now = {
            let mut owner = owner.lock().unwrap_or_else(PoisonError::into_inner);
            owner.beat += 1;
            owner.clone()
        };
        match read(&store).await {
            Ok(Some(found)) if found.writer.attempt_id != now.writer.attempt_id => {
                *taken_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.writer);
                return;
            }
            Ok(_) => {
                if let Err(error) = write(&store, &now).await {
                    tracing::debug!("{error}");
                }
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }
}

fn life(process: &Process) -> Life {
    if process.machine.is_empty() || process.machine != process_identity() {
        return Life::Unknown;
    }
    match start_ticks(process.id) {
        Some(ticks) if ticks == process.start_ticks => Life::Alive,
        _ => Life::Dead,
    }
}

fn own_process() -> Process {
    let id = std::process::id();
    Process { machine: process_identity(), id, start_ticks: start_ticks(id).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
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
    fn the_second_run_is_refused_and_told_of_the_first() {
        let store = memory();
        let first = Claim::take(&store, writer("first"), Some(20), &[]).unwrap();
        let owner = store.wait(state(&store)).unwrap().unwrap();
        assert_eq!((owner.writer.attempt_id.as_str(), owner.life), ("first", Life::Alive));
        assert_eq!(owner.step_in_use(), Some(20));
        assert_eq!([20, 21].map(|step| owner.may_be_writing(step)), [false, true]);
        let error = Claim::take(&store, writer("second"), None, &[]).unwrap_err();
        assert!(matches!(&error, Error::Owned { by, .. } if by.contains("first") && by.contains("node0")), "{error}");
        store.wait(first.check()).unwrap();
        drop(first);
        let owner = store.wait(state(&store)).unwrap().unwrap();
        assert!(owner.is_released && owner.step_in_use().is_none() && !owner.may_be_writing(21));
        Claim::take(&store, writer("second"), None, &[]).unwrap();
    }

    #[test]
    fn a_dead_owner_is_replaced_and_the_replaced_one_finds_out() {
        let store = memory();
        let first = Claim::take(&store, writer("first"), None, &[]).unwrap();
        // As an attempt leaves it that was killed: the process number has been used again since.
        let mut dead = first.owner();
        dead.process.start_ticks += 1;
        dead.resumed_from = Some(20);
        store.wait(write(&store, &dead)).unwrap();
        let owner = store.wait(state(&store)).unwrap().unwrap();
        assert_eq!((owner.life, owner.step_in_use(), owner.may_be_writing(21)), (Life::Dead, Some(20), false));
        let second = Claim::take(&store, writer("second"), None, &[]).unwrap();
        let error = store.wait(first.check()).unwrap_err();
        assert!(matches!(&error, Error::Owned { by, .. } if by.contains("second")), "{error}");
        drop(first);
        store.wait(second.check()).unwrap();
    }

    #[test]
    fn an_owner_elsewhere_that_is_known_to_have_ended_is_replaced_at_once() {
        let store = memory();
        let owner = |attempt: &str| Owner {
            schema_version: SCHEMA_VERSION,
            writer: writer(attempt),
            process: Process { machine: "elsewhere".into(), ..own_process() },
            resumed_from: None,
            beat: 0,
            is_released: false,
        };
        store.wait(take(&store, &owner("first"), &[])).unwrap();
        // Who does not know it waits for a sign of life, far longer than this test would.
        let impatient = async { tokio::time::timeout(LOOK, take(&store, &owner("second"), &["other".into()])).await };
        assert!(store.wait(impatient).is_err());
        store.wait(take(&store, &owner("second"), &["other".into(), "first".into()])).unwrap();
        assert_eq!(store.wait(state(&store)).unwrap().unwrap().writer.attempt_id, "second");
        // What this machine knows to be alive has not ended, whatever is said.
        let here = Owner { process: own_process(), ..owner("here") };
        store.wait(write(&store, &here)).unwrap();
        assert!(store.wait(take(&store, &owner("third"), &["here".into()])).is_err());
    }

    #[test]
    fn a_damaged_owner_file_stops_nobody() {
        let store = memory();
        store.wait(store.put(layout::OWNER, b"{".to_vec())).unwrap();
        Claim::take(&store, writer("first"), None, &[]).unwrap();
    }

    #[test]
    fn processes_are_told_apart() {
        let own = own_process();
        assert_eq!(life(&own), Life::Alive);
        assert_eq!(life(&Process { start_ticks: own.start_ticks + 1, ..own.clone() }), Life::Dead);
        assert_eq!(life(&Process { machine: "elsewhere".into(), ..own }), Life::Unknown);
    }
}
