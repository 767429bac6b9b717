//! Notices what a subscriber lost because it fell behind the router's log, which drops the oldest in silence.
//!
//! Every message carries its offset in the log of its filter, without saying which filter that is. The offsets of one
//! filter are without gaps, so with one subscription the count is exact. With several it is an estimate: an offset
//! that continues none of them is taken to be a jump of the one it is nearest after.
//!
//! The count is a lower bound: only the router knows where a new subscription begins, so what is lost between SUBACK
//! and the first message of a log cannot be seen. The same goes after every change of subscriptions.

/// The offset that comes next in each log that this connection reads.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    next: Vec<u64>,
}

impl Overflow {
    /// How many messages were lost before this one. `subscriptions` is how many logs there may be.
    pub(super) fn lost_before(&mut self, offset: u64, subscriptions: usize) -> u64 {
        if let Some(next) = self.next.iter_mut().find(|next| **next == offset) {
            *next += 1;
            return 0;
        }
        if self.next.len() < subscriptions {
            self.next.push(offset + 1);
            return 0;
        }
        match self.next.iter_mut().filter(|next| **next < offset).max() {
            Some(next) => offset - std::mem::replace(next, offset + 1),
            None => 0,
        }
    }

    /// Another set of subscriptions: the logs are learnt anew.
    pub(super) fn reset(&mut self) {
        self.next.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(offsets: &[u64], subscriptions: usize) -> Vec<u64> {
        let mut overflow = Overflow::default();
        offsets.iter().map(|&offset| overflow.lost_before(offset, subscriptions)).collect()
    }

    #[test]
    fn gaps() {
        assert_eq!(lost(&[7, 8, 9, 20, 21], 1), [0, 0, 0, 10, 0]);
        assert_eq!(lost(&[7, 100, 8, 101, 20, 102, 200], 2), [0, 0, 0, 0, 11, 0, 97]);
        assert_eq!(lost(&[7, 7, 8, 8, 9, 9], 2), [0; 6]);
        assert_eq!(lost(&[7, 3], 1), [0, 0]);
    }
}
