//! Client tokens: from a JWT to an identity, or to the class of its refusal.
//!
//! **Runs on**: the doors, and the router for its callers (plain data, shared read-only). **Owns**: the verification
//! key. **Never**: lets a token choose its algorithm, says why a signature failed, or repeats a
//! token or a claim in an error.
//!
//! The library reads the header and checks the signature; the claims are checked here, after the
//! signature and against a time that is an argument, so that tests need no clock. The library's
//! `decode` is not used: it reads the claims a second time for checks of its own, and fails on a
//! claim of the wrong type without saying which.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

use crate::config::error::Fault;
use crate::config::jwt_key;
use crate::names;
use crate::settings::Jwt;

/// The longest token that is looked at: browsers and proxies cut longer request lines anyway.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The most roles of one token.
pub const ROLES_MAX: usize = 64;
/// The longest role.
pub const ROLE_BYTES_MAX: usize = 64;
/// The most channel entries of one token.
pub const CHANNELS_MAX: usize = 256;

/// Who a verified token says its bearer is, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The `sub` claim.
    pub user: Box<str>,
    /// The `tenant_id` claim.
    pub tenant: Option<Box<str>>,
    /// The `roles` claim; none if it is absent.
    pub roles: Box<[Box<str>]>,
    /// What the token may subscribe to: names, or `prefix.*`. `None` = every channel.
    pub channels: Option<Box<[Box<str>]>>,
    /// The `exp` claim. The leeway is not added.
    pub expires_at_unix_seconds: u64,
}

/// Why a token was refused. The message names the class and is safe to send to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// There was no token.
    Missing,
    /// It is no JWT, or too long to be looked at.
    Malformed,
    /// Its signature is not of the configured key.
    BadSignature,
    /// Its header names another algorithm than the configured one, or an extension we lack.
    WrongAlgorithm,
    /// Its `exp` is past.
    Expired,
    /// Its `nbf` is to come.
    NotYetValid,
    /// Its `iss` is not the configured one.
    WrongIssuer,
    /// Its `aud` does not hold the configured one.
    WrongAudience,
    /// A claim is missing or not what it must be; the text says which.
    BadClaim(&'static str),
    /// A field of its header is not of the type it must have.
    BadHeader,
}

impl TokenError {
    /// The class as a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::BadSignature => "bad_signature",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::BadClaim(_) => "bad_claim",
            Self::BadHeader => "bad_header",
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "a token is required",
            Self::Malformed => "the token is malformed",
            Self::BadSignature => "the token's signature is not valid",
            Self::WrongAlgorithm => "the token's algorithm is not accepted",
            Self::Expired => "the token has expired: get a fresh one where this one came from",
            Self::NotYetValid => "the token is not valid yet",
            Self::WrongIssuer => "the token's issuer is not accepted",
            Self::WrongAudience => "the token's audience is not accepted",
            Self::BadClaim(problem) => problem,
            Self::BadHeader => {
                "a field of the token's header is given twice or has the wrong type (kid, typ and \
                 x5t are text, x5c is a list of text, jwk is a key)"
            }
        })
    }
}

impl std::error::Error for TokenError {}

/// Verifies client tokens by the one configured algorithm and key, or the key of before.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
    /// The key of before, while its tokens are still taken.
    previous_key: Option<DecodingKey>,
    algorithm: Algorithm,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
    leeway_seconds: u64,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier { redacted }")
    }
}

