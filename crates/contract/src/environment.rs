//! The environment variables that the launcher sets for a rank. A rank also runs without them.

/// The path of the rank's progress ledger, a file that the process which started the rank has made with
/// [`crate::Ledger::create`]. Without it nobody can watch the rank's progress.
pub const LEDGER: &str = "ADMIRAL_LEDGER";

/// How often the same launcher has started this run before; 0 at the first start.
pub const ATTEMPT: &str = "ADMIRAL_ATTEMPT";

/// An identifier that all processes of one launch share, on every host. The launcher finds leftover processes by it.
pub const LAUNCH_ID: &str = "ADMIRAL_LAUNCH_ID";

/// The attempt IDs, separated by commas, of attempts whose processes are known to be gone. A checkpoint folder that one
/// of them owns can be taken at once, without waiting for its lease to expire.
pub const ENDED_ATTEMPTS: &str = "ADMIRAL_ENDED_ATTEMPTS";
