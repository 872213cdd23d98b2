//! Set-up: layers given as maps and files of a throw-away directory.
