//! Who gets in, and who may do what.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use hepaflow::config::ServeConfig;
use hepaflow::serve::ServeError;
use hepaflow::serve::tokens::Role;
use serde_json::json;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::served::{Answer, send, talk};
use super::{any_port, ask, idle, with_tokens};

#[test]
fn a_foreign_page_can_neither_read_nor_write() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = idle(folder.path(), &any_port()).unwrap();
    // A name of the attacker's that points at us.
    let rebound = ask(&server, "GET", "/api/v1/info", &["Host: evil.example"], "");
    assert_eq!(rebound.status, 403);
    assert_eq!(
        rebound.header("content-type"),
        Some("application/problem+json")
    );
    let body = r#"{"source":"s","patient":"p"}"#;
    let post = |more: &[&str]| {
        let more = [&["Content-Type: application/json"], more].concat();
        ask(&server, "POST", "/api/v1/streams", &more, body).status
    };
    assert_eq!(post(&["Origin: https://evil.example"]), 403);
    assert_eq!(post(&["Origin: null"]), 403);
    assert_eq!(post(&["Sec-Fetch-Site: cross-site"]), 403);
    let own = format!("Origin: http://{}", server.address());
    assert_eq!(
        post(&[&own]),
        400,
        "let through, and refused for what it asks"
    );
    assert_eq!(post(&[]), 400);
    // A form cannot send JSON.
    let form = ["Content-Type: text/plain"];
    assert_eq!(
        ask(&server, "POST", "/api/v1/streams", &form, body).status,
        415
    );
    let large = "x".repeat(100_000);
    let json = ["Content-Type: application/json"];
    assert_eq!(
        ask(&server, "POST", "/api/v1/streams", &json, &large).status,
        413
    );
}

