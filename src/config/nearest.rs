//! Finds the known key that a misspelt one most likely stands for.
//!
//! **Runs on**: main, before anything is started. **Owns**: nothing. **Never**: decides: the
//! result is only named in a message.

use super::keys::{CONFIG_PATH_ENV, KEYS, Key, LATER};

/// The key whose name is nearest to an unknown one.
///
/// A key written in the wrong section, at the top of the file, or under its environment name is
/// nearer than any misspelling.
pub(super) fn nearest(unknown: &str) -> Option<&'static Key> {
    KEYS.iter().copied().min_by_key(|key| distance(unknown, key))
}

/// Whether the environment name is one this program knows, available yet or not.
pub(super) fn is_own(name: &str) -> bool {
    name == CONFIG_PATH_ENV
        || KEYS.iter().any(|key| key.env == name)
        || LATER.iter().any(|later| later.env.contains(&name))
}

/// The environment name that an unknown one most likely misspells: two edits at most, and in a
/// short name only underscores and case, so that names of other programs are not reported.
pub(super) fn near_miss(name: &str) -> Option<&'static str> {
    if is_own(name) {
        return None;
    }
    let upper = name.to_ascii_uppercase();
    let edits = |known: &'static str| match known.len() {
        ..=8 if upper.replace('_', "") == known.replace('_', "") => Some((1, known)),
        ..=8 => None,
        _ => Some((strsim::damerau_levenshtein(&upper, known), known)),
    };
    let nearest = KEYS.iter().filter_map(|key| edits(key.env)).min_by_key(|(edits, _)| *edits);
    nearest.filter(|(edits, _)| *edits <= 2).map(|(_, known)| known)
}

fn distance(unknown: &str, key: &Key) -> usize {
    let unknown = unknown.to_ascii_lowercase();
    let leaf = unknown.rsplit_once('.').map_or(unknown.as_str(), |(_, leaf)| leaf);
    let whole = strsim::damerau_levenshtein(&unknown, key.name);
    let as_env = strsim::damerau_levenshtein(leaf, &key.env.to_ascii_lowercase());
    // The right name in the wrong section counts as one edit; among equals the section decides.
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

    #[test]
    fn a_slip_is_told_from_another_programs_name() {
        for (name, known) in [
            ("JWT_PUBLIC_KEY", "JWT_PUBLICKEY"),
            ("SERVER_PROT", "SERVER_PORT"),
            ("CORS_ORIGIN", "CORS_ORIGINS"),
            ("APIKEY", "API_KEY"),
            ("server_port", "SERVER_PORT"),
            ("QUEUE_ENABLE", "QUEUE_ENABLED"),
        ] {
            assert_eq!(near_miss(name), Some(known), "{name}");
        }
        for name in [
            "SERVER_PORT",
            "ARA_CONFIG",
            "SERVER_TLS_CERT",
            "PORT",
            "HOST",
            "PATH",
            "API_URL",
            "DB_PORT",
            "REDIS_PORT",
            "REDIS_HOST",
            "SERVER_PORT_8081_TCP",
            "SERVER_SERVICE_HOST",
            "NODE_ENV",
            "LOG_LEVEL",
            "RUST_BACKTRACE",
            "JWT_KEY",
            "SECRET_KEY",
            "APP_KEY",
        ] {
            assert_eq!(near_miss(name), None, "{name}");
        }
    }
}
