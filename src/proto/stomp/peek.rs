//! A look at a frame that is not taken yet.

use std::borrow::Cow;

use super::Headers;

/// The destination of the SEND that begins `input`, escapes resolved; none when it begins otherwise, or
/// when so much of it has not come yet. Nothing is checked that the decoder checks.
#[must_use]
pub fn send_destination(input: &[u8]) -> Option<Cow<'_, [u8]>> {
    send_header(input, b"destination").map(Headers::unescaped)
}

/// The receipt that the SEND that begins `input` asks for, as it is spelled there; none as above, or when
/// it asks for none.
#[must_use]
pub fn send_receipt(input: &[u8]) -> Option<&[u8]> {
    send_header(input, b"receipt")
}

/// The first header of that name.
fn send_header<'a>(input: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let ends = |byte: &&u8| matches!(byte, b'\n' | b'\r');
    let start = input.iter().take_while(ends).count();
    let mut lines = input[start..].split_inclusive(|byte| *byte == b'\n');
    let mut next = || {
        let line = lines.next()?.strip_suffix(b"\n")?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    };
    if next()? != b"SEND" {
        return None;
    }
    loop {
        let line = next().filter(|line| !line.is_empty())?;
        let value = line.strip_prefix(name);
        if let Some(value) = value.and_then(|rest| rest.strip_prefix(b":")) {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_destination_of_a_send_is_found_once_it_has_come() {
        for (input, found) in [
            (
                "\n\r\nSEND\r\nx:1\r\ndestination:/queue/a\r\n",
                Some("/queue/a"),
            ),
            (
                "SEND\ndestination:/queue/a\ndestination:/queue/b\n\n",
                Some("/queue/a"),
            ),
            ("SEND\ndestination:/queue/a\\cb\n", Some("/queue/a:b")),
            ("SEND\ndestination:/queue/a", None),
            ("SEND\n\ndestination:/queue/a\n", None),
            ("SENDX\ndestination:/queue/a\n", None),
            ("ACK\ndestination:/queue/a\n", None),
            ("SEN", None),
            ("", None),
        ] {
            let destination = send_destination(input.as_bytes());
            assert_eq!(
                destination.as_deref(),
                found.map(str::as_bytes),
                "{input:?}"
            );
        }
    }
    #[test]
    fn a_receipt_is_found_as_it_was_spelled() {
        for (input, found) in [
            ("SEND\nreceipt-id:x\nreceipt:a\\c1\r\n", Some("a\\c1")),
            ("SEND\ndestination:/queue/a\n\nreceipt:1\n", None),
            ("SUBSCRIBE\nreceipt:1\n", None),
        ] {
            let receipt = send_receipt(input.as_bytes());
            assert_eq!(receipt, found.map(str::as_bytes), "{input:?}");
        }
    }
}
