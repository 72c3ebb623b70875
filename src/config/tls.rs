//! Certificates that a pipeline file names, made ready for a server or a client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::section::Section;

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
    /// No peer can be recognised by it.
    #[error("{}: {problem}; expected the certificates of those who sign the peers' ones", file.display())]
    Authorities {
        /// The file of the authorities.
        file: PathBuf,
        /// Why.
        problem: String,
    },
}

/// TLS 1.2 and 1.3 with this certificate chain and private key. With `clients`, a
/// file of authorities, only a peer with a certificate of one of them is let in.
///
/// # Errors
/// If a file cannot be read, or does not hold what it should.
pub fn server_tls(
    certificate: &Path,
    key: &Path,
    clients: Option<&Path>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
        file: key.to_owned(),
        error,
    })?;
    let verifier = clients.map(verifier).transpose()?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let builder = match verifier {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => builder.with_no_client_auth(),
            };
            builder.with_single_cert(chain, key)
        })
        .map_err(|error| TlsError::Unfit {
            file: certificate.to_owned(),
            error,
        })?;
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| TlsError::File {
            file: file.to_owned(),
            error,
        })
}

fn unfit(file: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Authorities {
        file: file.to_owned(),
        problem: error.to_string(),
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added.map_err(|error| unfit(file, &error))?;
    }
    if roots.is_empty() {
        return Err(unfit(file, &"it holds no certificate"));
    }
    Ok(roots)
}

fn verifier(file: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = authorities(file)?;
    WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::new(ring::default_provider()))
        .build()
        .map_err(|error| unfit(file, &error))
}

/// TLS 1.2 and 1.3 to a server with a certificate by one of `trusted`, a file of
/// authorities; `own` are our certificate chain and its key, if the server wants some.
///
/// # Errors
/// If a file cannot be read, or does not hold what it should.
pub fn client_tls(
    trusted: &Path,
    own: Option<&(PathBuf, PathBuf)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = authorities(trusted)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit(trusted, &error))?
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
                file: key.clone(),
                error,
            })?;
            let config = builder.with_client_auth_cert(chain, private);
            config.map_err(|error| TlsError::Unfit {
                file: certificate.clone(),
                error,
            })?
        }
    };
    Ok(Arc::new(config))
}

/// The keys `certificate` and `key`, which go together.
pub(super) fn read_pair(base: &Path, section: &Section<'_>) -> Option<(PathBuf, PathBuf)> {
    let path = |key| {
        section
            .optional::<String>(key)
            .map(|path| base.join(path.value))
    };
    match (path("certificate"), path("key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (certificate, _) => {
            let missing = if certificate.is_some() {
                "key"
            } else {
                "certificate"
            };
            section.mistake(
                missing,
                section.span(),
                "a certificate and its private key go together",
                "give both: PEM files with the chain, and with the key",
            );
            None
        }
    }
}

/// The same, and `clients`, which needs them.
pub(super) fn read_tls(
    base: &Path,
    section: &Section<'_>,
) -> (Option<(PathBuf, PathBuf)>, Option<PathBuf>) {
    let tls = read_pair(base, section);
    let clients = section.optional::<String>("clients");
    if let Some(clients) = &clients
        && tls.is_none()
    {
        section.mistake(
            "clients",
            clients.span.clone(),
            "without TLS nobody shows a certificate",
            "give `certificate` and `key`, too",
        );
    }
    (tls, clients.map(|clients| base.join(clients.value)))
}
