//! The journal keeps what it has committed, whatever happens to its process, disk or files.
//!
//! Set-up: a minimal owner, on real directories and on files in memory that lose what was not
//! synced, fill up and fail on demand. Why it matters: a notification that was answered with
//! "stored" must survive, and a full or failing disk must be reported, not hidden.

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
