//! Set-up: keys made for the run (and public ones made by openssl), tokens signed with them, and a
//! clock that is an argument.
//! Property: a token is accepted only with the configured algorithm and key, inside its time, with
//! claims within their bounds; a refusal names its class and nothing else.
//! Why it matters: this is the only thing between a stranger and another user's notifications.

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn base64(bytes: &[u8], url_safe: bool) -> String {
    let alphabet: Vec<char> = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .chain(if url_safe { ['-', '_'] } else { ['+', '/'] })
        .collect();
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0_u8; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for place in 0..=chunk.len() {
            text.push(alphabet[((bits >> (18 - 6 * place)) & 63) as usize]);
        }
        if !url_safe {
            text.push_str(&"=".repeat(3 - chunk.len()));
        }
    }
    text
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(der, false))
}

fn jwt(algorithm: Algorithm) -> Jwt {
    Jwt {
        expire_connections: true,
        cookie: None,
        previous_secret: None,
        algorithm,
        secret: None,
        public_key_pem: None,
        issuer: None,
        audience: None,
        leeway: Duration::from_secs(5),
    }
}

fn hmac(algorithm: Algorithm) -> Jwt {
    Jwt { secret: Some(SECRET.to_owned()), ..jwt(algorithm) }
}

fn hs256() -> Verifier {
    Verifier::new(&hmac(Algorithm::HS256)).unwrap()
}

/// A public key as PEM, and the private one as the library signs with it.
struct Pair {
    public: String,
    signing: EncodingKey,
}

