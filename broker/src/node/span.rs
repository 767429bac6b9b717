//! A span of time as people write it: "90d", "12h", "15m", "30s".

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    pub fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a number with its unit, such as 90d, 12h, 15m or 30s")]
pub struct SpanError;

impl FromStr for Span {
    type Err = SpanError;
    fn from_str(text: &str) -> Result<Span, SpanError> {
        let unit = text.chars().last().ok_or(SpanError)?;
        let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(SpanError)?;
        let number: u32 = text[..text.len() - 1].parse().map_err(|_| SpanError)?;
        Ok(Span(Duration::from_secs(u64::from(number) * seconds)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let fits = |(_, unit): &(char, u64)| seconds >= *unit && seconds.is_multiple_of(*unit);
        let (name, unit) = UNITS.into_iter().find(fits).unwrap_or(('s', 1));
        write!(f, "{}{name}", seconds / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (text, seconds) in [("90d", 7_776_000), ("1h", 3_600), ("90m", 5_400), ("45s", 45), ("0s", 0)] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0.as_secs(), span.to_string().as_str()), (seconds, text));
        }
        for wrong in ["", "d", "5", "-1d", "1.5h", "5w", "9999999999d", "5 d", "5ü"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }
}
