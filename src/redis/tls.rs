//! TLS to Redis: the trusted certificates, the client certificate, and what a failed handshake
//! means for the operator.
//!
//! **Runs on**: main, to check the configuration; the router, at the first attempt and after each
//! failed one. **Owns**: the TLS configuration. **Never**: turns a check off, trusts a certificate
//! that nobody named, or puts a key into an error.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
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
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::fault::Fault;
use crate::bounded_file::read_bounded;
use crate::settings::RedisTls;
use explain::{explain, is_authority};

mod explain;

/// Far more than any bundle of certificates, so that a wrong path cannot fill the memory.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Which setting caused the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `redis.tls_ca`.
    Authority,
    /// `redis.tls_cert`.
    Certificate,
    /// `redis.tls_key`.
    Key,
    /// No setting: the system's own certificates.
    System,
}

/// Why TLS cannot be set up with these files.
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
    // If one certificate of a bundle cannot be read, the others are trusted all the same.
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
    let pem = read_bounded(path, FILE_BYTES_MAX).map_err(|problem| refuse(&problem))?;
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
    let pem = read_bounded(path, FILE_BYTES_MAX).map_err(|problem| refuse(&problem))?;
    let marker = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    if pem.windows(marker.len()).any(|window| window == marker) {
        return Err(refuse(
            "holds an encrypted key; decrypt it with: openssl pkey -in KEY -out PLAIN",
        ));
    }
    // The error itself is left out, since it might quote the file.
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_unreadable| refuse("holds no private key (-----BEGIN PRIVATE KEY-----)"))
}

/// The TLS configuration, built when first needed.
pub(super) struct Tls {
    files: RedisTls,
    config: Option<Arc<ClientConfig>>,
}

impl Tls {
    pub(super) const fn new(files: RedisTls) -> Self {
        Self { files, config: None }
    }

    /// Reads the files again at the next attempt: they may have been renewed on disk.
    pub(super) fn forget(&mut self) {
        self.config = None;
    }

    /// Kept once built, since building it reads a few hundred kilobytes from disk.
    fn config(&mut self) -> Result<Arc<ClientConfig>, Fault> {
        if let Some(config) = &self.config {
            return Ok(Arc::clone(config));
        }
        let config = client_config(&self.files);
        let config = config.map_err(|unusable| Fault::Tls(unusable.to_string()))?;
        Ok(Arc::clone(self.config.insert(Arc::new(config))))
    }

    /// Makes the TLS handshake, at most until `deadline`.
    pub(super) async fn secure(
        &mut self,
        socket: TcpStream,
        name: ServerName<'static>,
        host: &str,
        deadline: Instant,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let connector = TlsConnector::from(self.config()?);
        match timeout_at(deadline, connector.connect(name, socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.fault(error, host)),
            // A Redis without TLS on this port waits for a line break that never comes.
            Err(_elapsed) => Err(Fault::Tls(
                "no answer to the handshake: if the port is Redis' plain one, write redis:// in \
                 redis.url, or name its tls-port"
                    .into(),
            )),
        }
    }

    /// Turns an I/O error into a fault. It may hold a TLS alert even after the handshake, since
    /// with TLS 1.3 a server refuses a client certificate only then.
    pub(super) fn fault(&self, error: io::Error, host: &str) -> Fault {
        let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match reason {
            Some(reason) => Fault::Tls(explain(reason, host, self.files.client.is_some())),
            None => Fault::Broken(error),
        }
    }
}

/// Accepts what webpki accepts, and besides that a certificate which is, byte for byte, one that
/// the operator named: most self-signed certificates claim to be authorities, which webpki refuses
/// in a server, and a server's own certificate may be named without its issuer.
///
/// Everything else is still checked for such a certificate: its validity period, its names, and the
/// handshake's proof that the server has its key.
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
            // webpki checks the validity period first: after these two errors it is known to be
            // valid.
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
