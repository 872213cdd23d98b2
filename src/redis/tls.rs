//! TLS to Redis: whom we trust, who we are, and what a failed handshake means for the operator.
//!
//! **Runs on**: main, to check the configuration; the router, at the first attempt and after each
//! failed one. **Owns**: the TLS configuration. **Never**: turns a check off, trusts a certificate
//! that nobody named, or puts a key into an error.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

use crate::config::settled::RedisTls;

/// Far more than any bundle of certificates; a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Which setting is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `redis.tls_ca`.
    Authority,
    /// `redis.tls_cert`.
    Certificate,
    /// `redis.tls_key`.
    Key,
    /// None: the system's own certificates.
    System,
}

/// Why there can be no TLS with these files.
#[derive(Debug)]
pub struct Unusable {
    /// The setting to change.
    pub setting: Setting,
    /// What is wrong, with the file's name and without its contents.
    pub problem: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.setting {
            Setting::Authority => "redis.tls_ca: ",
            Setting::Certificate => "redis.tls_cert: ",
            Setting::Key => "redis.tls_key: ",
            Setting::System => "",
        };
        write!(formatter, "{name}{}", self.problem)
    }
}

/// Reads the files and makes the configuration of a connection. The start and `check-config` call
/// this as well as every first attempt, so that none of them accepts what another refuses.
///
/// # Errors
///
/// A file cannot be read, or does not hold what it must.
pub fn client_config(files: &RedisTls) -> Result<ClientConfig, Unusable> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let named = trusted(files)?;
    let mut roots = RootCertStore::empty();
    // One certificate of a bundle that cannot be read is no reason to trust none.
    let (added, _ignored) = roots.add_parsable_certificates(named.iter().cloned());
    if added == 0 {
        let setting = if files.ca.is_some() { Setting::Authority } else { Setting::System };
        let problem = "no certificate in it can be used".to_owned();
        return Err(Unusable { setting, problem });
    }
    let system = |error: &dyn fmt::Display| Unusable {
        setting: Setting::System,
        problem: format!("TLS cannot be set up: {error}"),
    };
    let verifier = NamedOrIssued::new(roots, named, &provider).map_err(|error| system(&error))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| system(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(client) = &files.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(Setting::Certificate, &client.cert)?;
    let key = private_key(&client.key)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        let (cert, key) = (client.cert.display(), client.key.display());
        let problem = match error {
            Error::InconsistentKeys(_) => format!("{key} is not the key of the certificate {cert}"),
            other => format!("{key} cannot be used with {cert}: {other}"),
        };
        Unusable { setting: Setting::Key, problem }
    })
}

/// Every certificate that is trusted: those of `redis.tls_ca`, else the system's, which
/// `SSL_CERT_FILE` and `SSL_CERT_DIR` replace.
fn trusted(files: &RedisTls) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    if let Some(path) = &files.ca {
        return certificates(Setting::Authority, path);
    }
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        let problem = format!(
            "this system has no trusted certificates{why}: name the server's certificate \
             authority by redis.tls_ca (REDIS_TLS_CA) or SSL_CERT_FILE"
        );
        return Err(Unusable { setting: Setting::System, problem });
    }
    Ok(found.certs)
}

fn certificates(setting: Setting, path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let refuse = |problem: &str| Unusable {
        setting,
        problem: format!("the file {} {problem}", path.display()),
    };
    let pem = read(path).map_err(|problem| refuse(&problem))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(list) if list.is_empty() => {
            Err(refuse("holds no certificate (-----BEGIN CERTIFICATE-----)"))
        }
        Ok(list) => Ok(list),
        Err(error) => Err(refuse(&format!("is no PEM file: {error}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Unusable> {
    let refuse = |problem: &str| Unusable {
        setting: Setting::Key,
        problem: format!("the file {} {problem}", path.display()),
    };
    let pem = read(path).map_err(|problem| refuse(&problem))?;
    let marker = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    if pem.windows(marker.len()).any(|window| window == marker) {
        return Err(refuse(
            "holds an encrypted key; decrypt it with: openssl pkey -in KEY -out PLAIN",
        ));
    }
    // The error is not repeated: it might quote the file.
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_unreadable| refuse("holds no private key (-----BEGIN PRIVATE KEY-----)"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// Accepts what webpki accepts, and besides that a certificate which is, byte for byte, one that the
/// operator named: most self-signed certificates say of themselves that they are authorities, which
/// webpki refuses in a server, and a server's own certificate may be named without its issuer.
///
/// Everything else still holds for such a certificate: its time, its names, and the handshake's
/// proof that the server has its key.
#[derive(Debug)]
struct NamedOrIssued {
    issued: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl NamedOrIssued {
    fn new(
        roots: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, impl fmt::Display + use<>> {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map(|issued| Self { issued, named })
    }
}

impl ServerCertVerifier for NamedOrIssued {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.issued.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verdict {
            // webpki looks at the time first: with these two answers the certificate is in its time.
            Err(Error::InvalidCertificate(reason))
                if (is_authority(&reason) || reason == CertificateError::UnknownIssuer)
                    && self.named.iter().any(|named| named == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.issued.supported_verify_schemes()
    }
}

fn webpki_error(error: &CertificateError) -> Option<&webpki::Error> {
    let CertificateError::Other(other) = error else { return None };
    other.0.downcast_ref()
}

fn is_authority(error: &CertificateError) -> bool {
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
