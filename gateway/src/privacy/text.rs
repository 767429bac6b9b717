//! Ids in messages that cannot be read.

use std::ops::Range;

use proto::pseudonym::MARK;

/// What may stand between a field's name and its value.
const BETWEEN_BYTES_MAX: usize = 16;

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
