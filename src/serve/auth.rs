//! Who calls, and what they may do.
//!
//! With a tokens file everybody needs a token: in `Authorization: Bearer`, or in
//! a browser by logging in, which gives a cookie for twelve hours. Where the pipeline
//! file gives roles to client certificates, such a certificate is enough, by the
//! common name in its subject; who shows a token besides is who the token says.
//! Without either, which is possible on a loopback address only, whoever reaches it
//! may look
//! (patients appear under opaque names, not their identifiers), and may act if
//! the request comes from the dashboard itself or from no browser at all.
//!
//! Two things keep foreign web pages out, whose scripts run in a browser on this
//! machine: every request must call the server by a name that is its own (so that
//! a foreign name which resolves to us is refused), and a request that changes
//! something must not come from another origin.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Form;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

use super::Site;
use super::ids::{hex, random};
use super::limits::Rates;
use super::problem::Problem;
use super::tokens::{Role, Tokens};

/// How long a browser stays logged in.
const SESSION: Duration = Duration::from_hours(12);
/// Browsers logged in at once; the oldest makes room.
const SESSIONS: usize = 256;
const COOKIE: &str = "hepaflow";
/// The attribute type commonName, X.520 section 6.2.2.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// What guards a server.
#[derive(Debug)]
pub(super) struct Access {
    tokens: Option<Tokens>,
    /// What the holders of client certificates are, by common name.
    roles: BTreeMap<String, Role>,
    listen: SocketAddr,
    tls: bool,
    hosts: Vec<String>,
    sessions: Mutex<HashMap<String, (Caller, Instant)>>,
    requests: Rates,
    logins: Rates,
}

/// Whom a verified client certificate names: its subject's common name.
#[derive(Clone, Debug)]
pub(super) struct Certified(Arc<str>);

impl Certified {
    /// Nothing, if there is no common name, or more than one.
    pub(super) fn read(certificate: &[u8]) -> Option<Self> {
        let subject = Certificate::from_der(certificate).ok()?;
        let subject = subject.tbs_certificate.subject;
        let parts = subject.0.iter().flat_map(|part| part.0.iter());
        let mut names = parts.filter(|part| part.oid == COMMON_NAME);
        let (Some(name), None) = (names.next(), names.next()) else {
            return None;
        };
        let text = std::str::from_utf8(name.value.value()).ok()?;
        Some(Self(text.into()))
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// What they may do.
    pub(super) role: Role,
    /// The token's or certificate's name; None for somebody on this machine without one.
    pub(super) name: Option<String>,
}

impl Caller {
    /// Whether patients' identifiers may be shown.
    pub(super) fn sees_identifiers(&self) -> bool {
        self.name.is_some()
    }
}

/// A caller who may change what runs.
pub(super) struct Operator(Option<String>);

impl Operator {
    /// Who is said to have changed something.
    pub(super) fn name(&self) -> String {
        let name = self.0.clone();
        name.unwrap_or_else(|| "dashboard".to_owned())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>();
        match caller {
            Some(caller) if caller.role == Role::Operator => Ok(Self(caller.name.clone())),
            _ => Err(Problem::forbidden("this needs the role operator")),
        }
    }
}

impl Access {
    pub(super) fn new(
        (tokens, roles): (Option<Tokens>, BTreeMap<String, Role>),
        listen: SocketAddr,
        tls: bool,
        hosts: Vec<String>,
    ) -> Self {
        Self {
            tokens,
            roles,
            listen,
            tls,
            hosts,
            sessions: Mutex::default(),
            requests: Rates::of_requests(),
            logins: Rates::of_logins(),
        }
    }

    /// Whether there is a way to log in.
    pub(super) fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Caller, Instant)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who sends these headers, over a connection with this certificate.
    pub(super) fn caller(
        &self,
        headers: &HeaderMap,
        certified: Option<&Certified>,
    ) -> Option<Caller> {
        if self.tokens.is_none() && self.roles.is_empty() {
            // No login, and no other machine: see the module.
            return Some(Caller {
                role: Role::Operator,
                name: None,
            });
        }
        if let Some(tokens) = &self.tokens
            && let Some(secret) = bearer(headers)
        {
            return tokens.holder(secret).map(|token| Caller {
                role: token.role,
                name: Some(token.name.clone()),
            });
        }
        self.logged_in(headers).or_else(|| {
            let name = &certified?.0;
            let role = *self.roles.get(&**name)?;
            Some(Caller {
                role,
                name: Some(name.to_string()),
            })
        })
    }

    /// Who has logged in with a token, by the cookie.
    fn logged_in(&self, headers: &HeaderMap) -> Option<Caller> {
        let session = cookie(headers)?;
        let mut sessions = self.sessions();
        let (caller, until) = sessions.get(session)?;
        if *until < Instant::now() {
            sessions.remove(session);
            return None;
        }
        Some(caller.clone())
    }

