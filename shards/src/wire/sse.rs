//! Server-sent events (WHATWG HTML, section 9.2 "Server-sent events"), and the chunk of an HTTP/1.1
//! response (RFC 9112, section 7.1) that one travels in.
//!
//! **Runs on**: the router (notifications) and a shard (the rest). **Owns**: nothing.
//! **Never**: puts a line break into a field: data with line breaks becomes several `data:` lines;
//! writes a block without data, which several client libraries hand on as an empty message.
//!
//! An HTTP/1.0 reader, who knows no chunks, is written the event as it is.

use crate::base::id::NotificationId;

/// What ends a chunked body: a chunk of no length, and no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// One complete event: optional id, name, data, and the blank line that ends it.
#[must_use]
pub fn event(name: &str, id: Option<NotificationId>, data: &[u8]) -> Box<[u8]> {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    event_behind(&id, name, data)
}

/// An event that also sets the client's reconnection time (`retry:`, milliseconds).
#[must_use]
pub fn event_with_retry(name: &str, data: &[u8], retry_ms: u32) -> Box<[u8]> {
    event_behind(&format!("retry: {retry_ms}\n"), name, data)
}

/// The chunk of a response that holds these bytes.
#[must_use]
pub fn chunk(bytes: &[u8]) -> Box<[u8]> {
    let size = format!("{:x}\r\n", bytes.len());
    [size.as_bytes(), bytes, b"\r\n"].concat().into_boxed_slice()
}

/// An event whose first lines are given.
fn event_behind(first_lines: &str, name: &str, data: &[u8]) -> Box<[u8]> {
    let mut event = Vec::with_capacity(first_lines.len() + name.len() + data.len() + 32);
    event.extend_from_slice(first_lines.as_bytes());
    event.extend_from_slice(b"event: ");
    event.extend_from_slice(name.as_bytes());
    event.push(b'\n');
    push_data(&mut event, data);
    event.push(b'\n');
    event.into_boxed_slice()
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
        assert_eq!(
            text(&event_with_retry("connected", b"{}", 3000)),
            "retry: 3000\nevent: connected\ndata: {}\n\n"
        );
    }

    #[test]
    fn a_chunk_says_its_length_in_hexadecimal() {
        assert_eq!(text(&chunk(&event("e", None, b"{}"))), "13\r\nevent: e\ndata: {}\n\n\r\n");
        for length in [0, 1, 200, 5_000, 70_000] {
            let event = event("e", None, &vec![b'x'; length]);
            let chunk = chunk(&event);
            let (size, rest) = text(&chunk).split_once("\r\n").unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            assert_eq!(rest.len(), size + 2);
            assert_eq!(rest.as_bytes(), [&event, &b"\r\n"[..]].concat());
        }
    }

    #[test]
    fn line_breaks_in_data_cannot_end_the_event() {
        assert_eq!(
            text(&event("message", None, b"{\n\r\n\"a\":\r1}")),
            "event: message\ndata: {\ndata: \ndata: \"a\":\ndata: 1}\n\n"
        );
    }
}
