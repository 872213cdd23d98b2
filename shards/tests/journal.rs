//! The journal keeps what it has committed, whatever happens to its process, disk or files.
//!
//! Set-up: an owner as small as can be, on real directories and on files in memory that forget
//! what was not synced, fill up and fail on demand. Why it matters: a notification that was
//! answered with "stored" must outlive anything, and a full or dying disk must be told, not hidden.

#[cfg(test)]
#[path = "journal"]
mod journal {
    mod damage;
    mod disk;
    mod faults;
    mod kill;
    mod memory;
    mod model;
    mod owner;
    mod reserve;
}
