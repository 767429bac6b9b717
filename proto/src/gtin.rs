//! Barcode numbers: GTIN-8, -12, -13 and -14 with their check digit, and what scanners put around them.
//!
//! Source: GS1 General Specifications, sections 3.3 (application identifier 01), 7.9 (check digit), and
//! ISO/IEC 15424 for the `]xn` symbology identifiers that a scanner may be set to send.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// An item's number, in its 14-digit form. Always carries a right check digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct Gtin(u64);

/// Why a text is not a GTIN. Each message is fit for a cashier's screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GtinError {
    #[error("the barcode is empty")]
    Empty,
    #[error("the barcode has a character that is not a digit")]
    NotDigits,
    #[error("the barcode has {0} digits; a GTIN has 8, 12, 13 or 14")]
    Length(usize),
    #[error("the check digit is {found}, it must be {expected}: scan again or look at the label")]
    CheckDigit { found: u8, expected: u8 },
    #[error("the barcode is all zeros")]
    Zero,
}

impl GtinError {
    /// The code of the refusal, for software.
    pub fn code(self) -> &'static str {
        match self {
            GtinError::Empty => "gtin_empty",
            GtinError::NotDigits => "gtin_not_digits",
            GtinError::Length(_) => "gtin_length",
            GtinError::CheckDigit { .. } => "gtin_check_digit",
            GtinError::Zero => "gtin_zero",
        }
    }
}

impl Gtin {
    /// From its number, as stored in a journal. Checked again: what is read may be damaged.
    pub fn from_number(number: u64) -> Result<Gtin, GtinError> {
        if number == 0 {
            return Err(GtinError::Zero);
        }
        if number > 99_999_999_999_999 {
            return Err(GtinError::Length(number.ilog10() as usize + 1));
        }
        let (found, expected) = ((number % 10) as u8, check_digit(number / 10));
        if found == expected { Ok(Gtin(number)) } else { Err(GtinError::CheckDigit { found, expected }) }
    }

    /// Appends the check digit to `payload`, a number of up to 13 digits.
    pub fn with_check_digit(payload: u64) -> Result<Gtin, GtinError> {
        if payload > 9_999_999_999_999 {
            return Err(GtinError::Length(payload.ilog10() as usize + 2));
        }
        Gtin::from_number(payload * 10 + u64::from(check_digit(payload)))
    }

    pub fn number(self) -> u64 {
        self.0
    }

    /// What a scanner sends: the digits, perhaps with CR/LF or blanks around them, a symbology identifier
    /// (`]E0…`) before them, or a GS1 element string whose first element is a GTIN (`01` and 14 digits).
    pub fn from_scan(text: &str) -> Result<Gtin, GtinError> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
        let Some(symbology) = text.strip_prefix(']') else { return text.parse() };
        let (kind, data) = symbology.split_at_checked(2).ok_or(GtinError::NotDigits)?;
        match kind {
            "C1" | "e0" | "d2" | "Q3" => element_string(data),
            _ => data.parse(),
        }
    }
}

impl FromStr for Gtin {
    type Err = GtinError;

    fn from_str(text: &str) -> Result<Gtin, GtinError> {
        if text.is_empty() {
            return Err(GtinError::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(GtinError::NotDigits);
        }
        if !matches!(text.len(), 8 | 12 | 13 | 14) {
            return Err(GtinError::Length(text.len()));
        }
        let number = text.bytes().fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
        Gtin::from_number(number)
    }
}

impl fmt::Display for Gtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:014}", self.0)
    }
}

impl From<Gtin> for String {
    fn from(gtin: Gtin) -> String {
        gtin.to_string()
    }
}

fn element_string(data: &str) -> Result<Gtin, GtinError> {
    let digits = data.strip_prefix("01").ok_or(GtinError::NotDigits)?;
    digits.get(..14).ok_or(GtinError::Length(digits.len()))?.parse()
}

/// Weights 3, 1, 3, 1 … from the right over the digits before the check digit.
fn check_digit(mut payload: u64) -> u8 {
    let (mut sum, mut weight) = (0, 3);
    while payload > 0 {
        sum += payload % 10 * weight;
        weight = 4 - weight;
        payload /= 10;
    }
    ((10 - sum % 10) % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_length_to_one_canonical_form() {
        let rows = [
            ("96385074", "00000096385074"),
            ("036000291452", "00036000291452"),
            ("4006381333931", "04006381333931"),
            ("10012345678902", "10012345678902"),
            ("00036000291452", "00036000291452"),
        ];
        for (text, canonical) in rows {
            assert_eq!(text.parse::<Gtin>().unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn reads_what_scanners_send() {
        for text in [
            "4006381333931\r\n",
            "4006381333931\r",
            " 4006381333931\n",
            "]E04006381333931",
            "]C10104006381333931",
            "]d2010400638133393110LOT7\r",
            "\x004006381333931\x00",
        ] {
            assert_eq!(Gtin::from_scan(text).map(Gtin::number), Ok(4_006_381_333_931), "{text:?}");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        let rows = [
            ("", GtinError::Empty),
            ("\r\n", GtinError::Empty),
            ("4006381333932", GtinError::CheckDigit { found: 2, expected: 1 }),
            ("400638133393", GtinError::CheckDigit { found: 3, expected: 4 }),
            ("12345", GtinError::Length(5)),
            ("40063813339 1", GtinError::NotDigits),
            ("٤٠٠٦٣٨١٣", GtinError::NotDigits),
            ("00000000", GtinError::Zero),
            ("]", GtinError::NotDigits),
            ("]C110LOT", GtinError::NotDigits),
            ("]C10104006", GtinError::Length(5)),
            ("]Ü1", GtinError::Length(1)),
            ("]aÜ1", GtinError::NotDigits),
        ];
        for (text, why) in rows {
            let found = Gtin::from_scan(text);
            match (why, found) {
                (GtinError::CheckDigit { .. }, Err(GtinError::CheckDigit { .. })) => {}
                (why, found) => assert_eq!(found, Err(why), "{text:?}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn one_wrong_digit_is_always_seen(payload in 1u64..10_000_000_000_000, place in 0u32..14, by in 1u64..10) {
            let good = Gtin::with_check_digit(payload).unwrap().to_string();
            let mut bytes = good.clone().into_bytes();
            let at = place as usize;
            bytes[at] = b'0' + ((u64::from(bytes[at] - b'0') + by) % 10) as u8;
            let bad = String::from_utf8(bytes).unwrap();
            proptest::prop_assert!(bad.parse::<Gtin>().is_err());
            proptest::prop_assert!(good.parse::<Gtin>().is_ok());
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = Gtin::from_scan(&text);
        }
    }
}
