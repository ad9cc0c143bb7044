//! How ranks come to know each other's failures, so that a run ends with one message and one exit code.

use std::fmt::Display;

use admiral_contract::ExitCode;

use crate::collective::Collective;
use crate::ending::{Ending, Failure};
use crate::error::CollectiveError;

/// Shares the outcome of something that may fail on any rank: `Ok` when it worked on all, otherwise the same ending
/// on all. `code` gives the exit code of an error.
///
/// Every rank calls it, after reading the configuration, the data, the checkpoint, and the like. It costs one
/// all-gather of eight bytes when nothing failed.
///
/// # Errors
/// [`Ending::Together`] when a rank failed, with the message and code of the lowest; [`Ending::Alone`] when the
/// ranks cannot reach each other.
pub fn agree<T, E: Display>(
    collective: &dyn Collective,
    result: Result<T, E>,
    code: impl FnOnce(&E) -> ExitCode,
) -> Result<T, Ending> {
    let (value, failure) = match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(Failure { code: code(&error), message: error.to_string() })),
    };
    let reports = collective.all_gather(&failure.map_or_else(Vec::new, |failure| encode(&failure)))?;
    match (verdict(&reports.iter().map(|report| decode(report)).collect::<Vec<_>>()), value) {
        (None, Some(value)) => Ok(value),
        (Some(failure), _) => Err(Ending::Together(failure)),
        (None, None) => unreachable!("this rank's failure is among the reports"),
    }
}

/// Whether `flag` is set on any rank: a signal that one of them received, for example. Every rank calls it and gets
/// the same answer. It costs one all-gather of four bytes.
///
/// # Errors
/// When the ranks cannot reach each other.
pub fn any(collective: &dyn Collective, flag: bool) -> Result<bool, CollectiveError> {
    let mut count = [f32::from(u8::from(flag))];
    collective.all_reduce_sum_f32(&mut count)?;
    Ok(count[0] > 0.0)
}

/// What all ranks say when some failed, from the report of each: the lowest failing rank's code and message, with its
/// rank unless all failed alike.
fn verdict(reports: &[Option<Failure>]) -> Option<Failure> {
    let (rank, first) = reports.iter().enumerate().find_map(|(rank, report)| Some((rank, report.as_ref()?)))?;
    if reports.iter().all(|report| report.as_ref() == Some(first)) {
        return Some(first.clone());
    }
    let others = match reports.iter().flatten().count() - 1 {
        0 => String::new(),
        1 => " (and one more failed)".to_owned(),
        n => format!(" (and {n} more failed)"),
    };
    let message = format!("rank {rank} of {}{others}: {}", reports.len(), first.message);
    Some(Failure { code: first.code, message })
}

/// A failure as bytes, never empty: the code, then the message.
fn encode(failure: &Failure) -> Vec<u8> {
    [&[failure.code as u8], failure.message.as_bytes()].concat()
}

/// The failure in a report; an empty one says that all is well.
fn decode(report: &[u8]) -> Option<Failure> {
    let (&code, message) = report.split_first()?;
    let code = ExitCode::from_byte(code).unwrap_or(ExitCode::Bug);
    Some(Failure { code, message: String::from_utf8_lossy(message).into_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::Single;

    fn failed(code: ExitCode, message: &str) -> Option<Failure> {
        Some(Failure { code, message: message.to_owned() })
    }

    #[test]
    fn no_failure_gives_no_verdict() {
        assert_eq!(verdict(&[None, None]), None);
    }

    #[test]
    fn a_failure_that_all_share_is_told_as_it_is() {
        let report = failed(ExitCode::Config, "no such folder");
        assert_eq!(verdict(&vec![report.clone(); 3]), report);
        assert_eq!(verdict(std::slice::from_ref(&report)), report);
    }

    #[test]
    fn the_lowest_failing_rank_is_named_and_gives_the_code() {
        let (disk, store) = (failed(ExitCode::Node, "disk full"), failed(ExitCode::Store, "no route"));
        assert_eq!(verdict(&[None, disk.clone(), None]), failed(ExitCode::Node, "rank 1 of 3: disk full"));
        assert_eq!(
            verdict(&[None, disk.clone(), store.clone()]),
            failed(ExitCode::Node, "rank 1 of 3 (and one more failed): disk full")
        );
        assert_eq!(
            verdict(&[store.clone(), disk, None, store]),
            failed(ExitCode::Store, "rank 0 of 4 (and 2 more failed): no route")
        );
    }

    #[test]
    fn reports_survive_the_way() {
        for code in ExitCode::ALL {
            for message in ["", "größer als 8 GiB"] {
                let failure = Failure { code, message: message.to_owned() };
                assert_eq!(decode(&encode(&failure)), Some(failure));
            }
        }
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn alone_an_error_is_the_ending_and_a_value_comes_back() {
        let code = |_: &String| ExitCode::Store;
        assert_eq!(agree(&Single, Ok::<_, String>(7), code), Ok(7));
        let ending = agree(&Single, Err::<(), _>("no bucket".to_owned()), code).unwrap_err();
        assert_eq!(ending, Ending::Together(failed(ExitCode::Store, "no bucket").unwrap()));
        assert_eq!(any(&Single, true), Ok(true));
        assert_eq!(any(&Single, false), Ok(false));
    }
}
