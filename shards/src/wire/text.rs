//! Text that has to fit.
//!
//! **Runs on**: any thread. **Owns**: nothing. **Never**: cuts inside a character: half of one is
//! not UTF-8, and what must be UTF-8 (a close reason, a log line) would be refused for it.

/// The beginning of a text, as many whole characters as fit into `bytes_max` bytes.
#[must_use]
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let fits = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=bytes_max.min(text.len())).rev().find(fits).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_many_whole_characters_as_fit(text in "[a-zäß€😀]{0,80}", bytes_max in 0_usize..200) {
            let shown = cut(&text, bytes_max);
            let mut expected = String::new();
            for character in text.chars() {
                if expected.len() + character.len_utf8() > bytes_max {
                    break;
                }
                expected.push(character);
            }
            prop_assert_eq!(shown, expected);
        }
    }
}
