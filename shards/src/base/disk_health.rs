//! What a shard says of its disk: to the router at each change, and in its snapshot.
//!
//! **Runs on**: any thread (a plain value). **Owns**: nothing. **Never**: touches a disk.

/// Whether messages can be kept on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskHealth {
    /// As far as known.
    #[default]
    Sound,
    /// Not now: more waits to be written than may.
    Behind,
    /// Not before others leave: as much is kept as the configuration allows.
    Limit,
    /// No: the file system is full. Tried again every second.
    Full,
    /// No: it cannot be written. Tried again after 1 to 30 s.
    Failed,
}
