//! Client tokens: from a JWT to an identity, or to the class of its refusal.
//!
//! **Runs on**: the doors, and the router for its callers (plain data, shared read-only). **Owns**: the verification
//! key. **Never**: lets a token choose its algorithm, says why a signature failed, or repeats a
//! token or a claim in an error.
//!
//! The library checks shape, algorithm and signature; the claims are checked here, after the
//! signature and against a time that is an argument, so that tests need no clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use crate::config::error::Fault;
use crate::config::jwt_key;
use crate::config::settled::Jwt;
use crate::names;

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
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::WrongIssuer => "the token's issuer is not accepted",
            Self::WrongAudience => "the token's audience is not accepted",
            Self::BadClaim(problem) => problem,
        })
    }
}

impl std::error::Error for TokenError {}

/// Verifies client tokens by the one configured algorithm and key.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
    leeway_seconds: u64,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier { redacted }")
    }
}

/// The claims as they arrive. What is not checked unless configured is not typed here either.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<serde_json::Number>,
    nbf: Option<serde_json::Number>,
    #[serde(default)]
    iss: serde_json::Value,
    #[serde(default)]
    aud: serde_json::Value,
    tenant_id: Option<String>,
    #[serde(default)]
    roles: Option<Vec<String>>,
    // Absent means every channel, so a null must not pass for absent.
    #[serde(default, deserialize_with = "not_null")]
    channels: Option<Vec<String>>,
}

fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Vec::deserialize(deserializer).map(Some)
}

impl Verifier {
    /// Builds the verifier.
    ///
    /// # Errors
    ///
    /// A fault of the configuration, where the key is missing or does not fit the algorithm.
    pub fn new(jwt: &Jwt) -> Result<Self, Fault> {
        let key = jwt_key::decoding_key(jwt)?;
        let mut validation = Validation::new(jwt.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Ok(Self {
            key,
            validation,
            issuer: jwt.issuer.as_deref().map(Box::from),
            audience: jwt.audience.as_deref().map(Box::from),
            leeway_seconds: jwt.leeway.as_secs(),
        })
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
        let header = jsonwebtoken::decode_header(token).map_err(|error| header_class(&error))?;
        // RFC 7515: who does not understand a critical extension must refuse; we know none.
        if !self.validation.algorithms.contains(&header.alg) || header.crit.is_some() {
            return Err(TokenError::WrongAlgorithm);
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| body_class(&error))?;
        self.check(decoded.claims, now_unix_seconds)
    }

    fn check(&self, claims: Claims, now: u64) -> Result<Identity, TokenError> {
        let expires = claims.exp.as_ref().and_then(numeric_date);
        let expires = expires.ok_or(TokenError::BadClaim("the token needs a numeric exp claim"))?;
        if now >= expires.saturating_add(self.leeway_seconds) {
            return Err(TokenError::Expired);
        }
        if let Some(not_before) = &claims.nbf {
            let not_before = numeric_date(not_before)
                .ok_or(TokenError::BadClaim("the token's nbf claim is not a time"))?;
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
    let user = claims.sub.filter(|user| names::is_user(user)).ok_or(TokenError::BadClaim(
        "the token needs a sub claim of 1 to 128 bytes of visible text",
    ))?;
    if claims.tenant_id.as_deref().is_some_and(|tenant| !names::is_channel(tenant)) {
        let problem = "the token's tenant_id claim is not 1 to 64 of A-Z a-z 0-9 . _ -";
        return Err(TokenError::BadClaim(problem));
    }
    let roles = claims.roles.unwrap_or_default();
    if roles.len() > ROLES_MAX || roles.iter().any(|role| role.len() > ROLE_BYTES_MAX) {
        let problem = "the token's roles claim is not up to 64 roles of up to 64 bytes";
        return Err(TokenError::BadClaim(problem));
    }
    let channels = claims.channels;
    if let Some(channels) = &channels
        && (channels.len() > CHANNELS_MAX || !channels.iter().all(|entry| is_channel_entry(entry)))
    {
        let problem = "the token's channels claim is not up to 256 channel names or prefix.*";
        return Err(TokenError::BadClaim(problem));
    }
    Ok(Identity {
        user: user.into_boxed_str(),
        tenant: claims.tenant_id.map(String::into_boxed_str),
        roles: boxed(roles),
        channels: channels.map(boxed),
        expires_at_unix_seconds,
    })
}

fn boxed(texts: Vec<String>) -> Box<[Box<str>]> {
    texts.into_iter().map(String::into_boxed_str).collect()
}

/// Whether a text may be an entry of the `channels` claim: a channel name, or `prefix.*`.
pub fn is_channel_entry(text: &str) -> bool {
    names::is_channel(text.strip_suffix(".*").unwrap_or(text))
}

/// Seconds since 1970, from a number that may have a fraction (RFC 7519, NumericDate).
fn numeric_date(number: &serde_json::Number) -> Option<u64> {
    number.as_u64().or_else(|| {
        Duration::try_from_secs_f64(number.as_f64()?).ok().map(|duration| duration.as_secs())
    })
}

/// Whether an `aud` claim, one text or a list, holds the configured audience.
fn holds(claim: &serde_json::Value, audience: &str) -> bool {
    match claim {
        serde_json::Value::String(one) => one == audience,
        serde_json::Value::Array(many) => many.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    }
}

/// A header that is valid JSON, but not a header the library knows, has an unknown `alg` (`none`
/// among them) or none at all.
fn header_class(error: &jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::Json(json) if json.classify() == Category::Data => TokenError::WrongAlgorithm,
        _ => TokenError::Malformed,
    }
}

/// The signature is verified before the claims are read, so bad claims are the signer's own.
fn body_class(error: &jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidAlgorithm => TokenError::WrongAlgorithm,
        ErrorKind::Json(json) if json.classify() == Category::Data => {
            TokenError::BadClaim("a claim of the token has the wrong type")
        }
        ErrorKind::Json(_)
        | ErrorKind::Base64(_)
        | ErrorKind::Utf8(_)
        | ErrorKind::InvalidToken => TokenError::Malformed,
        _ => TokenError::BadSignature,
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
