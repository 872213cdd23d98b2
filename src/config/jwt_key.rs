//! The key client tokens are verified with, made from settings and checked against the algorithm.
//!
//! **Runs on**: main, once to check the configuration and once to build the verifier.
//! **Owns**: nothing. **Never**: accepts a private key or a certificate in a public key's place.

use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey};

use super::error::{Fault, Origin};
use super::keys::{JWT_PUBLIC_KEY, JWT_SECRET, Key};
use super::layers::read_text_file;
use crate::settings::Jwt;

/// What a value of `jwt.public_key` stands for: the PEM text itself, or that of the file it names.
pub(super) fn resolve_pem(value: &str, directory: &Path) -> Result<String, String> {
    let pem = if value.contains("-----BEGIN") {
        value.to_owned()
    } else {
        // The message does not repeat the path: it may be a key whose first line is missing.
        let read = read_text_file(&directory.join(value));
        read.map_err(|problem| {
            format!("the value is no PEM text, and as a path the file {problem}")
        })?
    };
    check_label(&pem).map(|()| pem)
}

fn check_label(pem: &str) -> Result<(), String> {
    let labels: Vec<&str> = pem
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    match labels.as_slice() {
        ["PUBLIC KEY" | "RSA PUBLIC KEY"] => Ok(()),
        ["CERTIFICATE"] => Err("it is a certificate; extract its public key with: \
                                openssl x509 -in cert.pem -pubkey -noout"
            .to_owned()),
        [label] if label.ends_with("PRIVATE KEY") => Err("it is a private key, which the gateway \
                                                          must not have; extract the public one \
                                                          with: openssl pkey -in key.pem -pubout"
            .to_owned()),
        [] => Err("there is no PEM block in it".to_owned()),
        [_] => Err("its PEM block is not a public key".to_owned()),
        _ => Err("there is more than one PEM block in it".to_owned()),
    }
}

/// The verification key, once it is certain that it fits the algorithm.
pub(crate) fn decoding_key(jwt: &Jwt) -> Result<DecodingKey, Fault> {
    if jwt.is_hmac() {
        let secret = jwt.secret.as_deref().filter(|secret| !secret.is_empty());
        return match secret {
            Some(secret) => Ok(DecodingKey::from_secret(secret.as_bytes())),
            None => Err(fault(&JWT_SECRET, "the algorithm needs a secret, and there is none")),
        };
    }
    let Some(pem) = &jwt.public_key_pem else {
        let problem = format!("{:?} needs a public key, and there is none", jwt.algorithm);
        return Err(fault(&JWT_PUBLIC_KEY, &problem));
    };
    check_label(pem).map_err(|problem| fault(&JWT_PUBLIC_KEY, &problem))?;
    public_key(jwt.algorithm, pem.as_bytes()).map_err(|needed| {
        let problem = format!("it is not what {:?} needs: {needed}", jwt.algorithm);
        fault(&JWT_PUBLIC_KEY, &problem)
    })
}

fn public_key(algorithm: Algorithm, pem: &[u8]) -> Result<DecodingKey, &'static str> {
    const RSA: &str = "an RSA key of 2048 to 8192 bits";
    const P256: &str = "an EC key on the curve P-256";
    const P384: &str = "an EC key on the curve P-384";
    const ED25519: &str = "an Ed25519 key";
    let (read, check, needed): (_, &'static dyn VerificationAlgorithm, _) = match algorithm {
        Algorithm::ES256 => {
            (DecodingKey::from_ec_pem(pem), &signature::ECDSA_P256_SHA256_FIXED, P256)
        }
        Algorithm::ES384 => {
            (DecodingKey::from_ec_pem(pem), &signature::ECDSA_P384_SHA384_FIXED, P384)
        }
        Algorithm::EdDSA => (DecodingKey::from_ed_pem(pem), &signature::ED25519, ED25519),
        _ => (DecodingKey::from_rsa_pem(pem), &signature::RSA_PKCS1_2048_8192_SHA256, RSA),
    };
    let key = read.ok().ok_or(needed)?;
    // Reading the PEM checks its outer form only. Verifying something with the key shows now, and
    // not at the first client, whether the key is usable.
    let bytes = key.try_get_as_bytes().ok().ok_or(needed)?;
    let parsed = ParsedPublicKey::new(check, bytes).ok().ok_or(needed)?;
    if needed == RSA {
        let der: PublicKeyX509Der<'_> = parsed.as_der().ok().ok_or(needed)?;
        let rsa = PublicEncryptingKey::from_der(der.as_ref()).ok().ok_or(needed)?;
        if !(2048..=8192).contains(&rsa.key_size_bits()) {
            return Err(needed);
        }
    }
    Ok(key)
}

