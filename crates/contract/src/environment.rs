//! The variables by which the launcher tells a rank what it needs to know. A rank without them runs as well.

/// The file that holds the rank's ledger, made by whoever started the rank ([`crate::Ledger::create`]).
pub const LEDGER: &str = "ADMIRAL_LEDGER";
/// How often this run was started before by the same launcher: 0 at first.
pub const ATTEMPT: &str = "ADMIRAL_ATTEMPT";
/// Names all processes of one launch on every host, so that what is left of one can be found.
pub const LAUNCH_ID: &str = "ADMIRAL_LAUNCH_ID";
/// Names of the hosts' attempts whose processes are known to be gone, by their `attempt_id`; separated by commas. A
/// place that one of them owns is free at once.
pub const ENDED_ATTEMPTS: &str = "ADMIRAL_ENDED_ATTEMPTS";