/// The claims as they arrive. Their types are checked one by one, so that a refusal names the claim.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    nbf: Value,
    #[serde(default)]
    iss: Value,
    #[serde(default)]
    aud: Value,
    #[serde(default)]
    tenant_id: Value,
    #[serde(default)]
    roles: Value,
    // Absent means every channel, so a null must not pass for absent.
    #[serde(default, deserialize_with = "given")]
    channels: Option<Value>,
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Verifier {
    /// Builds the verifier.
    ///
    /// # Errors
    ///
    /// A fault of the configuration, where the key is missing or does not fit the algorithm.
    pub fn new(jwt: &Jwt) -> Result<Self, Fault> {
        let key = jwt_key::decoding_key(jwt)?;
        let previous = jwt.previous_secret.as_ref().filter(|_secret| jwt.is_hmac());
        let previous_key = previous.map(|secret| DecodingKey::from_secret(secret.as_bytes()));
        Ok(Self {
            key,
            previous_key,
            algorithm: jwt.algorithm,
            issuer: jwt.issuer.as_deref().map(Box::from),
            audience: jwt.audience.as_deref().map(Box::from),
            leeway_seconds: jwt.leeway.as_secs(),
        })
    }

    /// How long a token is taken after its end.
    pub const fn leeway_seconds(&self) -> u64 {
        self.leeway_seconds
    }

    /// Verifies a token against the clock of the system.
    ///
    /// # Errors
    ///
    /// The class of the refusal.
    pub fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        // A clock before 1970 makes every `nbf` a future one, which is as safe as it gets.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.verify_at(token, now.as_secs())
    }

    /// Verifies a token as if it were `now_unix_seconds`.
    ///
    /// # Errors
    ///
    /// The class of the refusal.
    pub fn verify_at(&self, token: &str, now_unix_seconds: u64) -> Result<Identity, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        if token.len() > TOKEN_BYTES_MAX || token.bytes().filter(|byte| *byte == b'.').count() != 2
        {
            return Err(TokenError::Malformed);
        }
        let header =
            jsonwebtoken::decode_header(token).map_err(|error| header_class(&error, token))?;
        // RFC 7515: who does not understand a critical extension must refuse; we know none.
        if header.alg != self.algorithm || header.crit.is_some() {
            return Err(TokenError::WrongAlgorithm);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (_, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let verdict = self.verify_signature(signature, message.as_bytes());
        match verdict.as_ref().map_err(|error| error.kind()) {
            Ok(true) => self.check(claims(payload)?, now_unix_seconds),
            Err(ErrorKind::Base64(_)) => Err(TokenError::Malformed),
            Ok(false) | Err(_) => Err(TokenError::BadSignature),
        }
    }

    /// Whether the signature is one of the keys'.
    fn verify_signature(
        &self,
        signature: &str,
        message: &[u8],
    ) -> jsonwebtoken::errors::Result<bool> {
        let verify = |key| jsonwebtoken::crypto::verify(signature, message, key, self.algorithm);
        match (verify(&self.key), &self.previous_key) {
            (Ok(false), Some(previous)) => verify(previous),
            (verdict, _) => verdict,
        }
    }

    fn check(&self, claims: Claims, now: u64) -> Result<Identity, TokenError> {
        if claims.exp.is_null() {
            return Err(TokenError::BadClaim("the token needs an exp claim"));
        }
        let expires = numeric_date(&claims.exp).ok_or(TokenError::BadClaim(
            "the token's exp claim is not a time in seconds since 1970",
        ))?;
        if now >= expires.saturating_add(self.leeway_seconds) {
            return Err(TokenError::Expired);
        }
        if !claims.nbf.is_null() {
            let not_before = numeric_date(&claims.nbf).ok_or(TokenError::BadClaim(
                "the token's nbf claim is not a time in seconds since 1970",
            ))?;
            if now.saturating_add(self.leeway_seconds) < not_before {
                return Err(TokenError::NotYetValid);
            }
        }
        if let Some(issuer) = &self.issuer
            && claims.iss.as_str() != Some(&**issuer)
        {
            return Err(TokenError::WrongIssuer);
        }
        if let Some(audience) = &self.audience
            && !holds(&claims.aud, audience)
        {
            return Err(TokenError::WrongAudience);
        }
        identity(claims, expires)
    }
}