fn rsa() -> Pair {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let private = pem("PRIVATE KEY", private.as_ref());
    Pair {
        public: pem("PUBLIC KEY", public.as_ref()),
        signing: EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
    }
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> Pair {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let private = pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
    Pair {
        public: pem("PUBLIC KEY", public.as_ref()),
        signing: EncodingKey::from_ec_pem(private.as_bytes()).unwrap(),
    }
}

fn ed() -> Pair {
    let pair = Ed25519KeyPair::generate().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let private = pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
    Pair {
        public: pem("PUBLIC KEY", public.as_ref()),
        signing: EncodingKey::from_ed_pem(private.as_bytes()).unwrap(),
    }
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
}

fn hs256_token(claims: &Value) -> String {
    sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn alice() -> Value {
    json!({ "sub": "alice", "exp": NOW + 60 })
}

/// The good claims with one more, or one other.
fn with(name: &str, value: Value) -> Value {
    let mut claims = alice();
    claims[name] = value;
    claims
}

fn verify(claims: &Value) -> Result<Identity, TokenError> {
    hs256().verify_at(&hs256_token(claims), NOW)
}

fn is_bad_claim(result: &Result<Identity, TokenError>) -> bool {
    matches!(result, Err(TokenError::BadClaim(_)))
}

#[test]
fn every_algorithm_accepts_its_own_tokens_and_no_others() {
    let (rsa, ed) = (rsa(), ed());
    let p256 = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let p384 = ec(&ECDSA_P384_SHA384_FIXED_SIGNING);
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let cases = [
        (Algorithm::HS256, &secret, None),
        (Algorithm::HS384, &secret, None),
        (Algorithm::HS512, &secret, None),
        (Algorithm::RS256, &rsa.signing, Some(&rsa.public)),
        (Algorithm::RS384, &rsa.signing, Some(&rsa.public)),
        (Algorithm::RS512, &rsa.signing, Some(&rsa.public)),
        (Algorithm::PS256, &rsa.signing, Some(&rsa.public)),
        (Algorithm::ES256, &p256.signing, Some(&p256.public)),
        (Algorithm::ES384, &p384.signing, Some(&p384.public)),
        (Algorithm::EdDSA, &ed.signing, Some(&ed.public)),
    ];
    for (algorithm, _, public) in &cases {
        let settings = match public {
            Some(public) => Jwt { public_key_pem: Some((*public).clone()), ..jwt(*algorithm) },
            None => hmac(*algorithm),
        };
        let verifier = Verifier::new(&settings).unwrap();
        for (other, key, _) in &cases {
            let result = verifier.verify_at(&sign(*other, key, &alice()), NOW);
            if other == algorithm {
                assert_eq!(result.unwrap().user.as_ref(), "alice", "{algorithm:?}");
            } else {
                assert_eq!(result, Err(TokenError::WrongAlgorithm), "{other:?} as {algorithm:?}");
            }
        }
    }
}

#[test]
fn another_key_of_the_same_algorithm_is_a_bad_signature() {
    for (algorithm, one, two) in [
        (Algorithm::RS256, rsa(), rsa()),
        (Algorithm::EdDSA, ed(), ed()),
        (
            Algorithm::ES256,
            ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
        ),
    ] {
        let settings = Jwt { public_key_pem: Some(one.public), ..jwt(algorithm) };
        let verifier = Verifier::new(&settings).unwrap();
        let token = sign(algorithm, &two.signing, &alice());
        assert_eq!(verifier.verify_at(&token, NOW), Err(TokenError::BadSignature));
    }
    let other = EncodingKey::from_secret(b"another secret of the same length");
    let token = sign(Algorithm::HS256, &other, &alice());
    assert_eq!(hs256().verify_at(&token, NOW), Err(TokenError::BadSignature));
}

#[test]
fn a_public_key_is_never_an_hmac_secret() {
    let pair = rsa();
    let settings = Jwt { public_key_pem: Some(pair.public.clone()), ..jwt(Algorithm::RS256) };
    let verifier = Verifier::new(&settings).unwrap();
    for secret in [pair.public.as_bytes(), pair.public.trim().as_bytes()] {
        let forged = sign(Algorithm::HS256, &EncodingKey::from_secret(secret), &alice());
        assert_eq!(verifier.verify_at(&forged, NOW), Err(TokenError::WrongAlgorithm));
    }
}

#[test]
fn tokens_made_by_openssl_are_accepted() {
    let key = include_str!("../../tests/fixtures/rsa2048.pub.pem");
    let pkcs1 = include_str!("../../tests/fixtures/rsa2048.pkcs1.pub.pem");
    for (algorithm, pem, token) in [
        (Algorithm::RS256, key, include_str!("../../tests/fixtures/rs256.jwt")),
        (Algorithm::RS256, pkcs1, include_str!("../../tests/fixtures/rs256.jwt")),
        (Algorithm::PS256, key, include_str!("../../tests/fixtures/ps256.jwt")),
    ] {
        let settings = Jwt { public_key_pem: Some(pem.to_owned()), ..jwt(algorithm) };
        let identity = Verifier::new(&settings).unwrap().verify_at(token.trim(), NOW).unwrap();
        assert_eq!((&*identity.user, identity.expires_at_unix_seconds), ("alice", 2_000_000_000));
    }
}

#[test]
fn a_key_that_cannot_verify_is_a_fault_of_the_configuration() {
    let rsa_key = include_str!("../../tests/fixtures/rsa2048.pub.pem").to_owned();
    let small = include_str!("../../tests/fixtures/rsa1024.pub.pem").to_owned();
    let (p256, p384) = (ec(&ECDSA_P256_SHA256_FIXED_SIGNING), ec(&ECDSA_P384_SHA384_FIXED_SIGNING));
    let garbage = pem("PUBLIC KEY", b"not a key");
    let private = rsa_key.replace("PUBLIC KEY", "PRIVATE KEY");
    let certificate = rsa_key.replace("PUBLIC KEY", "CERTIFICATE");
    for (algorithm, key) in [
        (Algorithm::RS256, small.clone()),
        (Algorithm::PS256, small),
        (Algorithm::RS256, p256.public.clone()),
        (Algorithm::ES256, p384.public),
        (Algorithm::ES384, p256.public.clone()),
        (Algorithm::ES256, ed().public),
        (Algorithm::EdDSA, p256.public),
        (Algorithm::EdDSA, rsa_key.clone()),
        (Algorithm::RS256, garbage),
        (Algorithm::RS256, private),
        (Algorithm::RS256, certificate),
        (Algorithm::RS256, format!("{rsa_key}{rsa_key}")),
        (Algorithm::RS256, String::new()),
    ] {
        let settings = Jwt { public_key_pem: Some(key), ..jwt(algorithm) };
        let fault = Verifier::new(&settings).unwrap_err();
        assert_eq!((&*fault.key, fault.env), ("jwt.public_key", Some("JWT_PUBLICKEY")), "{fault}");
    }
    assert_eq!(&*Verifier::new(&jwt(Algorithm::RS256)).unwrap_err().key, "jwt.public_key");
    assert_eq!(&*Verifier::new(&jwt(Algorithm::HS256)).unwrap_err().key, "jwt.secret");
    let empty = Jwt { secret: Some(String::new()), ..jwt(Algorithm::HS256) };
    assert_eq!(&*Verifier::new(&empty).unwrap_err().key, "jwt.secret");
}

#[test]
fn none_and_critical_extensions_are_refused() {
    let payload = base64(alice().to_string().as_bytes(), true);
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None","typ":"JWT"}"#,
        r#"{"alg":"HS1"}"#,
        r#"{"typ":"JWT"}"#,
    ] {
        for signature in ["", "AAAA"] {
            let token = format!("{}.{payload}.{signature}", base64(header.as_bytes(), true));
            assert_eq!(hs256().verify_at(&token, NOW), Err(TokenError::WrongAlgorithm), "{header}");
        }
    }
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::HS256) };
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&header, &alice(), &key).unwrap();
    assert_eq!(hs256().verify_at(&token, NOW), Err(TokenError::WrongAlgorithm));
}

