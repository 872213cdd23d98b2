//! Server-sent events (WHATWG HTML, section 9.2 "Server-sent events").
//!
//! **Runs on**: the router (notifications) and a shard (the rest). **Owns**: nothing.
//! **Never**: puts a line break into a field: data with line breaks becomes several `data:` lines.

use crate::id::NotificationId;

/// One complete event: name, optional id, data, and the blank line that ends it.
#[must_use]
pub fn event(name: &str, id: Option<NotificationId>, data: &[u8]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(data.len() + name.len() + 64);
    if let Some(id) = id {
        bytes.extend_from_slice(b"id: ");
        bytes.extend_from_slice(id.to_string().as_bytes());
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(b"event: ");
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'\n');
    push_data(&mut bytes, data);
    bytes.push(b'\n');
    bytes.into_boxed_slice()
}

/// An event that also sets the client's reconnection time (`retry:`, milliseconds).
#[must_use]
pub fn event_with_retry(name: &str, data: &[u8], retry_ms: u64) -> Box<[u8]> {
    let mut bytes = format!("retry: {retry_ms}\n").into_bytes();
    bytes.extend_from_slice(&event(name, None, data));
    bytes.into_boxed_slice()
}

/// Writes `data` as `data:` lines. CR, LF and CRLF all end a line for the reader, so each starts
/// a new one here; the reader joins them with LF. In JSON that is white space between tokens.
fn push_data(bytes: &mut Vec<u8>, data: &[u8]) {
    let mut rest = data;
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let (line, after) = end.map_or((rest, None), |at| {
            let (line, tail) = rest.split_at(at);
            let skip = if tail.starts_with(b"\r\n") { 2 } else { 1 };
            (line, tail.get(skip..))
        });
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        match after {
            Some(tail) => rest = tail,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_has_id_name_data_and_a_blank_line() {
        let id = NotificationId([0xAB; 16]);
        assert_eq!(
            text(&event("notification", Some(id), b"{}")),
            "id: abababab-abab-abab-abab-abababababab\nevent: notification\ndata: {}\n\n"
        );
    }

    #[test]
    fn line_breaks_in_data_cannot_end_the_event() {
        assert_eq!(
            text(&event("message", None, b"{\n\r\n\"a\":\r1}")),
            "event: message\ndata: {\ndata: \ndata: \"a\":\ndata: 1}\n\n"
        );
    }
}
