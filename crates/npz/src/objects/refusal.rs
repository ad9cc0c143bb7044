//! Why a pickle is refused.

/// Refuses objects that are no numbers.
pub(super) fn refuse<T>(what: impl std::fmt::Display) -> Result<T, String> {
    Err(format!("Python objects that are no numbers ({what}); its pickle is never executed"))
}

/// Refuses numbers in a form that is not read.
pub(super) fn refuse_form<T>(form: impl std::fmt::Display) -> Result<T, String> {
    Err(format!("Python objects with {form}, which is not read; save it with a type, by array.astype(np.float64)"))
}

/// Returns the reason for a pickle that no program wrote so.
pub(super) fn damaged() -> String {
    "a damaged pickle".into()
}
