//! When a certificate is renewed.

use super::facts::Facts;

/// The longest wait between two tries, however long the certificate's life is.
pub const RETRY_MOST_MS: u64 = 6 * 3_600_000;

/// When to renew, milliseconds since 1970: at two thirds of its life, and up to a twentieth of it later, so that stores
/// that joined together do not all come at once. `random` is any number.
pub fn due_ms(facts: &Facts, random: u64) -> u64 {
    let life = facts.valid_ms();
    facts.not_before_ms + life / 3 * 2 + random % (life / 20).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, DAY_MS};
    use super::*;

    #[test]
    fn well_before_the_end_and_not_all_at_once() {
        let now = 1_800_000_000_000;
        let issued = Authority::create("a CA", now).unwrap().client("harbour", now, 90 * DAY_MS).unwrap();
        let facts = Facts::of_pem(&issued.chain_pem).unwrap();
        for random in [0, 1, u64::MAX, 987_654_321_987] {
            let due = due_ms(&facts, random);
            assert!(due > now + 59 * DAY_MS && due < now + 65 * DAY_MS, "{}", (due - now) / DAY_MS);
        }
        assert_ne!(due_ms(&facts, 0), due_ms(&facts, DAY_MS));
    }
}
