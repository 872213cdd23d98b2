//! Whether a caller may do what it asks for: its key, the scope of the route, and its tenant.
//!
//! **Runs on**: the router's thread. **Owns**: the keys that are valid now. **Never**: tells a caller
//! without a valid key more than that; lets a key that is bound to a tenant see another one's, or
//! figures of all.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use ara_shards::base::socket::PeerAddress;
use http::header::{HeaderMap, HeaderValue};

use crate::access::{Caller, KeyError, Keyring, Scope};
use crate::audit::{KeyRefusal, KeyRefusals};
use crate::names;
use crate::ratelimit::RateLimiter;
use crate::refusal::{Code, Refusal};

/// Decides who may call.
#[derive(Debug)]
pub(super) struct Authorizer {
    keyring: RefCell<Keyring>,
    /// Whom all calls act for; `None` = tenants are on, and each call names its own.
    only_tenant: Option<Arc<str>>,
    /// How many keys may fail.
    rates: RateLimiter,
    refusals: KeyRefusals,
}

impl Authorizer {
    pub(super) fn new(keyring: Keyring, only_tenant: Option<Arc<str>>, rates: RateLimiter) -> Self {
        let keyring = RefCell::new(keyring);
        Self { keyring, only_tenant, rates, refusals: KeyRefusals::default() }
    }

    /// Takes these keys from now on. A request under way has been let in.
    pub(super) fn set_keyring(&self, keyring: Keyring) {
        self.keyring.replace(keyring);
    }

    /// The caller whose valid key a request carries.
    ///
    /// # Errors
    ///
    /// It carries none; or too many of its address were not valid, and this one is not looked at.
    pub(super) fn caller(&self, headers: &HeaderMap, peer: PeerAddress) -> Result<Caller, Refusal> {
        let Some(shown) = headers.get("x-api-key") else { return Err(no_key()) };
        self.rates.check_keys_of(peer)?;
        match self.keyring.borrow().find(shown.as_bytes(), SystemTime::now()) {
            Ok(key) => Ok(Caller { key, peer }),
            Err(KeyError::Unknown) => {
                self.rates.key_failed(peer);
                self.refusals.record(KeyRefusal::Unknown, peer);
                Err(Refusal::new(Code::KeyRequired, "the API key is not valid"))
            }
            Err(KeyError::Expired(key)) => {
                self.rates.key_failed(peer);
                self.refusals.record(KeyRefusal::Expired(&key.name), peer);
                let sentence = "the API key has expired: ask the gateway's operator for a new one";
                Err(Refusal::new(Code::KeyRequired, sentence))
            }
        }
    }

    /// Whether a caller has the scope of a route.
    ///
    /// # Errors
    ///
    /// It has not; the refusal names the scope.
    pub(super) fn check_scope(&self, caller: &Caller, scope: Scope) -> Result<(), Refusal> {
        if caller.key.scopes.contains(scope) {
            return Ok(());
        }
        self.refusals.record(KeyRefusal::MissingScope(caller, scope), caller.peer);
        let scope = scope.name();
        let sentence = format!("this API key may not do that: it lacks the scope `{scope}`");
        let details = Some(serde_json::json!({ "scope": scope }));
        Err(Refusal { details, ..Refusal::new(Code::Forbidden, sentence) })
    }

    /// Whether a caller may do what concerns every tenant.
    ///
    /// # Errors
    ///
    /// Its key is bound to one.
    pub(super) fn check_unbound(&self, caller: &Caller) -> Result<(), Refusal> {
        if caller.key.tenant.is_none() {
            return Ok(());
        }
        self.refusals.record(KeyRefusal::OtherTenant(caller), caller.peer);
        let sentence = "this path concerns all tenants, and this API key is bound to one";
        Err(Refusal::new(Code::Forbidden, sentence))
    }

    /// Whether a caller may look at a tenant.
    ///
    /// # Errors
    ///
    /// Its key is bound to another.
    pub(super) fn check_tenant(&self, caller: &Caller, tenant: &str) -> Result<(), Refusal> {
        let Some(own) = caller.key.tenant.as_deref().filter(|own| *own != tenant) else {
            return Ok(());
        };
        self.refusals.record(KeyRefusal::OtherTenant(caller), caller.peer);
        let sentence =
            format!("this API key is bound to the tenant `{own}` and sees that one only");
        Err(Refusal::new(Code::Forbidden, sentence))
    }

    /// The tenant a call is about, where it may be about all: as [`Self::tenant`], and `None` where neither
    /// key nor header names one.
    ///
    /// # Errors
    ///
    /// As for one tenant.
    pub(super) fn any_tenant(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
    ) -> Result<Option<Arc<str>>, Refusal> {
        let names_none = !headers.contains_key("x-tenant-id") && caller.key.tenant.is_none();
        if names_none && self.only_tenant.is_none() {
            return Ok(None);
        }
        self.tenant(caller, headers).map(Some)
    }