#[test]
fn with_tokens_nothing_is_seen_without_one_and_only_operators_act() {
    let folder = tempfile::tempdir().unwrap();
    let (config, viewer, operator) = with_tokens(folder.path());
    let (server, _) = idle(folder.path(), &config).unwrap();
    for path in [
        "/api/v1/patients",
        "/api/v1/info",
        "/live",
        "/api/v1/patients.csv",
    ] {
        let answer = ask(&server, "GET", path, &[], "");
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    for path in ["/", "/assets/app.js", "/metrics", "/livez", "/readyz"] {
        assert_eq!(ask(&server, "GET", path, &[], "").status, 200, "{path}");
    }
    let bearer = |secret: &str| format!("Authorization: Bearer {secret}");
    let (viewer, operator) = (bearer(&viewer), bearer(&operator));
    let info = ask(&server, "GET", "/api/v1/info", &[&viewer], "").json();
    assert_eq!(
        (&info["role"], &info["name"]),
        (&json!("viewer"), &json!("screen"))
    );
    let wrong = bearer("hf_0000");
    assert_eq!(
        ask(&server, "GET", "/api/v1/info", &[&wrong], "").status,
        401
    );
    let body = r#"{"source":"s","patient":"p"}"#;
    let post = |token: &str| {
        let more = [token, "Content-Type: application/json"];
        ask(&server, "POST", "/api/v1/streams", &more, body).status
    };
    assert_eq!(post(&viewer), 403);
    assert_eq!(
        post(&operator),
        400,
        "let through, and refused for what it asks"
    );
}

#[test]
fn a_browser_logs_in_with_a_cookie_that_scripts_cannot_read_and_logs_out() {
    let folder = tempfile::tempdir().unwrap();
    let (config, viewer, _) = with_tokens(folder.path());
    let (server, _) = idle(folder.path(), &config).unwrap();
    let own = format!("Origin: http://{}", server.address());
    let form = "Content-Type: application/x-www-form-urlencoded";
    let log_in = |token: &str| {
        ask(
            &server,
            "POST",
            "/login",
            &[&own, form],
            &format!("token={token}"),
        )
    };
    assert_eq!(log_in("nonsense").status, 401);
    let answer = log_in(&viewer);
    assert_eq!(answer.status, 204);
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    assert!(!cookie.contains(&viewer), "the cookie is not the token");
    let cookie = format!("Cookie: other=1; {}", cookie.split(';').next().unwrap());
    let info = |more: &str| ask(&server, "GET", "/api/v1/info", &[more], "").status;
    assert_eq!(info(&cookie), 200);
    // Another page's script may not use it.
    let foreign = ask(
        &server,
        "POST",
        "/logout",
        &[&cookie, "Origin: https://evil.example"],
        "",
    );
    assert_eq!(foreign.status, 403);
    assert_eq!(
        ask(&server, "POST", "/logout", &[&cookie, &own], "").status,
        204
    );
    assert_eq!(info(&cookie), 401);
    // Guessing is slowed down.
    let tries = (0..30).map(|_| log_in("nonsense").status);
    assert!(tries.collect::<Vec<_>>().contains(&429));
}

#[test]
fn other_machines_are_served_with_tls_and_tokens_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, viewer, _) = with_tokens(folder.path());
    let wide: SocketAddr = ([0, 0, 0, 0], 0).into();
    let bare = ServeConfig {
        listen: wide,
        ..any_port()
    };
    let no_tls = ServeConfig {
        listen: wide,
        ..tokens.clone()
    };
    for config in [bare, no_tls] {
        let error = idle(folder.path(), &config).unwrap_err();
        assert!(matches!(error, ServeError::Unprotected(_)), "{error}");
    }
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (
        folder.path().join("chain.pem"),
        folder.path().join("key.pem"),
    );
    fs::write(&chain, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = ServeConfig {
        listen: wide,
        tls: Some((chain.clone(), key)),
        hosts: vec!["localhost".to_owned()],
        ..tokens
    };
    let (server, _) = idle(folder.path(), &config).unwrap();
    assert!(server.url().starts_with("https://"));
    let trusted = made.cert.der();
    let get = |path: &str, more: &[&str]| {
        let port = server.address().port();
        https(client(trusted, None), port, path, more)
    };
    let bearer = format!("Authorization: Bearer {viewer}");
    let answer = get("/api/v1/info", &[&bearer]);
    assert_eq!(answer.status, 200);
    assert!(answer.header("strict-transport-security").is_some());
    for path in ["/api/v1/info", "/metrics"] {
        assert_eq!(get(path, &[]).status, 401, "{path}");
    }
    assert_eq!(get("/livez", &[]).status, 200);
    // Who speaks no TLS gets no HTTP.
    let plain = format!("127.0.0.1:{}", server.address().port());
    assert_eq!(send(&plain, "GET", "/livez", &[], "").status, 0);

    let broken = ServeConfig {
        tls: Some((chain.clone(), chain)),
        ..config
    };
    let error = idle(folder.path(), &broken).unwrap_err();
    assert!(error.to_string().contains("chain.pem"), "{error}");
}

/// A client that trusts this certificate, and shows that one.
fn client(
    trusted: &CertificateDer<'static>,
    own: Option<&rcgen::CertifiedKey<rcgen::KeyPair>>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match own {
        Some(own) => {
            let key = own.signing_key.serialize_der().try_into().unwrap();
            let chain = vec![own.cert.der().clone()];
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    })
}

fn https(client: Arc<ClientConfig>, port: u16, path: &str, more: &[&str]) -> Answer {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(client, name).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let stream = StreamOwned::new(connection, stream);
    talk(stream, "localhost", ("GET", path), more, "")
}

