//! The known key a misspelt one most likely means.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing. **Never**: accepts a guess.

use super::keys::{KEYS, Key};

/// The key whose name is nearest to an unknown one.
///
/// A key written in the wrong section, at the top of the file, or under its environment name is
/// nearer than any misspelling.
pub(super) fn nearest(unknown: &str) -> Option<&'static Key> {
    KEYS.iter().copied().min_by_key(|key| distance(unknown, key))
}

fn distance(unknown: &str, key: &Key) -> usize {
    let unknown = unknown.to_ascii_lowercase();
    let leaf = unknown.rsplit_once('.').map_or(unknown.as_str(), |(_, leaf)| leaf);
    let whole = strsim::damerau_levenshtein(&unknown, key.name);
    let as_env = strsim::damerau_levenshtein(leaf, &key.env.to_ascii_lowercase());
    // The right name in the wrong place costs one edit, and the place breaks the tie below.
    let by_leaf = strsim::damerau_levenshtein(leaf, key.leaf()) + 1;
    let edits = whole.min(as_env).min(by_leaf);
    edits * 1024 + whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_a_person_would_mean() {
        for (unknown, expected) in [
            ("server.prot", "server.port"),
            ("serverr.port", "server.port"),
            ("port", "server.port"),
            ("SERVER_PORT", "server.port"),
            ("server.max_conections_per_user", "server.max_connections_per_user"),
            ("websocket.max_connections", "server.max_connections"),
            ("shard.count", "shards.count"),
            ("jwt.publickey", "jwt.public_key"),
            ("redis.URL", "redis.url"),
            ("mode", "run_mode"),
            ("cors_origin", "server.cors_origins"),
            ("api.secret", "jwt.secret"),
        ] {
            assert_eq!(nearest(unknown).map(|key| key.name), Some(expected), "{unknown}");
        }
    }
}
