//! Ids in messages that cannot be read, and the digits in what a scanner sends.

use std::ops::Range;

use proto::pseudonym::MARK;

/// What may stand between a field's name and its value.
const BETWEEN_BYTES_MAX: usize = 16;

/// A number with fewer digits is no card: a price, a quantity.
const CARD_DIGITS_MIN: usize = 8;

/// The digits of a barcode without leading zeros, whatever the scanner puts around them: blanks, `]E0`, and `01` before a
/// number in 14 digits. `None` if there is anything else in it.
pub(super) fn digits_of(code: &str) -> Option<&str> {
    let code = code.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    let data = code.strip_prefix(']').and_then(|rest| rest.get(2..)).unwrap_or(code);
    // What follows the item's number in an element string may be letters.
    let element = data.strip_prefix("01").and_then(|rest| rest.get(..14)).filter(|_| data.len() >= 16);
    let digits = element.unwrap_or(data);
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.trim_start_matches('0'))
}

/// Numbers in text that are long enough for a card, but for those in a pseudonym.
pub(super) fn digit_runs(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            let rest = &text[at..];
            let of = |is: fn(&u8) -> bool| rest.iter().take_while(|b| is(b)).count();
            let (digits, word) = (of(u8::is_ascii_digit), of(|b| *b == MARK || is_word(*b) || *b == b'.'));
            let from = at;
            at += if text[from] == MARK { word } else { digits }.max(1);
            if digits >= CARD_DIGITS_MIN {
                return Some(from..from + digits);
            }
        }
        None
    })
}

/// Where the value of the name at `start..end` stands in text that is not quite JSON; empty, right after the name, if
/// there is none. What stands beside other letters is part of a longer word, and still taken for a name: rather one word
/// too many than one id.
pub(super) fn value_after(text: &[u8], start: usize, end: usize) -> Range<usize> {
    debug_assert!(start < end && end <= text.len());
    // The rest of the word: `householdId`.
    let word = text[end..].iter().take_while(|b| is_word(**b)).count();
    let after = end + word;
    let between = text[after..].iter().take(BETWEEN_BYTES_MAX).take_while(|b| !is_word(**b) && **b != MARK).count();
    let from = after + between;
    let length =
        text[from..].iter().take_while(|b| is_word(**b) || matches!(**b, b'.' | b'@' | b'+' | b'-' | MARK)).count();
    from..from + length
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}
