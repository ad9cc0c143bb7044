//! Names that nobody can guess.

/// So many random bytes of the system, in hexadecimal.
///
/// # Errors
/// When the system gives none.
pub(crate) fn text(num_bytes: usize) -> std::io::Result<String> {
    let mut bytes = vec![0; num_bytes];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