    /// Whether the server is called by a name of its own.
    fn knows_host(&self, headers: &HeaderMap) -> bool {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let Some(host) = host else {
            return false;
        };
        let name = name_of(host);
        let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
        if self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return true;
        }
        match address {
            // An address cannot be made to point elsewhere.
            Ok(address) => address.is_loopback() || !self.listen.ip().is_loopback(),
            Err(_) => self.listen.ip().is_loopback() && name.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Whether a request comes from this server's own pages, or from no browser.
    fn is_same_origin(headers: &HeaderMap) -> bool {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))
            && site != "same-origin"
        {
            return false;
        }
        match (text(header::ORIGIN), text(header::HOST)) {
            (None, _) => true,
            (Some(origin), Some(host)) => {
                let origin = origin.split_once("://").map(|(_, rest)| rest);
                origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host))
            }
            (Some(_), None) => false,
        }
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let cookies = cookies.filter_map(|cookies| cookies.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

/// What everybody may have: no word about a patient is in it.
fn is_public(path: &str, access: &Access) -> bool {
    match path {
        "/" | "/login" | "/healthz" | "/livez" | "/readyz" | "/api/openapi.json" => true,
        // For a scraper beside us; from elsewhere it needs a token.
        "/metrics" => access.listen.ip().is_loopback(),
        _ => path.starts_with("/assets/"),
    }
}

/// Lets through who may pass, and tells the handlers who it is.
pub(super) async fn guard(
    State(site): State<Arc<Site>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = &site.access;
    let path = request.uri().path();
    let monitoring = matches!(path, "/healthz" | "/livez" | "/readyz" | "/metrics");
    if !monitoring && !access.requests.allow(peer.ip()) {
        return Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests; wait a second",
        )
        .into_response();
    }
    let headers = request.headers();
    if !monitoring && !access.knows_host(headers) {
        return Problem::forbidden(
            "this server is not called by that name; add it to `hosts` in the pipeline file's [serve]",
        )
        .into_response();
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if changes && bearer(headers).is_none() && !Access::is_same_origin(headers) {
        return Problem::forbidden("a page of another origin may not change anything here")
            .into_response();
    }
    let certified = request.extensions().get::<Certified>();
    match access.caller(headers, certified) {
        Some(caller) => {
            request.extensions_mut().insert(caller);
        }
        None if is_public(path, access) => {}
        None => {
            let mut answer = Problem::new(
                StatusCode::UNAUTHORIZED,
                "this needs a token, or a certificate with a role: log in, or send \
                 `Authorization: Bearer ...`",
            )
            .into_response();
            let scheme = HeaderValue::from_static("Bearer");
            answer
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
            return answer;
        }
    }
    next.run(request).await
}

/// What the login form sends.
#[derive(serde::Deserialize)]
pub(super) struct Login {
    token: String,
}

/// `POST /login`: a token for a cookie.
pub(super) async fn log_in(
    State(site): State<Arc<Site>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Form(login): Form<Login>,
) -> Response {
    let access = &site.access;
    if !access.logins.allow(peer.ip()) {
        return Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many attempts; wait a minute",
        )
        .into_response();
    }
    let tokens = access.tokens.as_ref();
    let Some(token) = tokens.and_then(|tokens| tokens.holder(login.token.trim())) else {
        return Problem::new(StatusCode::UNAUTHORIZED, "this token is not known here")
            .into_response();
    };
    let mut id = [0; 32];
    if let Err(error) = random(&mut id) {
        return Problem::internal(&error).into_response();
    }
    let id = hex(&id);
    let caller = Caller {
        role: token.role,
        name: Some(token.name.clone()),
    };
    let mut sessions = access.sessions();
    if sessions.len() >= SESSIONS {
        let oldest = sessions.iter().min_by_key(|(_, (_, until))| *until);
        if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
            sessions.remove(&oldest);
        }
    }
    sessions.insert(id.clone(), (caller, Instant::now() + SESSION));
    set_cookie(&id, SESSION.as_secs(), access.tls)
}

/// `POST /logout`.
pub(super) async fn log_out(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    if let Some(session) = cookie(&headers) {
        site.access.sessions().remove(session);
    }
    set_cookie("", 0, site.access.tls)
}

fn set_cookie(value: &str, seconds: u64, tls: bool) -> Response {
    let secure = if tls { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(listen: &str, hosts: &[&str]) -> Access {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        Access::new(
            (None, BTreeMap::new()),
            listen.parse().unwrap(),
            false,
            hosts,
        )
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| {
                let name = header::HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn a_foreign_name_that_points_here_is_refused() {
        let local = access("127.0.0.1:9464", &[]);
        let knows = |access: &Access, host: &str| access.knows_host(&headers(&[("host", host)]));
        for host in [
            "127.0.0.1:9464",
            "localhost:9464",
            "LOCALHOST",
            "[::1]:9464",
        ] {
            assert!(knows(&local, host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9464",
            "10.0.0.1",
            "localhost.evil.example",
        ] {
            assert!(!knows(&local, host), "{host}");
        }
        assert!(!local.knows_host(&HeaderMap::new()));
        let wide = access("0.0.0.0:443", &["liver.example"]);
        for host in ["liver.example:443", "192.0.2.7"] {
            assert!(knows(&wide, host), "{host}");
        }
        assert!(!knows(&wide, "localhost") && !knows(&wide, "evil.example"));
    }

    #[test]
    fn only_our_own_pages_and_programs_may_change_something() {
        let same = |pairs: &[(&'static str, &str)]| Access::is_same_origin(&headers(pairs));
        let host = ("host", "127.0.0.1:9464");
        assert!(same(&[host]), "curl");
        assert!(same(&[host, ("origin", "http://127.0.0.1:9464")]));
        assert!(!same(&[host, ("origin", "http://127.0.0.1:9999")]));
        assert!(!same(&[host, ("origin", "https://evil.example")]));
        assert!(!same(&[host, ("origin", "null")]));
        assert!(!same(&[host, ("sec-fetch-site", "cross-site")]));
    }
}