fn fault(key: &Key, problem: &str) -> Fault {
    Fault {
        key: key.name.into(),
        env: Some(key.env),
        origin: Origin::Default,
        problem: problem.to_owned(),
        allowed: key.form.allowed(),
        fix: format!("set {} (or {}), or another jwt.algorithm", key.name, key.env),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{load, raw::Sources};
    use super::*;

    const KEY: &str = include_str!("../../tests/fixtures/rsa2048.pub.pem");

    /// Loads with these variables, from the directory of the fixtures.
    fn with(environment: &[(&str, &str)]) -> Result<Jwt, Vec<Fault>> {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures").into();
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        let loaded = load(&Sources { config: None, directory, environment });
        loaded.map(|loaded| loaded.settings.jwt).map_err(|faults| faults.list)
    }

    #[test]
    fn a_key_may_be_text_on_one_line_or_several_or_a_path() {
        let one_line = KEY.trim_end().replace('\n', "\\n");
        for value in [KEY, &one_line, "rsa2048.pub.pem"] {
            let jwt = with(&[("JWT_ALGORITHM", "RS256"), ("JWT_PUBLICKEY", value)]).unwrap();
            assert_eq!(jwt.public_key_pem.as_deref().map(str::trim), Some(KEY.trim()), "{value}");
            assert!(jwt.secret.is_none());
        }
        let production = [
            ("RUN_MODE", "production"),
            ("JWT_ALGORITHM", "PS256"),
            ("JWT_PUBLICKEY", "rsa2048.pkcs1.pub.pem"),
            ("API_KEY", "0123456789abcdef"),
            ("CORS_ORIGINS", "https://a.org"),
        ];
        assert!(with(&production).is_ok(), "a public key is as good as a secret");
    }

    #[test]
    fn a_key_that_is_missing_or_does_not_fit_is_a_fault() {
        for (algorithm, key, problem) in [
            ("RS256", "", "there is none"),
            ("EdDSA", "", "there is none"),
            ("RS256", "rsa1024.pub.pem", "2048 to 8192 bits"),
            ("ES256", "rsa2048.pub.pem", "P-256"),
            ("EdDSA", "rsa2048.pub.pem", "Ed25519"),
            ("RS256", "absent.pem", "cannot be opened"),
            ("RS256", "rs256.jwt", "no PEM block"),
            ("RS256", "-----BEGIN RSA PRIVATE KEY-----\\nAA==", "private key"),
            ("RS256", "-----BEGIN CERTIFICATE-----\\nAA==", "openssl x509"),
            ("HS256", "-----BEGIN PRIVATE KEY-----\\nAA==", "private key"),
        ] {
            let list = with(&[("JWT_ALGORITHM", algorithm), ("JWT_PUBLICKEY", key)]).unwrap_err();
            assert_eq!((list.len(), &*list[0].key), (1, "jwt.public_key"), "{list:?}");
            assert!(list[0].problem.contains(problem), "{}", list[0]);
        }
        // With a public key but no matching algorithm, the algorithm was more likely forgotten.
        let list = with(&[("JWT_PUBLICKEY", KEY)]).unwrap_err();
        assert_eq!((list.len(), &*list[0].key), (1, "jwt.algorithm"), "{list:?}");
    }
}
