//! Query strings: every parameter is understood or refused, so that a misspelt one is not as good
//! as none.
//!
//! **Runs on**: doors and router. **Owns**: nothing. **Never**: decodes what has no one meaning;
//! shows a value, which may be a token.

use std::borrow::Cow;

use http::Uri;
use percent_encoding::percent_decode_str;

use crate::refusal::Refusal;

/// Parameters that say nothing to a server: what clients and proxies add so that no cache answers
/// (`_` by jQuery; `t`, `nocache` by hand), and what `EventSource` polyfills ask of a server for
/// browsers of old (`r`, `padding`, `evs_preamble`). They may stand in any query, any number of times.
const IGNORED: [&str; 6] = ["_", "t", "r", "nocache", "padding", "evs_preamble"];
/// How much of an unknown name is shown.
const SHOWN_CHARS_MAX: usize = 64;

/// The parameters of one request, decoded.
#[derive(Debug)]
pub struct Query<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads the query of a request that takes the parameters `known`. Those of `lists` may come
    /// several times, all others once.
    ///
    /// # Errors
    ///
    /// A parameter is unknown, repeated or cannot be decoded; the refusal names it.
    pub fn parse(
        uri: &'a Uri,
        known: &[&'static str],
        lists: &[&'static str],
    ) -> Result<Self, Refusal> {
        let mut found = Self(Vec::new());
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode_form(name).map_err(|problem| {
                refuse(name, &format!("as a query parameter's name {problem}"))
            })?;
            if IGNORED.contains(&&*name) {
                continue;
            }
            let Some(known) = known.iter().copied().find(|known| *known == name) else {
                return Err(unknown(&name, uri.path(), known));
            };
            if found.get(known).is_some() && !lists.contains(&known) {
                return Err(refuse(known, "is in the query more than once"));
            }
            let value = decode_form(value)
                .map_err(|problem| refuse(known, &format!("in the query {problem}")))?;
            found.0.push((known, value));
        }
        Ok(found)
    }

    /// The value of a parameter; of a list, the first.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| *known == name).map(|(_, value)| &**value)
    }
}

/// Refuses every parameter: this path takes none.
///
/// # Errors
///
/// There is one.
pub fn refuse_all(uri: &Uri) -> Result<(), Refusal> {
    Query::parse(uri, &[], &[]).map(drop)
}

/// Undoes percent-encoding.
///
/// # Errors
///
/// A `%` is not followed by two hexadecimal digits, or the result is not UTF-8. The problem
/// continues a sentence that begins with the text's name.
pub fn decode(text: &str) -> Result<Cow<'_, str>, &'static str> {
    let mut escapes = text.split('%').skip(1);
    let is_escape = |rest: &str| {
        rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !escapes.all(is_escape) {
        return Err("has a `%` that is not followed by two hexadecimal digits: write it as `%25`");
    }
    percent_decode_str(text).decode_utf8().map_err(|_error| "is not percent-encoded UTF-8")
}

/// The same for what is encoded as forms are: there a plus is a space.
fn decode_form(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if !text.contains('+') {
        return decode(text);
    }
    let spaced = text.replace('+', " ");
    decode(&spaced).map(|decoded| Cow::Owned(decoded.into_owned()))
}

/// The longest name that is compared with the known ones.
const NEAREST_NAME_BYTES_MAX: usize = 32;

fn unknown(name: &str, path: &str, known: &[&'static str]) -> Refusal {
    // The distance costs the product of both lengths, and whoever asks may be anybody.
    let is_short = name.len() <= NEAREST_NAME_BYTES_MAX;
    let nearest = known
        .iter()
        .filter(|_known| is_short)
        .min_by_key(|known| strsim::damerau_levenshtein(name, known));
    let problem = match nearest {
        Some(nearest) => {
            format!("is not a query parameter of {path}; the nearest one is `{nearest}`")
        }
        None if known.is_empty() => {
            format!("is not a query parameter of {path}, which takes none")
        }
        None => format!("is not a query parameter of {path}"),
    };
    refuse(name, &problem)
}

fn refuse(name: &str, problem: &str) -> Refusal {
    let shown: String = name.chars().take(SHOWN_CHARS_MAX).collect();
    Refusal::field(&shown, format!("`{shown}` {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 2] = ["token", "channels"];

    fn parse(uri: &Uri) -> Result<Query<'_>, String> {
        Query::parse(uri, &KNOWN, &["channels"]).map_err(|refusal| refusal.message)
    }

    #[test]
    fn known_parameters_are_decoded_and_lists_keep_their_order() {
        let uri: Uri =
            "/sse?token=a%2Eb&channels=x,y&_=17&&channels=%C3%A9+z&t=1&t=2".parse().unwrap();
        let query = parse(&uri).unwrap();
        assert_eq!(query.get("token"), Some("a.b"));
        assert_eq!(query.all("channels").collect::<Vec<_>>(), ["x,y", "é z"]);
        assert!(parse(&"/sse".parse().unwrap()).unwrap().get("token").is_none());
        let uri: Uri = "/sse?".parse().unwrap();
        assert!(parse(&uri).is_ok());
    }

    #[test]
    fn a_parameter_that_is_unknown_repeated_or_not_decodable_is_named() {
        for (query, expected) in [
            (
                "chanels=a",
                "`chanels` is not a query parameter of /sse; the nearest one is `channels`",
            ),
            ("Token=a", "`Token` is not a query parameter of /sse; the nearest one is `token`"),
            ("token=a&token=a", "`token` is in the query more than once"),
            ("token=%FF", "`token` in the query is not percent-encoded UTF-8"),
            ("channels=%zz", "`channels` in the query has a `%`"),
            ("%FF=1", "`%FF` as a query parameter's name is not percent-encoded UTF-8"),
        ] {
            let uri: Uri = format!("/sse?{query}").parse().unwrap();
            let message = parse(&uri).unwrap_err();
            assert!(message.starts_with(expected), "{query}: {message}");
        }
        let refusal = refuse_all(&"/stats?limit=3".parse().unwrap()).unwrap_err();
        assert_eq!(refusal.message, "`limit` is not a query parameter of /stats, which takes none");
        assert!(refuse_all(&"/stats?_=3".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_text_is_decoded_to_what_it_says_or_not_at_all() {
        assert_eq!(decode("a%20b%C3%A9+").unwrap(), "a bé+");
        for bad in ["%FF", "%C3", "%", "%4", "%zz", "a%G1"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_unknown_name_is_refused_without_looking_for_its_nearest() {
        let uri = |length: usize| format!("/sse?{}=1", "q".repeat(length)).parse::<Uri>().unwrap();
        let at_bound = parse(&uri(NEAREST_NAME_BYTES_MAX)).unwrap_err();
        assert!(at_bound.contains("the nearest one"), "{at_bound}");
        for length in [NEAREST_NAME_BYTES_MAX + 1, 15_000] {
            let message = parse(&uri(length)).unwrap_err();
            assert!(message.ends_with("is not a query parameter of /sse"), "{message}");
        }
    }
}
