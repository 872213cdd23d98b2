//! Makes the JSON Web Tokens (HS256) that the load generator's users connect with, and checks them
//! for the stand-in server. Only what those two need: no key sets, no other algorithm.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// `{"alg":"HS256","typ":"JWT"}`, encoded.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_id: Option<String>,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
}

/// The signing half: one per run, so that the key schedule is computed once.
#[derive(Debug)]
pub(crate) struct Tokens {
    key: Key,
    /// Whose users they are for, where the gateway keeps tenants apart.
    tenant: Option<String>,
}

impl Tokens {
    pub(crate) fn new(secret: &str) -> Self {
        Self { key: Key::new(HMAC_SHA256, secret.as_bytes()), tenant: None }
    }

    /// For the users of a tenant.
    pub(crate) fn of_tenant(self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self }
    }

    /// A token for `user`, issued at `now` (seconds since 1970) and good for a day.
    pub(crate) fn issue(&self, user: &str, now: u64) -> String {
        let (sub, tenant_id) = (user.to_owned(), self.tenant.clone());
        let claims = Claims { sub, tenant_id, iat: now, exp: now + 86_400 };
        let body = serde_json::to_vec(&claims).unwrap_or_default();
        let mut token = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(body));
        let signature = self.signature(token.as_bytes());
        token.push('.');
        token.push_str(&signature);
        token
    }

    /// The user a token names, if it is one of ours and has not expired.
    pub(crate) fn user(&self, token: &str, now: u64) -> Option<String> {
        let (signed, signature) = token.rsplit_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(signature).ok()?;
        verify(&self.key, signed.as_bytes(), &tag).ok()?;
        let body = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        let claims: Claims = serde_json::from_slice(&body).ok()?;
        (claims.exp > now).then_some(claims.sub)
    }

    fn signature(&self, signed: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(sign(&self.key, signed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of RFC 7515, appendix A.1.
    #[test]
    fn signs_as_the_standard_does() {
        let key = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .expect("a key in base64url");
        let tokens = Tokens { key: Key::new(HMAC_SHA256, &key), tenant: None };
        let signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        assert_eq!(
            tokens.signature(signed.as_bytes()),
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        );
    }

    #[test]
    fn header_says_hs256() {
        let json = URL_SAFE_NO_PAD.decode(HEADER).expect("base64url");
        assert_eq!(json, br#"{"alg":"HS256","typ":"JWT"}"#);
    }

    #[test]
    fn issued_token_names_its_user_until_it_expires() {
        let tokens = Tokens::new("a secret of thirty-two bytes, or more");
        let token = tokens.issue("u7", 1_000);
        assert_eq!(tokens.user(&token, 1_001).as_deref(), Some("u7"));
        assert_eq!(tokens.user(&token, 1_000 + 86_400), None);
        assert_eq!(Tokens::new("another").user(&token, 1_001), None);
    }
}
