//! The cryptography of TLS.

/// Chooses the cryptography that TLS uses in this process, if that is not done yet. No client of HTTP can be made before,
/// not even for a server without TLS.
pub fn choose_cryptography() {
    // It fails only if the choice is made already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
