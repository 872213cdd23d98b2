//! A failed handshake in the operator's terms: what is wrong, and what to do about it.
//!
//! **Runs on**: the router, when an attempt has failed. **Owns**: nothing.
//! **Never**: repeats more of a certificate than its names and its validity period.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

fn webpki_error(error: &CertificateError) -> Option<&webpki::Error> {
    let CertificateError::Other(other) = error else { return None };
    other.0.downcast_ref()
}

/// Whether a certificate was refused because it claims to be an authority's.
pub(super) fn is_authority(error: &CertificateError) -> bool {
    webpki_error(error) == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// A failure in the operator's terms: what is wrong and what to do about it.
pub(super) fn explain(error: &Error, host: &str, has_client_certificate: bool) -> String {
    match error {
        Error::InvalidCertificate(reason) => explain_certificate(reason, host),
        Error::AlertReceived(alert) => explain_alert(*alert, has_client_certificate),
        Error::InvalidMessage(_) => {
            "what came is not TLS: if the port is Redis' plain one, write redis:// in redis.url, \
             or name its tls-port"
                .to_owned()
        }
        other => other.to_string(),
    }
}

fn explain_certificate(reason: &CertificateError, host: &str) -> String {
    const NAME_IT: &str = "name its certificate authority, or the certificate itself, by \
                           redis.tls_ca (REDIS_TLS_CA)";
    match reason {
        CertificateError::UnknownIssuer => {
            format!("nobody trusted has issued the server's certificate: {NAME_IT}")
        }
        reason if is_authority(reason) => {
            format!("the server's certificate is self-signed and not trusted: {NAME_IT}")
        }
        CertificateError::BadSignature => {
            format!(
                "the server's certificate is not signed by the trusted authority of that name, \
                 which may have been renewed: {NAME_IT}"
            )
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = match presented.as_slice() {
                [] => "has no subjectAltName at all".to_owned(),
                names => format!("is for {}", names.join(", ")),
            };
            let kind = if host.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
            format!(
                "the server's certificate is not for {host}, it {names}: write a name it has in \
                 redis.url, or issue it with subjectAltName={kind}:{host}"
            )
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!(
                "the server's certificate, or one it is issued by, has expired at {}: renew it on \
                 the server",
                moment(*not_after)
            )
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!(
                "the server's certificate is not valid before {}: check this machine's clock",
                moment(*not_before)
            )
        }
        reason if webpki_error(reason) == Some(&webpki::Error::UnsupportedCertVersion) => {
            "the server's certificate is not of X.509 version 3: issue it with a subjectAltName, \
             which makes it so"
                .to_owned()
        }
        other => format!("the server's certificate cannot be accepted: {other}"),
    }
}

fn moment(time: UnixTime) -> impl fmt::Display {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

fn explain_alert(alert: AlertDescription, has_client_certificate: bool) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired | Alert::HandshakeFailure if !has_client_certificate => {
            format!(
                "the server ended the handshake ({alert:?}), most likely because it asks for a \
                 client certificate, as Redis does by default: set redis.tls_cert and \
                 redis.tls_key, or tls-auth-clients no on the server"
            )
        }
        Alert::CertificateRequired
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
            if has_client_certificate =>
        {
            format!(
                "the server refuses our client certificate ({alert:?}): redis.tls_cert must be in \
                 its time and issued by what the server's tls-ca-cert-file names"
            )
        }
        Alert::ProtocolVersion => {
            "the server has no TLS version in common with us: have it offer TLSv1.2 or TLSv1.3 by \
             tls-protocols"
                .to_owned()
        }
        other => format!("the server ended the handshake: {other:?}"),
    }
}
