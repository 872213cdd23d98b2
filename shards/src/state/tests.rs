//! Properties of the state, in virtual time.
