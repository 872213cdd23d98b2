//! Who calls the API: its keys, what each may do, and for which tenant.
//!
//! **Runs on**: built by main, asked on the router's thread. **Owns**: the digests of all keys.
//! **Never**: holds a key in plain, prints a digest, or stops comparing at the first that fits.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use ara_shards::base::socket::PeerAddress;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

/// The most entries of `api.keys`: each is compared with every key that is shown, some 30 ns each.
pub const KEYS_MAX: usize = 1000;
/// The name of the single key, `api.key`, in logs.
pub const DEFAULT_KEY_NAME: &str = "default";

/// What a route asks of whoever calls it. None includes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To look at something.
    Read,
    /// To send notifications.
    Send,
    /// To change or end what is not the caller's own.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Send, Self::Admin];

    /// The word in configuration, refusals and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Send => "send",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope.
    #[must_use]
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// This set and one more.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether a scope is in the set.
    #[must_use]
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes in the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        scopes.into_iter().fold(Self::default(), Self::with)
    }
}

/// The SHA-256 of a key. To compare digests takes the same time whatever was shown.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigest([u8; SHA256_OUTPUT_LEN]);

impl KeyDigest {
    /// The digest of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        let digest = digest(&SHA256, key);
        Self(digest.as_ref().try_into().expect("SHA-256 has this length"))
    }

    /// The digest that 64 hexadecimal digits write.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
        let bytes: Vec<u8> = digits?
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect();
        let is_whole = text.len() == 2 * SHA256_OUTPUT_LEN;
        bytes.try_into().ok().filter(|_bytes| is_whole).map(Self)
    }

    /// The digest as 64 hexadecimal digits, for the configuration.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("redacted")
    }
}

/// 256 random bits in hexadecimal; `None` where the system has none.
#[must_use]
pub fn random_secret() -> Option<String> {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(KeyDigest(bytes).to_hex())
}

/// A key of the API, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What logs call it.
    pub name: Arc<str>,
    /// Its digest.
    pub digest: KeyDigest,
    /// What it may do.
    pub scopes: Scopes,
    /// The one tenant it acts for; `None` = any.
    pub tenant: Option<Arc<str>>,
    /// From then on it is refused.
    pub not_after: Option<SystemTime>,
}

impl Key {
    /// Whether its time is over.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.not_after.is_some_and(|not_after| now >= not_after)
    }
}

/// Why a key that was shown is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// There is no such key.
    Unknown,
    /// It is this one, and its time is over.
    Expired(Arc<Key>),
}

/// All keys.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Vec<Arc<Key>>);

impl Keyring {
    /// The single key (`api.key`), which may do everything, and those of `api.keys`.
    #[must_use]
    pub fn new(single: Option<&str>, keys: &[Key]) -> Self {
        let single = single.map(|key| Key {
            name: DEFAULT_KEY_NAME.into(),
            digest: KeyDigest::of(key.as_bytes()),
            scopes: Scopes::all(),
            tenant: None,
            not_after: None,
        });
        Self(single.into_iter().chain(keys.iter().cloned()).map(Arc::new).collect())
    }

    /// The key that was shown. Every key is compared, whichever fits.
    ///
    /// # Errors
    ///
    /// There is none of these bytes, or its time is over.
    pub fn find(&self, shown: &[u8], now: SystemTime) -> Result<Arc<Key>, KeyError> {
        let shown = KeyDigest::of(shown);
        let mut found = None;
        for key in &self.0 {
            if verify_slices_are_equal(&shown.0, &key.digest.0).is_ok() {
                found = Some(key);
            }
        }
        match found {
            None => Err(KeyError::Unknown),
            Some(key) if key.has_expired(now) => Err(KeyError::Expired(Arc::clone(key))),
            Some(key) => Ok(Arc::clone(key)),
        }
    }
}

/// Who sent a request: a key, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key that was shown and is valid.
    pub key: Arc<Key>,
    /// Where the caller connects from.
    pub peer: PeerAddress,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn key(name: &str, secret: &str, not_after: Option<SystemTime>) -> Key {
        let scopes = Scopes::default().with(Scope::Send);
        Key {
            name: name.into(),
            digest: KeyDigest::of(secret.as_bytes()),
            scopes,
            tenant: None,
            not_after,
        }
    }

    #[test]
    fn a_digest_is_what_sha256sum_prints() {
        // printf %s abc | sha256sum
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyDigest::of(b"abc").to_hex(), hex);
        assert_eq!(KeyDigest::from_hex(hex), Some(KeyDigest::of(b"abc")));
        assert_eq!(KeyDigest::from_hex(&hex.to_uppercase()), Some(KeyDigest::of(b"abc")));
        for bad in
            ["", &hex[1..], &hex[2..], &format!("{hex}00"), &hex.replace('b', "g"), &"é".repeat(32)]
        {
            assert_eq!(KeyDigest::from_hex(bad), None, "{bad}");
        }
        assert!(!format!("{:?}", key("a", "abc", None)).contains("ba78"));
    }

    #[test]
    fn every_key_is_found_by_its_own_secret_and_by_nothing_else() {
        let ring = Keyring::new(Some("single"), &[key("a", "one", None), key("b", "two", None)]);
        let name = |secret: &str| {
            ring.find(secret.as_bytes(), SystemTime::now()).map(|key| key.name.to_string())
        };
        assert_eq!(name("single").unwrap(), DEFAULT_KEY_NAME);
        assert_eq!((name("one").unwrap(), name("two").unwrap()), ("a".into(), "b".into()));
        for wrong in ["", "o", "one ", "ONE", "three"] {
            assert_eq!(name(wrong), Err(KeyError::Unknown), "{wrong}");
        }
        assert_eq!(Keyring::default().find(b"", SystemTime::now()), Err(KeyError::Unknown));
    }

    #[test]
    fn a_key_is_valid_until_its_time_and_not_from_then_on() {
        let at = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ring = Keyring::new(None, &[key("a", "one", Some(at))]);
        assert!(ring.find(b"one", at - Duration::from_nanos(1)).is_ok());
        for now in [at, at + Duration::from_secs(1)] {
            assert!(
                matches!(ring.find(b"one", now), Err(KeyError::Expired(key)) if &*key.name == "a")
            );
        }
        assert_eq!(
            ring.find(b"two", at),
            Err(KeyError::Unknown),
            "only who has the key hears of it"
        );
    }

    #[test]
    fn scopes_are_a_set_and_none_includes_another() {
        for scope in Scope::ALL {
            let alone = Scopes::default().with(scope).with(scope);
            assert_eq!(alone.iter().collect::<Vec<_>>(), [scope]);
            assert_eq!(Scope::of_name(scope.name()), Some(scope));
            assert!(Scopes::all().contains(scope) && !Scopes::default().contains(scope));
        }
        assert_eq!(Scope::of_name("Admin"), None);
        assert!(Scopes::default().is_empty() && !Scopes::all().is_empty());
    }
}
