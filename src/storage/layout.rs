//! The layout file: a few lines of text, replaced as a whole.
//!
//! **Runs on**: main. **Owns**: one file. **Never**: is half written: a new one is synced under
//! another name first, and then takes the old one's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use ara_shards::base::placement::Placement;
use serde::{Deserialize, Serialize};

/// The version of the format.
const VERSION: u32 = 1;

/// Which generation counts, and what chooses among its shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    version: u32,
    pub(super) generation: u64,
    pub(super) shards: usize,
    /// The keys of the placement's hash, in hex. They are secret: who knows them can choose user
    /// ids that share a shard.
    seeds: String,
    /// What this hash gives for a fixed name: another processor or version may hash differently.
    probe: String,
}

impl Layout {
    /// The layout of an empty directory.
    pub(super) fn first(shards: usize) -> Self {
        Self::new(1, shards, Placement::random_seeds())
    }

    /// The layout after this one.
    pub(super) fn next(&self, shards: usize) -> Self {
        Self::new(self.generation.saturating_add(1), shards, self.seeds())
    }

    fn new(generation: u64, shards: usize, seeds: [u64; 4]) -> Self {
        let words = seeds.map(|seed| format!("{seed:016x}"));
        let mut layout = Self {
            version: VERSION,
            generation,
            shards,
            seeds: words.concat(),
            probe: String::new(),
        };
        layout.probe = layout.probe_now();
        layout
    }

    /// Whether this run finds everybody at home.
    pub(super) fn serves(&self, shards: usize) -> bool {
        self.shards == shards && self.probe == self.probe_now()
    }

    pub(super) fn placement(&self) -> Placement {
        Placement::with_seeds(self.shards, self.seeds())
    }

    fn probe_now(&self) -> String {
        format!("{:016x}", self.placement().hash("tenant", "user").0)
    }

    fn seeds(&self) -> [u64; 4] {
        let mut seeds = [0; 4];
        for (seed, at) in seeds.iter_mut().zip((0..).step_by(16)) {
            let word = self.seeds.get(at..at + 16).unwrap_or_default();
            *seed = u64::from_str_radix(word, 16).unwrap_or_default();
        }
        seeds
    }

    /// Reads the file; `None` without one.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let layout: Self = toml::from_str(&text)
            .map_err(|error| invalid(format!("{}: {}", path.display(), error.message())))?;
        if layout.version != VERSION {
            let (path, version) = (path.display(), layout.version);
            return Err(invalid(format!("{path}: version {version} is not of this program")));
        }
        if layout.shards == 0 || layout.seeds.len() != 64 {
            return Err(invalid(format!("{}: not as this program writes it", path.display())));
        }
        Ok(Some(layout))
    }

    /// Replaces the file.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let draft = path.with_extension("new");
        let mut file = File::create(&draft)?;
        restrict(&file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

/// The seeds are for this user's eyes only.
fn restrict(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o600))
}
