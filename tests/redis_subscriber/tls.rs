//! Redis over TLS: who is trusted, who we are, and what each failure tells the operator.
//!
//! Set-up: a real redis-server with certificates made for the test by the openssl command.
//! Property: only a server that proves to be one the operator trusts gets a subscriber; whatever is
//! wrong is said with its cure.
//! Why it matters: certificates go wrong at night, and a message in a library's words costs hours.

use std::process::Command;

use ara_gateway::redis::State;
use ara_gateway::redis::tls::{Setting, client_config};
use ara_gateway::settings::RedisTls;

use super::harness::{
    Certificates, FUTURE, Logs, PAST, Server, Subscriber, free_port, on_one_thread, until,
};
use super::proves_itself;

const NAMED: &str = "subjectAltName=IP:127.0.0.1";
/// As `openssl req -x509` makes them.
const SELF_SIGNED: &str = "basicConstraints=critical,CA:TRUE\nsubjectAltName=IP:127.0.0.1";

/// A server with TLS on a port of its own, and the URL of that.
async fn serve(certificates: &Certificates, server: &str, extra: &[&str]) -> (Server, String) {
    start(certificates.server_arguments(free_port(), server, None), extra).await
}

async fn start(mut arguments: Vec<String>, extra: &[&str]) -> (Server, String) {
    let url = format!("rediss://127.0.0.1:{}", arguments[1]);
    arguments.extend(extra.iter().map(ToString::to_string));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    (Server::start(&arguments).await, url)
}

async fn is_taken(server: &Server, url: &str, tls: RedisTls) {
    let subscriber = Subscriber::start_with(url.to_owned(), tls);
    subscriber.until_connected().await;
    proves_itself(server, &subscriber, "secret").await;
}

/// What the subscriber says when it has given up for the time being.
async fn is_refused(url: &str, tls: RedisTls) -> String {
    let logs = Logs::capture();
    let subscriber = Subscriber::start_with(url.to_owned(), tls);
    until("it is refused", || subscriber.status.snapshot().state == State::CircuitOpen).await;
    logs.text()
}

async fn is_refused_with(url: &str, tls: RedisTls, words: &[&str]) {
    let told = is_refused(url, tls).await;
    for word in words {
        assert!(told.contains(word), "{word:?} is not in {told}");
    }
}

#[test]
fn an_authority_is_trusted_for_what_it_issued_and_for_nothing_else() {
    on_one_thread(async {
        let certificates = Certificates::make();
        certificates.issue("stranger", None, "basicConstraints=CA:TRUE", None);
        certificates.issue("other", Some("ca"), "subjectAltName=DNS:redis.example", None);
        certificates.issue("old", Some("ca"), NAMED, Some(PAST));
        certificates.issue("young", Some("ca"), NAMED, Some(FUTURE));
        let (server, url) = serve(&certificates, "server", &[]).await;
        is_taken(&server, &url, certificates.settings("ca", None)).await;
        let words = ["nobody trusted has issued", "redis.tls_ca"];
        is_refused_with(&url, certificates.settings("stranger", None), &words).await;
        for (name, words) in [
            ("other", ["not for 127.0.0.1", "redis.example", "subjectAltName=IP:127.0.0.1"]),
            ("old", ["has expired", "2020-01-02T00:00:00Z", "renew it"]),
            ("young", ["is not valid before", "2090-01-01T00:00:00Z", "clock"]),
        ] {
            let (_server, url) = serve(&certificates, name, &[]).await;
            is_refused_with(&url, certificates.settings("ca", None), &words).await;
        }
    });
}

#[test]
fn a_certificate_that_was_named_itself_is_trusted_in_its_time_and_for_its_names() {
    on_one_thread(async {
        let certificates = Certificates::make();
        certificates.issue("self", None, SELF_SIGNED, None);
        for version in ["TLSv1.2", "TLSv1.3"] {
            let (server, url) = serve(&certificates, "self", &["--tls-protocols", version]).await;
            is_taken(&server, &url, certificates.settings("self", None)).await;
        }
        // Without its authority too.
        let (server, url) = serve(&certificates, "server", &[]).await;
        is_taken(&server, &url, certificates.settings("server", None)).await;

        // Another of the same subject is another one.
        let twin = Certificates::new();
        twin.issue("self", None, SELF_SIGNED, None);
        let (_server, url) = serve(&certificates, "self", &[]).await;
        let words = ["self-signed and not trusted", "redis.tls_ca"];
        is_refused_with(&url, twin.settings("self", None), &words).await;

        certificates.issue(
            "other",
            None,
            "basicConstraints=CA:TRUE\nsubjectAltName=DNS:a.example",
            None,
        );
        certificates.issue("nameless", None, "basicConstraints=CA:TRUE", None);
        certificates.issue("old", None, SELF_SIGNED, Some(PAST));
        certificates.issue("young", None, SELF_SIGNED, Some(FUTURE));
        certificates.issue("old leaf", Some("ca"), NAMED, Some(PAST));
        certificates.issue("other leaf", Some("ca"), "subjectAltName=DNS:a.example", None);
        for (name, words) in [
            ("other", ["not for 127.0.0.1", "a.example"]),
            ("nameless", ["not for 127.0.0.1", "no subjectAltName"]),
            ("old", ["has expired", "renew it"]),
            ("young", ["is not valid before", "clock"]),
            ("old leaf", ["has expired", "renew it"]),
            ("other leaf", ["not for 127.0.0.1", "a.example"]),
        ] {
            let (_server, url) = serve(&certificates, name, &[]).await;
            is_refused_with(&url, certificates.settings(name, None), &words).await;
        }
    });
}

