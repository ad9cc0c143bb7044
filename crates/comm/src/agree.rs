//! Shares failures between ranks, so that a run ends with one message and one exit code.

use std::fmt::Display;

use admiral_contract::ExitCode;

use crate::collective::Collective;
use crate::ending::{Ending, Failure};
use crate::error::CollectiveError;

/// Shares the result of an operation that may fail on any rank. Returns this rank's value if the operation succeeded on
/// all ranks, otherwise the same ending on all ranks. `code` returns the exit code of an error.
///
/// Every rank must call it, for example after reading the configuration, the data, or a checkpoint. It costs one
/// all-gather, which sends eight bytes per rank if nothing failed.
///
/// # Errors
/// [`Ending::Together`] if the operation failed on a rank, with the message and exit code of the lowest such rank.
/// [`Ending::Alone`] if the ranks cannot reach each other.
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
    match (combine(&reports.iter().map(|report| decode(report)).collect::<Vec<_>>()), value) {
        (None, Some(value)) => Ok(value),
        (Some(failure), _) => Err(Ending::Together(failure)),
        (None, None) => unreachable!("this rank's failure is among the reports"),
    }
}

/// Does on every rank what leaves something for the others to find, such as an index beside images: rank 0 comes first, then
/// the first rank of each other host, then all others. So the work is done once, or once on each host if it stays there.
/// Every rank must call it.
///
/// # Errors
/// Those of [`agree`], which is called after each turn.
pub fn in_turns<T, E: Display>(
    collective: &dyn Collective,
    mut work: impl FnMut() -> Result<T, E>,
    code: impl Fn(&E) -> ExitCode,
) -> Result<T, Ending> {
    let turn = match (collective.rank(), collective.local_rank()) {
        (0, _) => 0,
        (_, 0) => 1,
        _ => 2,
    };
    let mut turn_of = |now| if turn == now { work().map(Some) } else { Ok(None) };
    let first = agree(collective, turn_of(0), &code)?;
    let second = agree(collective, turn_of(1), &code)?;
    let third = agree(collective, turn_of(2), &code)?;
    match first.or(second).or(third) {
        Some(value) => Ok(value),
        None => unreachable!("each rank has one of the turns"),
    }
}

/// Returns whether `flag` is set on any rank, for example because one of them received a signal. Every rank must call it,
/// and gets the same result. It costs one all-reduce of four bytes.
///
/// # Errors
/// If the ranks cannot reach each other.
pub fn any(collective: &dyn Collective, flag: bool) -> Result<bool, CollectiveError> {
    let mut count = [f32::from(u8::from(flag))];
    collective.all_reduce_sum_f32(&mut count)?;
    Ok(count[0] > 0.0)
}

/// Combines the reports of all ranks into one failure: the code and message of the lowest failing rank. The message
/// names the rank, unless all ranks report the same failure. Returns `None` if no rank failed.
fn combine(reports: &[Option<Failure>]) -> Option<Failure> {
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

/// Encodes a failure as bytes: the code, then the message. The result is never empty.
fn encode(failure: &Failure) -> Vec<u8> {
    [&[failure.code as u8], failure.message.as_bytes()].concat()
}

/// Decodes a report. An empty report means success.
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
    fn success_on_all_ranks_is_no_failure() {
        assert_eq!(combine(&[None, None]), None);
    }

    #[test]
    fn a_failure_that_all_ranks_share_names_no_rank() {
        let report = failed(ExitCode::Config, "no such folder");
        assert_eq!(combine(&vec![report.clone(); 3]), report);
        assert_eq!(combine(std::slice::from_ref(&report)), report);
    }

    #[test]
    fn the_lowest_failing_rank_is_named_and_determines_the_code() {
        let (disk, store) = (failed(ExitCode::Node, "disk full"), failed(ExitCode::Store, "no route"));
        assert_eq!(combine(&[None, disk.clone(), None]), failed(ExitCode::Node, "rank 1 of 3: disk full"));
        assert_eq!(
            combine(&[None, disk.clone(), store.clone()]),
            failed(ExitCode::Node, "rank 1 of 3 (and one more failed): disk full")
        );
        assert_eq!(
            combine(&[store.clone(), disk, None, store]),
            failed(ExitCode::Store, "rank 0 of 4 (and 2 more failed): no route")
        );
    }

    #[test]
    fn reports_survive_encoding() {
        for code in ExitCode::ALL {
            for message in ["", "größer als 8 GiB"] {
                let failure = Failure { code, message: message.to_owned() };
                assert_eq!(decode(&encode(&failure)), Some(failure));
            }
        }
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn a_single_rank_gets_its_own_value_or_error() {
        let code = |_: &String| ExitCode::Store;
        assert_eq!(agree(&Single, Ok::<_, String>(7), code), Ok(7));
        let ending = agree(&Single, Err::<(), _>("no bucket".to_owned()), code).unwrap_err();
        assert_eq!(ending, Ending::Together(failed(ExitCode::Store, "no bucket").unwrap()));
        assert_eq!(any(&Single, true), Ok(true));
        assert_eq!(any(&Single, false), Ok(false));
    }
}