fn identity(claims: Claims, expires_at_unix_seconds: u64) -> Result<Identity, TokenError> {
    let user = text(claims.sub).filter(|user| names::is_user(user)).ok_or(TokenError::BadClaim(
        "the token needs a sub claim of 1 to 128 bytes of visible text",
    ))?;
    let tenant =
        optional(claims.tenant_id, |claim| text(claim).filter(|tenant| names::is_channel(tenant)));
    let tenant = tenant.ok_or(TokenError::BadClaim(
        "the token's tenant_id claim is not 1 to 64 of A-Z a-z 0-9 . _ -",
    ))?;
    let roles = optional(claims.roles, |claim| {
        texts(claim, ROLES_MAX, |role| role.len() <= ROLE_BYTES_MAX)
    });
    let roles = roles.ok_or(TokenError::BadClaim(
        "the token's roles claim is not up to 64 roles of up to 64 bytes",
    ))?;
    let channels = match claims.channels {
        None => None,
        Some(claim) => {
            Some(texts(claim, CHANNELS_MAX, is_channel_entry).ok_or(TokenError::BadClaim(
                "the token's channels claim is not up to 256 channel names or prefix.*",
            ))?)
        }
    };
    Ok(Identity {
        user: user.into_boxed_str(),
        tenant: tenant.map(String::into_boxed_str),
        roles: roles.unwrap_or_default(),
        channels,
        expires_at_unix_seconds,
    })
}

/// `Some(None)` where the claim is absent or null, `None` where `read` does not take it.
fn optional<T>(claim: Value, read: impl FnOnce(Value) -> Option<T>) -> Option<Option<T>> {
    if claim.is_null() { Some(None) } else { read(claim).map(Some) }
}

fn text(claim: Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// A list of at most `most` texts, each of them `valid`.
fn texts(claim: Value, most: usize, valid: impl Fn(&str) -> bool) -> Option<Box<[Box<str>]>> {
    let Value::Array(entries) = claim else { return None };
    if entries.len() > most {
        return None;
    }
    let entries = entries.into_iter().map(|entry| text(entry).filter(|entry| valid(entry)));
    entries.map(|entry| entry.map(String::into_boxed_str)).collect()
}

/// Whether a text may be an entry of the `channels` claim: a channel name, or `prefix.*`.
pub fn is_channel_entry(text: &str) -> bool {
    names::is_channel(text.strip_suffix(".*").unwrap_or(text))
}

/// Seconds since 1970, from a number that may have a fraction (RFC 7519, NumericDate). A time before
/// 1970 is as good as 1970: long past.
fn numeric_date(claim: &Value) -> Option<u64> {
    let Value::Number(number) = claim else { return None };
    number.as_u64().or_else(|| {
        let seconds = number.as_f64()?.max(0.0);
        Duration::try_from_secs_f64(seconds).ok().map(|duration| duration.as_secs())
    })
}

/// Whether an `aud` claim, one text or a list, holds the configured audience.
fn holds(claim: &Value, audience: &str) -> bool {
    match claim {
        Value::String(one) => one == audience,
        Value::Array(many) => many.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    }
}

/// A header that is valid JSON, but not one the library knows, has an unknown `alg` (`none` among
/// them) or none at all; or its `alg` is known, and another field is wrong.
fn header_class(error: &jsonwebtoken::errors::Error, token: &str) -> TokenError {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        alg: Value,
    }
    if !matches!(error.kind(), ErrorKind::Json(_)) {
        return TokenError::Malformed;
    }
    let encoded = token.split('.').next().unwrap_or_default();
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(encoded).unwrap_or_default();
    match serde_json::from_slice::<Value>(&decoded) {
        Ok(Value::Object(_)) => {}
        _ => return TokenError::Malformed,
    }
    match serde_json::from_slice::<Named>(&decoded) {
        Ok(Named { alg: Value::String(name) }) if name.parse::<Algorithm>().is_ok() => {
            TokenError::BadHeader
        }
        Ok(_) => TokenError::WrongAlgorithm,
        // Which of two is meant is anybody's guess.
        Err(_given_twice) => TokenError::BadHeader,
    }
}

/// Reads the claims of a token whose signature is verified, so that bad claims are the signer's own.
fn claims(payload: &str) -> Result<Claims, TokenError> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(payload);
    let decoded = decoded.map_err(|_not_base64| TokenError::Malformed)?;
    // serde would take a list for the fields in their order.
    let is_object = decoded.trim_ascii_start().starts_with(b"{");
    match serde_json::from_slice(&decoded) {
        Ok(claims) if is_object => Ok(claims),
        Err(error) if error.classify() != Category::Data => Err(TokenError::Malformed),
        Ok(_) | Err(_) => Err(TokenError::BadClaim(
            "the token's claims are not an object that has each claim once",
        )),
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