#[test]
fn a_server_that_asks_for_a_client_certificate_gets_it_and_its_refusal_is_explained() {
    on_one_thread(async {
        let certificates = Certificates::make();
        certificates.issue("client", Some("ca"), "extendedKeyUsage=clientAuth", None);
        certificates.issue("stranger", None, "basicConstraints=CA:TRUE", None);
        for version in ["TLSv1.2", "TLSv1.3"] {
            let arguments = certificates.server_arguments(free_port(), "server", Some("ca"));
            let (server, url) = start(arguments, &["--tls-protocols", version]).await;
            is_taken(&server, &url, certificates.settings("ca", Some("client"))).await;
            let words = ["asks for a client certificate", "redis.tls_cert", "tls-auth-clients no"];
            is_refused_with(&url, certificates.settings("ca", None), &words).await;
            let words = ["refuses our client certificate", "tls-ca-cert-file"];
            is_refused_with(&url, certificates.settings("ca", Some("stranger")), &words).await;
        }
    });
}

#[test]
fn tls_and_plain_text_spoken_to_each_others_port_are_told() {
    on_one_thread(async {
        let certificates = Certificates::make();
        let (server, url) = serve(&certificates, "server", &[]).await;
        let plain = url.replace("rediss:", "redis:");
        is_refused_with(&plain, RedisTls::default(), &["rediss:// in redis.url"]).await;
        let secure = server.url("").replace("redis:", "rediss:");
        let words = ["write redis:// in redis.url", "tls-port"];
        is_refused_with(&secure, certificates.settings("ca", None), &words).await;
    });
}

#[test]
fn the_authority_may_be_named_by_ssl_cert_file() {
    on_one_thread(async {
        let certificates = Certificates::make();
        certificates.issue("self", None, SELF_SIGNED, None);
        for (server, trusted, is_taken) in
            [("server", "ca", true), ("self", "self", true), ("server", "self", false)]
        {
            let (_server, url) = serve(&certificates, server, &[]).await;
            // The environment belongs to a process, so it is tried in another one.
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "tls::connects_with_what_ssl_cert_file_names"])
                .env("SSL_CERT_FILE", certificates.file(trusted))
                .env("ARA_TEST_REDIS_URL", url)
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(told.contains("1 passed") || told.contains("1 failed"), "{told}");
            assert_eq!(output.status.success(), is_taken, "{server} {trusted}: {told}");
        }
    });
}

#[test]
#[ignore = "a part of the_authority_may_be_named_by_ssl_cert_file, which runs it"]
fn connects_with_what_ssl_cert_file_names() {
    let Ok(url) = std::env::var("ARA_TEST_REDIS_URL") else { return };
    on_one_thread(async {
        let subscriber = Subscriber::start(url);
        let state = || subscriber.status.snapshot().state;
        until("it is settled", || matches!(state(), State::Healthy | State::CircuitOpen)).await;
        assert_eq!(state(), State::Healthy);
    });
}

#[test]
fn files_that_cannot_serve_are_named_with_their_setting() {
    let certificates = Certificates::make();
    certificates.issue("client", Some("ca"), "extendedKeyUsage=clientAuth", None);
    assert!(client_config(&certificates.settings("ca", Some("client"))).is_ok());
    let unusable = |tls: RedisTls| {
        let unusable = client_config(&tls).unwrap_err();
        (unusable.setting, unusable.to_string())
    };
    let mut mixed = certificates.settings("ca", Some("client"));
    if let Some(client) = &mut mixed.client {
        client.key = certificates.key("server").into();
    }
    let (setting, told) = unusable(mixed);
    assert_eq!(setting, Setting::Key);
    assert!(told.contains("server.key is not the key of the certificate"), "{told}");

    let mut encrypted = certificates.settings("ca", Some("client"));
    let file = certificates.key("encrypted");
    let text =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nhunter2\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(&file, text).unwrap();
    if let Some(client) = &mut encrypted.client {
        client.key = file.into();
    }
    let (setting, told) = unusable(encrypted);
    assert!(setting == Setting::Key && told.contains("encrypted") && !told.contains("hunter2"));

    let (setting, told) = unusable(certificates.settings("absent", None));
    assert!(
        setting == Setting::Authority && told.contains("absent.pem cannot be opened"),
        "{told}"
    );
    let key_as_authority = RedisTls { ca: Some(certificates.key("ca").into()), client: None };
    let (setting, told) = unusable(key_as_authority);
    assert!(setting == Setting::Authority && told.contains("no certificate"), "{told}");
}
