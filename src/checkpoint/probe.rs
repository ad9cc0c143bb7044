//! Whether a place can take a checkpoint, asked before the first step instead of at the first save.

use super::{Error, Store, agree};
use crate::collective::Collective;

fn trial_file(run: u32, rank: usize) -> String {
    format!("trial-{run}-{rank:05}")
}

fn write_and_read(store: &Store, file: &str) -> Result<(), Error> {
    store.put(file, file.as_bytes().to_vec())?;
    let back = store.get(file)?.map(|(bytes, _)| bytes);
    if back.as_deref() == Some(file.as_bytes()) {
        return Ok(());
    }
    let cause = "what was just written does not come back".into();
    Err(Error::Store { operation: "read".into(), url: store.url(file), cause })
}

/// Every rank writes, reads and deletes a trial file, and rank 0 looks for those of all ranks: on a folder that the
/// nodes do not share it finds only its own. Every rank calls this and gets the same answer.
///
/// # Errors
/// [`Error::Store`] with the address and what was tried.
pub fn probe(store: &Store, collective: &dyn Collective) -> Result<(), Error> {
    // Two runs that share the place must not delete each other's files.
    let run = agree::of_root(collective, 0, Some(Ok(std::process::id())))?;
    let own = trial_file(run, collective.rank());
    agree::all(collective, write_and_read(store, &own))?;
    let seen = (collective.rank() == 0).then(|| {
        (0..collective.world_size()).map(|rank| trial_file(run, rank)).try_for_each(|file| {
            match store.length(&file)? {
                Some(_) => Ok(()),
                None => Err(Error::Store {
                    operation: "see".into(),
                    url: store.url(&file),
                    cause: "another rank wrote it and rank 0 does not find it; all ranks must share this place".into(),
                }),
            }
        })
    });
    let seen = agree::of_root(collective, 0, seen);
    let deleted = agree::all(collective, store.delete(&own));
    seen?;
    deleted.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::store::tests::memory;
    use super::*;
    use crate::collective::Single;

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let store = memory();
        probe(&store, &Single).unwrap();
        assert!(store.files("").unwrap().is_empty());
    }
}
