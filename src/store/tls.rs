//! TLS as every client here speaks it: rustls with `ring`, and the certificate
//! authorities of the system (or those of the file that `SSL_CERT_FILE` names).

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

/// A client's settings: the server's certificate is verified.
///
/// # Errors
/// If the system has no certificate authorities.
pub fn client() -> Result<ClientConfig, TlsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots()?);
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth())
}

/// Whom the system trusts.
///
/// # Errors
/// If that is nobody.
pub fn roots() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let roots = rustls_native_certs::load_native_certs().certs;
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    Ok(roots)
}

/// What encrypts.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Nobody to trust.
    #[error(
        "no certificate authority is known: install the package ca-certificates, \
         or set SSL_CERT_FILE"
    )]
    NoRoots,
    /// The provider knows no version of TLS.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}
