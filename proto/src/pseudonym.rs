//! A person's pseudonym as text: `~`, the name of its key, a dot, and the rest; all in lower-case hex.

/// Three bytes that name the key, and sixteen of an HMAC.
pub type Pseudonym = [u8; 19];

const KEY_BYTES: usize = 3;
/// What a pseudonym begins with.
pub const MARK: u8 = b'~';

/// `~a1b2c3.0123456789abcdef0123456789abcdef`
pub fn write(of: &Pseudonym) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("{}{}.{}", char::from(MARK), hex(&of[..KEY_BYTES]), hex(&of[KEY_BYTES..]))
}

/// Exactly what [`write`] gives; `None` for anything else.
pub fn read(text: &str) -> Option<Pseudonym> {
    let (key, of) = text.strip_prefix(char::from(MARK))?.split_once('.')?;
    let mut bytes = [0; 19];
    if key.len() != 2 * KEY_BYTES || of.len() != 2 * (bytes.len() - KEY_BYTES) {
        return None;
    }
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let digits: Vec<u8> = key.bytes().chain(of.bytes()).collect();
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let of = std::array::from_fn(|n| n as u8 * 13);
        let text = write(&of);
        assert_eq!(read(&text), Some(of));
        for other in
            ["", "~", "~a1b2c3.", "a1b2c3.00", &text[1..], &text[..39], &text.to_uppercase(), &format!("{text}0")]
        {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
