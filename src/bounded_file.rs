//! Files that a person names in the configuration: read whole, up to a bound, since the path may
//! lead to a device or to something far too large.
//!
//! **Runs on**: main for the configuration, the router for the files of Redis TLS. **Owns**: nothing.
//! **Never**: puts what a file holds into a message.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of the file, at most `bytes_max`.
///
/// # Errors
///
/// Says in words why not, to be read after the file's name. It quotes nothing of the contents,
/// which may hold secrets.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > bytes_max) {
        return Err(format!("is larger than {bytes_max} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::read_bounded;

    #[test]
    fn a_file_of_the_bound_is_read_and_one_byte_more_is_refused() {
        let path = std::env::temp_dir().join(format!("ara-bounded-file-{}", std::process::id()));
        std::fs::write(&path, b"12345").expect("the temporary directory can be written");
        let (whole, beyond) = (read_bounded(&path, 5), read_bounded(&path, 4));
        std::fs::remove_file(&path).expect("it was written");
        assert_eq!(whole, Ok(b"12345".to_vec()));
        assert_eq!(beyond, Err("is larger than 4 bytes".to_owned()));
    }
}
