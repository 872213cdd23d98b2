//! The door: who may come in.
//!
//! **Runs on**: router. **Owns**: nothing that changes. **Never**: touches a connection's state.

pub mod auth;
