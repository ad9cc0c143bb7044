//! The environment variables that the launcher sets for a rank, which also runs without them, and a check of variables.

use std::ffi::OsString;

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

/// The prefix of the names of this program's own variables.
pub const PREFIX: &str = "ADMIRAL_";

/// A variable has a value that this program cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {name} {reason}")]
pub struct VariableError {
    /// The name of the variable.
    pub name: String,
    /// What is wrong with its value, and what to do. Does not show the value, which may be secret.
    pub reason: &'static str,
}

/// Checks that the values of all variables whose names `is_read` are UTF-8. A variable that is left out because of its value
/// would change what the program does: without its endpoint, a request would go to another server.
///
/// # Errors
/// [`VariableError`] with the first one.
pub fn check_utf8<'a>(
    variables: impl IntoIterator<Item = (&'a OsString, &'a OsString)>,
    is_read: impl Fn(&str) -> bool,
) -> Result<(), VariableError> {
    for (name, value) in variables {
        if let Some(name) = name.to_str().filter(|name| is_read(name))
            && value.to_str().is_none()
        {
            return Err(VariableError { name: name.to_owned(), reason: "is not UTF-8; set it again, or unset it" });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_variable_that_is_not_utf8_is_named_if_it_is_read() {
        let variables = [("A_KEY", &b"hush\xff"[..]), ("OTHER", b"\xff"), ("A_NAME", b"n")]
            .map(|(name, value)| (OsString::from(name), OsString::from_vec(value.to_vec())));
        let check = |prefix: &str| check_utf8(variables.iter().map(|(k, v)| (k, v)), |name| name.starts_with(prefix));
        let error = check("A_").map_err(|error| error.to_string());
        assert_eq!(error, Err("the environment variable A_KEY is not UTF-8; set it again, or unset it".to_owned()));
        assert_eq!(check("A_N"), Ok(()));
    }
}
