//! TLS for connections from other machines.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

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
    /// No client can be recognised by it.
    #[error("{}: {problem}; expected the certificates of those who sign clients' ones", file.display())]
    Authorities {
        /// The file.
        file: PathBuf,
        /// Why.
        problem: String,
    },
}

/// TLS 1.2 and 1.3 with this certificate chain and private key; only for clients
/// with a certificate by one of `authorities`, if these are given.
pub(super) fn acceptor(
    certificate: &Path,
    key: &Path,
    authorities: Option<&Path>,
) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
        file: key.to_owned(),
        error,
    })?;
    let clients = match authorities {
        Some(file) => client_verifier(file)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let builder = builder.with_client_cert_verifier(clients);
            builder.with_single_cert(chain, key)
        })
        .map_err(|error| TlsError::Unfit {
            file: certificate.to_owned(),
            error,
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::File {
            file: file.to_owned(),
            error,
        })
}

fn client_verifier(file: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let useless = |problem: String| TlsError::Authorities {
        file: file.to_owned(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added.map_err(|error| useless(error.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| useless(error.to_string()))
}