#[test]
fn where_clients_need_a_certificate_nobody_gets_in_without_one_by_the_right_authority() {
    let folder = tempfile::tempdir().unwrap();
    let [server_s, anna_s, other_s] = ["localhost", "anna", "other"]
        .map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap());
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let chain = file("chain.pem", server_s.cert.pem());
    let key = file("key.pem", server_s.signing_key.serialize_pem());
    let config = ServeConfig {
        tls: Some((chain, key.clone())),
        clients: Some(file("clients.pem", anna_s.cert.pem())),
        ..any_port()
    };
    let (server, _) = idle(folder.path(), &config).unwrap();
    let status = |own| {
        let client = client(server_s.cert.der(), own);
        https(client, server.address().port(), "/livez", &[]).status
    };
    assert_eq!(status(Some(&anna_s)), 200);
    assert_eq!(status(None), 0);
    assert_eq!(status(Some(&other_s)), 0);
    let broken = ServeConfig {
        clients: Some(key),
        ..config
    };
    let error = idle(folder.path(), &broken).unwrap_err();
    assert!(error.to_string().contains("key.pem"), "{error}");
}

/// A certificate that names somebody in its subject, and is its own authority.
fn certificate_of(name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let mut parameters = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let common_name = rcgen::DnType::CommonName;
    parameters.distinguished_name.push(common_name, name);
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let cert = parameters.self_signed(&signing_key).unwrap();
    rcgen::CertifiedKey { cert, signing_key }
}

#[test]
fn certificates_with_roles_are_enough_for_other_machines_and_say_who_may_what() {
    let folder = tempfile::tempdir().unwrap();
    let server_s = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [anna, screen, guest] = ["anna", "screen-1", "guest"].map(certificate_of);
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let authorities = [&anna, &screen, &guest].map(|own| own.cert.pem()).concat();
    let bare = ServeConfig {
        listen: ([0, 0, 0, 0], 0).into(),
        tls: Some((
            file("chain.pem", server_s.cert.pem()),
            file("key.pem", server_s.signing_key.serialize_pem()),
        )),
        hosts: vec!["localhost".to_owned()],
        roles: [("anna", Role::Operator), ("screen-1", Role::Viewer)]
            .map(|(name, role)| (name.to_owned(), role))
            .into(),
        ..any_port()
    };
    // Names for which nobody vouches are worth nothing, and neither are
    // certificates without a role.
    let error = idle(folder.path(), &bare).unwrap_err();
    assert!(matches!(error, ServeError::Unprotected(_)), "{error}");
    let config = ServeConfig {
        clients: Some(file("clients.pem", authorities)),
        ..bare
    };
    let nobody = ServeConfig {
        roles: [].into(),
        ..config.clone()
    };
    let error = idle(folder.path(), &nobody).unwrap_err();
    assert!(matches!(error, ServeError::Unprotected(_)), "{error}");

    let (server, _) = idle(folder.path(), &config).unwrap();
    let port = server.address().port();
    let call = |own, about: (&str, &str), more: &[&str], body: &str| {
        let client = client(server_s.cert.der(), own);
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(client, name).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let stream = StreamOwned::new(connection, stream);
        talk(stream, "localhost", about, more, body)
    };
    let info = |own| call(Some(own), ("GET", "/api/v1/info"), &[], "");
    for (own, role, name) in [(&anna, "operator", "anna"), (&screen, "viewer", "screen-1")] {
        let info = info(own).json();
        assert_eq!((&info["role"], &info["name"]), (&json!(role), &json!(name)));
        assert_eq!(info["login"], false, "there is nothing to log out of");
    }
    assert_eq!(info(&guest).status, 401, "trusted, and without a role");
    assert_eq!(call(None, ("GET", "/livez"), &[], "").status, 0);
    let body = r#"{"source":"s","patient":"p"}"#;
    let post = |own, more: &[&str]| {
        let more = [&["Content-Type: application/json"], more].concat();
        call(Some(own), ("POST", "/api/v1/streams"), &more, body).status
    };
    assert_eq!(post(&screen, &[]), 403);
    assert_eq!(
        post(&anna, &[]),
        400,
        "let through, refused for what it asks"
    );
    // A browser shows its certificate to whatever page asks it to.
    assert_eq!(post(&anna, &["Origin: https://evil.example"]), 403);
}
