//! TLS for connections from other machines.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// The certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("{}: {error}; expected PEM, as `openssl` and ACME clients write it", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: pem::Error,
    },
    /// They do not fit each other, or are of a kind that is not known.
    #[error("the certificate {} cannot be used with its key: {error}", file.display())]
    Unfit {
        /// The certificate's file.
        file: PathBuf,
        /// Why.
        error: rustls::Error,
    },
}

/// TLS 1.2 and 1.3 with this certificate chain and private key.
pub(super) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let file = |path: &Path, error| TlsError::File {
        file: path.to_owned(),
        error,
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| file(certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| TlsError::Unfit {
            file: certificate.to_owned(),
            error,
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
