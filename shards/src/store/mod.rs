//! Where queued messages are kept beyond the memory of the process.
//!
//! **Runs on**: a shard. **Owns**: nothing itself. **Never**: waits for the disk.

pub mod disk;
