//! Digests by which two nodes find out whether they hold the same: sums over hashed cells, by bucket, so that a
//! difference is narrowed down and order does not matter.

/// Buckets of one digest; few enough for a message, enough to find a difference among a million keys.
pub const BUCKETS: usize = 256;

const STOCK_CONTEXT: &str = "tillsync check stock 1";
const REGISTER_CONTEXT: &str = "tillsync check register 1";

/// Sums by bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(Vec<u64>);

impl Default for Sums {
    fn default() -> Sums {
        Sums(vec![0; BUCKETS])
    }
}

impl Sums {
    /// One replica's component of an item, and the seq of the last movement in it.
    pub fn add_stock(&mut self, gtin: u64, units: i64, seq: u64) {
        let mut hash = blake3::Hasher::new_derive_key(STOCK_CONTEXT);
        let bucket = (gtin % BUCKETS as u64) as usize;
        for part in [gtin, units as u64, seq] {
            hash.update(&part.to_le_bytes());
        }
        self.add(bucket, &hash);
    }

    /// A register's key and its state as it is encoded.
    pub fn add_register(&mut self, key: &str, state: &[u8]) {
        let mut hash = blake3::Hasher::new_derive_key(REGISTER_CONTEXT);
        hash.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes()).update(state);
        self.add(register_bucket(key), &hash);
    }

    fn add(&mut self, bucket: usize, hash: &blake3::Hasher) {
        let bytes = hash.finalize();
        let value = u64::from_le_bytes(std::array::from_fn(|n| bytes.as_bytes()[n]));
        self.0[bucket] = self.0[bucket].wrapping_add(value);
    }

    /// The buckets in which a peer's sums differ; all of them if it has another number of buckets.
    pub fn differ(&self, theirs: &[u64]) -> Vec<usize> {
        (0..BUCKETS).filter(|n| theirs.len() != BUCKETS || self.0[*n] != theirs[*n]).collect()
    }

    pub fn into_vec(self) -> Vec<u64> {
        self.0
    }
}

/// The bucket of a register.
pub fn register_bucket(key: &str) -> usize {
    usize::from(blake3::hash(key.as_bytes()).as_bytes()[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_name_the_bucket_that_differs_whatever_the_order() {
        let (mut a, mut b) = (Sums::default(), Sums::default());
        for gtin in 0..1_000 {
            a.add_stock(gtin, -3, gtin + 1);
            b.add_stock(999 - gtin, -3, 1_000 - gtin);
        }
        assert_eq!(a.differ(&b.clone().into_vec()), Vec::<usize>::new());
        b.add_stock(2_000, 1, 1);
        assert_eq!(a.differ(&b.clone().into_vec()), [2_000 % BUCKETS]);
        assert_eq!(a.differ(&[]).len(), BUCKETS);
        a.add_register("item/1/name", b"x");
        assert_eq!(a.differ(&b.into_vec()).len(), 2);
    }
}
