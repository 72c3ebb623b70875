use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::hmac;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::{OutboxError, Refusal};
use crate::config::HiddenUrl;
use crate::store::tls::{self, TlsError};

/// The shortest key that signs anything, in bytes.
const SHORTEST_KEY: usize = 16;
/// How much of an answer is read, so that its connection can be used again.
const ANSWER_BYTES: u64 = 64 << 10;

/// One signed POST a change.
///
/// `Hepaflow-Signature: t=TIME,v1=HEX` holds the seconds since 1970 and the
/// HMAC-SHA256 over `TIME.BODY`; `Idempotency-Key` is the event's name. Any
/// status from 200 to 299 means taken.
pub(super) struct Webhook {
    agent: ureq::Agent,
    url: HiddenUrl,
    key: hmac::Key,
}

impl Webhook {
    pub(super) fn open(
        sink: &str,
        url: &HiddenUrl,
        secret_file: &Path,
        timeout: Duration,
    ) -> Result<Self, OutboxError> {
        let unusable = |problem: String| OutboxError::Secret {
            sink: sink.to_owned(),
            file: secret_file.to_owned(),
            problem,
        };
        let secret = std::fs::read(secret_file).map_err(|error| unusable(error.to_string()))?;
        // Editors and shells end files with a line feed.
        let secret = secret.trim_ascii();
        if secret.len() < SHORTEST_KEY {
            return Err(unusable(format!("a key has at least {SHORTEST_KEY} bytes")));
        }
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("hepaflow/", env!("CARGO_PKG_VERSION")));
        if url.0.starts_with("https:") {
            let failed = |error| OutboxError::Tls {
                sink: sink.to_owned(),
                error,
            };
            config = config.tls_config(tls_config().map_err(failed)?);
        }
        Ok(Self {
            agent: config.build().into(),
            url: url.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        })
    }

    pub(super) fn post(&self, event: &str, body: &str) -> Result<(), Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let signature = self.signature(now.unwrap_or_default().as_secs(), body);
        let mut answer = self
            .agent
            .post(&self.url.0)
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", event)
            .header("Hepaflow-Signature", signature)
            .send(body)
            .map_err(|error| Refusal(error.to_string()))?;
        // What it says besides is of no interest, nor whether it says it whole.
        drop(
            answer
                .body_mut()
                .with_config()
                .limit(ANSWER_BYTES)
                .read_to_vec(),
        );
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(Refusal(format!("it answered with status {status}")))
    }

    fn signature(&self, time: u64, body: &str) -> String {
        let tag = hmac::sign(&self.key, format!("{time}.{body}").as_bytes());
        let hex: String = tag
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("t={time},v1={hex}")
    }
}

fn tls_config() -> Result<TlsConfig, TlsError> {
    let roots: Vec<_> = tls::roots()?
        .iter()
        .map(|root| Certificate::from_der(root.as_ref()).to_owned())
        .collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(tls::provider())
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build())
}