#[test]
fn what_is_no_token_is_malformed_and_nothing_is_missing() {
    let good = hs256_token(&alice());
    let (head, signature) = good.rsplit_once('.').unwrap();
    let not_base64 = format!("{head}.{}", signature.replace(|_: char| true, "!"));
    let long = hs256_token(&with("padding", json!("x".repeat(TOKEN_BYTES_MAX))));
    let too_many = format!("{good}.x");
    for token in ["x", "..", "a.b", "a.b.c", "Bearer x", " ", &too_many, &not_base64, &long, head] {
        assert_eq!(hs256().verify_at(token, NOW), Err(TokenError::Malformed), "{token}");
    }
    assert_eq!(hs256().verify_at("", NOW), Err(TokenError::Missing));
    // A signature of nothing is a signature, and a wrong one.
    let unsigned = format!("{head}.");
    assert_eq!(hs256().verify_at(&unsigned, NOW), Err(TokenError::BadSignature));
    // Any flipped bit of the payload is found.
    let (header, payload) = head.split_once('.').unwrap();
    let other = base64(with("sub", json!("mallory")).to_string().as_bytes(), true);
    assert_ne!(payload, other);
    let forged = format!("{header}.{other}.{signature}");
    assert_eq!(hs256().verify_at(&forged, NOW), Err(TokenError::BadSignature));
}

#[test]
fn time_is_checked_with_leeway_on_both_ends() {
    let at = |claims: &Value, leeway, now| {
        let settings = Jwt { leeway: Duration::from_secs(leeway), ..hmac(Algorithm::HS256) };
        Verifier::new(&settings).unwrap().verify_at(&hs256_token(claims), now).map(|_| ())
    };
    let exp = json!({ "sub": "a", "exp": NOW });
    assert_eq!(at(&exp, 0, NOW - 1), Ok(()));
    assert_eq!(at(&exp, 0, NOW), Err(TokenError::Expired));
    assert_eq!(at(&exp, 5, NOW + 4), Ok(()));
    assert_eq!(at(&exp, 5, NOW + 5), Err(TokenError::Expired));
    let nbf = json!({ "sub": "a", "exp": NOW + 60, "nbf": NOW });
    assert_eq!(at(&nbf, 0, NOW), Ok(()));
    assert_eq!(at(&nbf, 0, NOW - 1), Err(TokenError::NotYetValid));
    assert_eq!(at(&nbf, 5, NOW - 5), Ok(()));
    assert_eq!(at(&nbf, 5, NOW - 6), Err(TokenError::NotYetValid));
    let forever = json!({ "sub": "a", "exp": u64::MAX });
    assert_eq!(at(&forever, 5, NOW), Ok(()));
    let fractional = json!({ "sub": "a", "exp": 1_800_000_060.75 });
    assert_eq!(verify(&fractional).unwrap().expires_at_unix_seconds, NOW + 60);
    // The clock of the system is used where none is given.
    assert_eq!(
        hs256().verify(&hs256_token(&json!({"sub": "a", "exp": 1}))),
        Err(TokenError::Expired)
    );
    assert!(hs256().verify(&hs256_token(&forever)).is_ok());
    // A time before 1970 is a time.
    for past in [json!(-1), json!(-0.5), json!(i64::MIN)] {
        assert_eq!(verify(&with("exp", past.clone())), Err(TokenError::Expired), "exp {past}");
        assert!(verify(&with("nbf", past.clone())).is_ok(), "nbf {past}");
    }
    for bad in [json!("1"), json!(null), json!(1e300), json!(true), json!([1])] {
        for name in ["exp", "nbf"] {
            let result = verify(&with(name, bad.clone()));
            if bad.is_null() {
                let needed = Err(TokenError::BadClaim("the token needs an exp claim"));
                assert!(name == "nbf" && result.is_ok() || result == needed, "{name} {result:?}");
            } else {
                let told = result.unwrap_err().to_string();
                assert_eq!(
                    told,
                    format!("the token's {name} claim is not a time in seconds since 1970")
                );
            }
        }
    }
    assert!(is_bad_claim(&verify(&json!({ "sub": "a" }))));
}