    /// The tenant a call acts for: that of the key, which needs no header, or else that of the header.
    ///
    /// # Errors
    ///
    /// The header is missing or malformed, or names another tenant than the key's.
    pub(super) fn tenant(&self, caller: &Caller, headers: &HeaderMap) -> Result<Arc<str>, Refusal> {
        let given = headers.get("x-tenant-id").map(HeaderValue::to_str);
        if let Some(own) = &caller.key.tenant {
            return match given {
                None => Ok(Arc::clone(own)),
                Some(Ok(named)) if *named == **own => Ok(Arc::clone(own)),
                Some(_) => {
                    self.refusals.record(KeyRefusal::OtherTenant(caller), caller.peer);
                    let sentence = format!(
                        "this API key is bound to the tenant `{own}`: leave the header X-Tenant-ID \
                         out, or name that one"
                    );
                    Err(Refusal::new(Code::Forbidden, sentence))
                }
            };
        }
        if let Some(only) = &self.only_tenant {
            return Ok(Arc::clone(only));
        }
        match given {
            Some(Ok(tenant)) if names::is_tenant(tenant) => Ok(tenant.into()),
            given => {
                let problem = if given.is_some() { "is not a tenant id" } else { "is missing" };
                let sentence = format!("the header X-Tenant-ID {problem}: {}", names::TENANT_RULE);
                Err(Refusal::field("X-Tenant-ID", sentence))
            }
        }
    }
}

/// No key was shown.
pub(super) fn no_key() -> Refusal {
    Refusal::new(Code::KeyRequired, "this path needs the header X-API-Key")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::access::{Key, KeyDigest, Scopes};

    fn caller(scopes: &[Scope], tenant: Option<&str>) -> Caller {
        let key = Key {
            name: "k".into(),
            digest: KeyDigest::of(b"k"),
            scopes: scopes.iter().copied().collect::<Scopes>(),
            tenant: tenant.map(Arc::from),
            not_after: None,
        };
        Caller { key: Arc::new(key), peer: SocketAddr::from(([192, 0, 2, 1], 7)).into() }
    }

    fn headers(tenant: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(tenant) = tenant {
            headers.insert("x-tenant-id", HeaderValue::from_bytes(tenant.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_missing_scope_is_named() {
        let authorizer = Authorizer::new(Keyring::default(), None, RateLimiter::default());
        for (has, asked) in [(Scope::Read, Scope::Send), (Scope::Admin, Scope::Read)] {
            let caller = caller(&[has], None);
            assert!(authorizer.check_scope(&caller, has).is_ok());
            let refusal = authorizer.check_scope(&caller, asked).unwrap_err();
            assert_eq!(refusal.code, Code::Forbidden);
            assert!(refusal.message.contains(&format!("`{}`", asked.name())), "{refusal:?}");
            assert_eq!(refusal.details.unwrap()["scope"], asked.name());
        }
    }

    #[test]
    fn a_bound_key_acts_for_its_own_tenant_and_for_no_other() {
        let on = Authorizer::new(Keyring::default(), None, RateLimiter::default());
        let (bound, free) = (caller(&[], Some("red")), caller(&[], None));
        for (caller, header, expected) in [
            (&bound, None, Ok("red")),
            (&bound, Some("red"), Ok("red")),
            (&bound, Some("blue"), Err(Code::Forbidden)),
            (&bound, Some("Red"), Err(Code::Forbidden)),
            (&bound, Some(""), Err(Code::Forbidden)),
            (&bound, Some("é"), Err(Code::Forbidden)),
            (&free, Some("blue"), Ok("blue")),
            (&free, None, Err(Code::Validation)),
            (&free, Some("a/b"), Err(Code::Validation)),
        ] {
            let tenant = on.tenant(caller, &headers(header));
            let tenant = tenant.as_deref().map_err(|refusal| refusal.code);
            assert_eq!(tenant, expected, "{header:?}");
        }
        assert_eq!(on.check_unbound(&bound).unwrap_err().code, Code::Forbidden);
        assert!(on.check_unbound(&free).is_ok());
    }

    #[test]
    fn with_tenants_off_the_header_is_not_looked_at() {
        let off =
            Authorizer::new(Keyring::default(), Some("default".into()), RateLimiter::default());
        let free = caller(&[], None);
        for header in [None, Some("red"), Some("a/b")] {
            assert_eq!(&*off.tenant(&free, &headers(header)).unwrap(), "default");
        }
    }
}
