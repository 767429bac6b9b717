//! The present in fewer bytes: most of them are item numbers and seqs, which pack badly side by side and well by column.

use prost::Message;

use crate::pack;
use crate::wire::{Present, PresentColumns, PresentTotal};

/// As lean batches are packed: a store's network is slower than its processor.
const LEVEL: i32 = 3;

/// A part with its totals and writes packed; as it was if that makes it no smaller.
pub fn packed(part: Present) -> Present {
    let mut before = 0;
    let step = |total: &PresentTotal| total.gtin.wrapping_sub(std::mem::replace(&mut before, total.gtin));
    let plain = PresentColumns {
        gtin_steps: part.totals.iter().map(step).collect(),
        units: part.totals.iter().map(|total| total.units).collect(),
        seqs: part.totals.iter().map(|total| total.seq).collect(),
        writes: part.writes.clone(),
    }
    .encode_to_vec();
    let Some(packed) = pack::pack_hard(&plain, LEVEL) else { return part };
    if packed.len() >= part.encoded_len() {
        return part;
    }
    Present { totals: vec![], writes: vec![], packed: packed.into(), packed_bytes: plain.len() as u32, ..part }
}

/// The part as it was before. `None` if it is not that, or longer than `plain_bytes_max`.
pub fn unpacked(part: Present, plain_bytes_max: usize) -> Option<Present> {
    if part.packed.is_empty() {
        return Some(part);
    }
    let plain_bytes = usize::try_from(part.packed_bytes).ok().filter(|bytes| *bytes <= plain_bytes_max)?;
    let plain = pack::unpack(&part.packed, plain_bytes)?;
    let PresentColumns { gtin_steps, units, seqs, writes } = PresentColumns::decode(&plain[..]).ok()?;
    if gtin_steps.len() != units.len()
        || units.len() != seqs.len()
        || !part.totals.is_empty()
        || !part.writes.is_empty()
    {
        return None;
    }
    let mut gtin = 0u64;
    let total = |((step, units), seq)| {
        gtin = gtin.wrapping_add(step);
        PresentTotal { gtin, units, seq }
    };
    let totals = gtin_steps.into_iter().zip(units).zip(seqs).map(total).collect();
    Some(Present { totals, writes, packed: bytes::Bytes::new(), packed_bytes: 0, ..part })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::PresentWrite;

    const MAX: usize = 64 << 10;

    fn part(totals: Vec<(u64, i64, u64)>, devices: Vec<String>) -> Present {
        let totals = totals.into_iter().map(|(gtin, units, seq)| PresentTotal { gtin, units, seq }).collect();
        let writes = devices.into_iter().map(|device| PresentWrite { device, ..PresentWrite::default() }).collect();
        Present { since: 3, as_of: 9, part: 2, last: true, totals, writes, ..Present::default() }
    }

    proptest! {
        #[test]
        fn comes_back_as_it_was(
            totals in prop::collection::vec(any::<(u64, i64, u64)>(), 0..50),
            devices in prop::collection::vec("[a-z]{0,9}", 0..9),
        ) {
            let part = part(totals, devices);
            prop_assert_eq!(unpacked(packed(part.clone()), MAX), Some(part));
        }

        #[test]
        fn what_is_not_a_part_is_refused(packed in prop::collection::vec(any::<u8>(), 1..99), packed_bytes: u32) {
            let part = Present { packed: packed.into(), packed_bytes, ..Present::default() };
            prop_assert!(unpacked(part, MAX).is_none_or(|part| part.packed.is_empty()));
        }
    }

    #[test]
    fn a_shop_of_items_takes_half_the_bytes_and_no_more_than_may_be() {
        let totals =
            (0..1_500u64).map(|n| (4_006_381_000_000 + n * 97 * (n % 7 + 1), -(n as i64 % 40), n * n % 20_011));
        let part = part(totals.collect(), vec![]);
        let small = packed(part.clone());
        assert!(small.encoded_len() * 2 < part.encoded_len(), "{} of {}", small.encoded_len(), part.encoded_len());
        let plain_bytes = small.packed_bytes as usize;
        assert_eq!(unpacked(small.clone(), plain_bytes - 1), None);
        assert_eq!(unpacked(Present { packed_bytes: small.packed_bytes + 1, ..small.clone() }, MAX), None);
        let both = Present { totals: part.totals.clone(), ..small.clone() };
        assert_eq!(unpacked(both, MAX), None);
        assert_eq!(unpacked(small, plain_bytes), Some(part));
    }

    #[test]
    fn columns_of_different_lengths_are_refused() {
        let plain = PresentColumns { gtin_steps: vec![1; 99], units: vec![1; 98], seqs: vec![1; 99], writes: vec![] };
        let plain = plain.encode_to_vec();
        let packed = pack::pack(&plain).unwrap().into();
        let part = Present { packed, packed_bytes: plain.len() as u32, ..Present::default() };
        assert_eq!(unpacked(part, MAX), None);
    }
}