/// A token signed with the secret, whatever its header says.
fn signed(header: &str) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let payload = base64(alice().to_string().as_bytes(), true);
    let message = format!("{}.{payload}", base64(header.as_bytes(), true));
    let signature = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", base64(signature.as_ref(), true))
}

#[test]
fn a_header_is_refused_for_what_is_wrong_with_it() {
    let at = |header: &str| hs256().verify_at(&signed(header), NOW).map(|_| ());
    assert_eq!(at(r#"{"alg":"HS256","kid":"1","x5c":["AA=="],"extra":{"a":1}}"#), Ok(()));
    for header in [
        r#"{"alg":"HS256","kid":7}"#,
        r#"{"alg":"HS256","x5c":"AA=="}"#,
        r#"{"alg":"HS256","x5c":[1]}"#,
        r#"{"alg":"HS256","typ":{}}"#,
        r#"{"alg":"HS256","jwk":"none"}"#,
        r#"{"alg":"HS256","crit":"b64"}"#,
        r#"{"alg":"HS256","kid":"a","kid":"b"}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        // Its algorithm would be refused too, once the rest is right.
        r#"{"alg":"RS256","kid":7}"#,
    ] {
        assert_eq!(at(header), Err(TokenError::BadHeader), "{header}");
    }
    for header in [r#"{"alg":"HS1","kid":7}"#, r#"{"alg":7}"#, r#"{"kid":7}"#, "{}"] {
        assert_eq!(at(header), Err(TokenError::WrongAlgorithm), "{header}");
    }
    for header in ["[]", "7", "null", "\"HS256\"", "{", ""] {
        assert_eq!(at(header), Err(TokenError::Malformed), "{header}");
    }
}

#[test]
fn a_claim_of_the_wrong_type_is_named() {
    for (name, value) in [
        ("sub", json!(7)),
        ("sub", json!(["alice"])),
        ("tenant_id", json!(7)),
        ("roles", json!("admin")),
        ("roles", json!([1])),
        ("channels", json!("news")),
        ("channels", json!(null)),
        ("exp", json!({})),
    ] {
        let told = verify(&with(name, value.clone())).unwrap_err().to_string();
        assert!(told.contains(&format!("{name} claim")), "{name} {value}: {told}");
    }
    for absent in ["tenant_id", "roles", "nbf"] {
        assert!(verify(&with(absent, json!(null))).is_ok(), "{absent}");
    }
}

#[test]
fn issuer_and_audience_are_checked_only_when_configured() {
    let settings = Jwt {
        issuer: Some("https://id.example.org".to_owned()),
        audience: Some("ara".to_owned()),
        ..hmac(Algorithm::HS256)
    };
    let verifier = Verifier::new(&settings).unwrap();
    let check = |iss: Value, aud: Value| {
        let claims = json!({ "sub": "a", "exp": NOW + 60, "iss": iss, "aud": aud });
        verifier.verify_at(&hs256_token(&claims), NOW).map(|_| ())
    };
    let iss = || json!("https://id.example.org");
    assert_eq!(check(iss(), json!("ara")), Ok(()));
    assert_eq!(check(iss(), json!(["other", "ara"])), Ok(()));
    for aud in [json!("other"), json!(["other"]), json!([]), json!(null), json!({"ara": 1})] {
        assert_eq!(check(iss(), aud), Err(TokenError::WrongAudience));
    }
    for other in [json!("https://id.example.org/"), json!(null), json!([iss()]), json!(1)] {
        assert_eq!(check(other, json!("ara")), Err(TokenError::WrongIssuer));
    }
    assert_eq!(verifier.verify_at(&hs256_token(&alice()), NOW), Err(TokenError::WrongIssuer));
    assert!(verify(&json!({ "sub": "a", "exp": NOW + 60, "iss": 1, "aud": ["x"] })).is_ok());
}

#[test]
fn the_identity_is_what_the_claims_say() {
    let identity = verify(&json!({
        "sub": "Ålice 1", "exp": NOW + 60, "iat": NOW, "tenant_id": "acme.eu-1_x",
        "roles": ["admin", "ops"], "channels": ["news", "orders.*"], "unknown": { "x": 1 },
    }));
    let texts = |list: &[&str]| list.iter().map(|text| Box::from(*text)).collect::<Box<[_]>>();
    assert_eq!(
        identity,
        Ok(Identity {
            user: Box::from("Ålice 1"),
            tenant: Some(Box::from("acme.eu-1_x")),
            roles: texts(&["admin", "ops"]),
            channels: Some(texts(&["news", "orders.*"])),
            expires_at_unix_seconds: NOW + 60,
        })
    );
    let bare = verify(&alice()).unwrap();
    assert!(bare.tenant.is_none() && bare.roles.is_empty() && bare.channels.is_none());
    let none = verify(&with("channels", json!([]))).unwrap();
    assert_eq!(none.channels.map(|channels| channels.len()), Some(0), "none is not all");
}

#[test]
fn claims_have_bounds() {
    let good = [
        ("sub", json!("x".repeat(names::USER_BYTES_MAX))),
        ("tenant_id", json!("x".repeat(64))),
        ("roles", json!(vec!["r".repeat(64); 64])),
        ("channels", json!(vec!["c"; 256])),
        ("channels", json!([format!("{}.*", "c".repeat(64))])),
    ];
    for (name, value) in good {
        assert!(verify(&with(name, value.clone())).is_ok(), "{name} {value}");
    }
    let bad = [
        ("sub", json!("")),
        ("sub", json!(" \u{3000}")),
        ("sub", json!("a\nb")),
        ("sub", json!("a\u{0}")),
        ("sub", json!("x".repeat(names::USER_BYTES_MAX + 1))),
        ("sub", json!("é".repeat(65))),
        ("sub", json!(7)),
        ("sub", json!(null)),
        ("tenant_id", json!("")),
        ("tenant_id", json!("a b")),
        ("tenant_id", json!("x".repeat(65))),
        ("tenant_id", json!(1)),
        ("roles", json!(vec!["r"; 65])),
        ("roles", json!(["r".repeat(65)])),
        ("roles", json!("admin")),
        ("channels", json!(vec!["c"; 257])),
        ("channels", json!(["*"])),
        ("channels", json!([".*"])),
        ("channels", json!(["a*"])),
        ("channels", json!(["a.*.b"])),
        ("channels", json!(["a b"])),
        ("channels", json!([""])),
        ("channels", json!("news")),
        ("channels", json!(null)),
    ];
    for (name, value) in bad {
        let result = verify(&with(name, value.clone()));
        assert!(is_bad_claim(&result), "{name} {value}: {result:?}");
    }
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    for list in [json!([1, 2]), json!(["alice", NOW + 60, null, null, null, null, null, []])] {
        let token = jsonwebtoken::encode(&Header::default(), &list, &key).unwrap();
        assert!(is_bad_claim(&hs256().verify_at(&token, NOW)), "{list}");
    }
}

#[test]
fn a_refusal_tells_the_class_and_nothing_of_the_token() {
    let token = hs256_token(&with("sub", json!("very-private\n")));
    let refusal = hs256().verify_at(&token, NOW).unwrap_err();
    let told = format!("{refusal} {refusal:?} {}", refusal.label());
    assert!(!told.contains("private") && !told.contains(&token[..10]), "{told}");
    assert_eq!(format!("{:?}", hs256()), "Verifier { redacted }");
    assert!(!format!("{:?}", hmac(Algorithm::HS256)).contains(SECRET));
}

#[test]
fn tokens_of_the_secret_before_are_taken_while_it_is_configured() {
    const BEFORE: &str = "the-secret-of-before-0123456789-abcdef";
    let rotated = Jwt { previous_secret: Some(BEFORE.to_owned()), ..hmac(Algorithm::HS256) };
    let claims = json!({ "sub": "ann", "exp": 2_000 });
    let signed = |secret: &str| {
        sign(Algorithm::HS256, &EncodingKey::from_secret(secret.as_bytes()), &claims)
    };
    let verifier = Verifier::new(&rotated).unwrap();
    for secret in [SECRET, BEFORE] {
        assert!(verifier.verify_at(&signed(secret), 1_000).is_ok(), "{secret}");
    }
    let stranger = signed("a-third-secret-0123456789-0123456789");
    assert_eq!(verifier.verify_at(&stranger, 1_000), Err(TokenError::BadSignature));
    assert_eq!(verifier.verify_at(&signed(BEFORE), 9_000), Err(TokenError::Expired));
    assert_eq!(hs256().verify_at(&signed(BEFORE), 1_000), Err(TokenError::BadSignature));
}
