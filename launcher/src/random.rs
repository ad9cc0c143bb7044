//! Random names.

/// Returns `num_bytes` random bytes in hexadecimal.
///
/// # Errors
/// If the system provides no randomness.
pub(crate) fn text(num_bytes: usize) -> std::io::Result<String> {
    let mut bytes = vec![0; num_bytes];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
