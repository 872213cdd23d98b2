//! Server-sent events, without sockets: finds one event at the front of a byte slice, and writes
//! one for the stand-in server.

use memchr::memmem;

#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Event<'a> {
    pub(crate) name: &'a [u8],
    /// The last `data:` line; the gateway's JSON never spans two.
    pub(crate) data: &'a [u8],
}

/// The event at the front of `input` and its length; `None` while it is not complete. Comments and
/// `retry:` lines come out as an event without a name.
pub(crate) fn read(input: &[u8]) -> Option<(Event<'_>, usize)> {
    let end = memmem::find(input, b"\n\n")?;
    let mut event = Event::default();
    for line in input.get(..end)?.split(|&byte| byte == b'\n') {
        if let Some(name) = line.strip_prefix(b"event:") {
            event.name = name.trim_ascii();
        } else if let Some(data) = line.strip_prefix(b"data:") {
            event.data = data.trim_ascii();
        }
    }
    Some((event, end + 2))
}

pub(crate) fn write(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_after_a_retry_line() {
        let mut wire = b"retry: 3000\n\n".to_vec();
        write(&mut wire, "connected", b"{}");
        let (first, used) = read(&wire).expect("an event");
        assert_eq!((first, used), (Event::default(), 13));
        let rest = wire.get(used..).expect("a rest");
        let (second, used) = read(rest).expect("an event");
        assert_eq!(second, Event { name: b"connected", data: b"{}" });
        assert_eq!(used, rest.len());
        assert_eq!(read(b"event: x\ndata: {}\n"), None);
    }
}
