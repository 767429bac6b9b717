//! The journal of an emulated store, in memory: sealed as a real one is.

use std::convert::Infallible;

use bytes::Bytes;
use proto::chunk::{self, ChainHash, Head, Position, Sealer};
use proto::id::{Epoch, ReplicaId, Seq};
use proto::remnant::{self, Standing};
use proto::wire::record::Of;
use proto::wire::{Body, CounterTotal, Event, Movement, MovementKind, Present, PresentTotal, Record};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::seam::sync::{Chain, PresentAsk};

/// Of one sale, and of one commit: a store with some tills that are busy now and then.
const SALE_LINES: usize = 8;
const CHUNK_RECORDS: usize = 96;
/// Of one part of the present; a real gateway closes it at 32 KiB.
const PART_TOTALS: usize = 1_500;

pub(super) struct Journal {
    pub(super) replica: ReplicaId,
    chunks: Vec<(Head, Bytes)>,
    /// By item: units, and the seq of the last movement.
    totals: Vec<(i64, u64)>,
    /// The items' numbers, the same in all stores.
    gtins: std::sync::Arc<[u64]>,
}

impl Journal {
    /// Sales of the items, each at least once if there are records enough.
    pub(super) fn make(site: usize, records: usize, gtins: std::sync::Arc<[u64]>) -> Journal {
        let name = format!("site-{site}").parse().expect("a site's name");
        let replica = ReplicaId { site: name, epoch: Epoch(site as u64 + 1) };
        let totals = vec![(0, 0); gtins.len()];
        let mut journal = Journal { replica, chunks: Vec::new(), totals, gtins };
        let (mut sealer, mut dice) = (Sealer::default(), SmallRng::seed_from_u64(site as u64));
        let mut sold = 0;
        while sold < records {
            let count = CHUNK_RECORDS.min(records - sold);
            let items: Vec<usize> = (sold..sold + count).map(|n| journal.item(n, &mut dice)).collect();
            let body = journal.body(sold, &items, &mut dice);
            let sealed = sealer.seal(&journal.replica, journal.end(), &body);
            let head = chunk::head(&sealed.bytes).expect("a chunk of our own");
            journal.chunks.push((head, sealed.bytes.into()));
            sold += count;
        }
        journal
    }

    fn item(&self, n: usize, dice: &mut SmallRng) -> usize {
        if n < self.gtins.len() { n } else { dice.random_range(0..self.gtins.len()) }
    }

    fn body(&mut self, sold: usize, items: &[usize], dice: &mut SmallRng) -> Body {
        let mut moved = std::collections::BTreeMap::new();
        for (n, item) in items.iter().enumerate() {
            let total = &mut self.totals[*item];
            *total = (total.0 - 1, (sold + n + 1) as u64);
            let said = CounterTotal { gtin: self.gtins[*item], units: total.0, seq_offset: n as u32 };
            moved.insert(said.gtin, said);
        }
        let mut line = |item: &usize| {
            let kind = MovementKind::Sale.into();
            let cents = dice.random_range(50..3_000);
            Record {
                of: Some(Of::Movement(Movement {
                    gtin: self.gtins[*item],
                    units: -1,
                    kind,
                    cents,
                    ..Movement::default()
                })),
            }
        };
        let sales: Vec<Vec<Record>> =
            items.chunks(SALE_LINES).map(|items| items.iter().map(&mut line).collect()).collect();
        let event = |(n, records): (usize, Vec<Record>)| Event {
            ms: n as u64 * 7,
            device: "pos-1".into(),
            request: format!("b{}", sold + n),
            digest: (sold + n) as u32 ^ 0x9e37_79b9,
            records,
            ..Event::default()
        };
        let events = sales.into_iter().enumerate().map(event).collect();
        // One commit each five seconds, up to about now.
        let base_ms = 1_790_000_000_000 + sold as u64 * 50;
        Body {
            base_ms,
            events,
            totals: moved.into_values().collect(),
            powered_on_s: base_ms / 1_000 % 100_000,
            ..Body::default()
        }
    }

    pub(super) fn records(&self) -> u64 {
        self.end().seq.0
    }

    /// The latest value of each item that moved after `ask.since`, in parts.
    pub(super) fn present(&self, ask: PresentAsk) -> (Vec<Present>, u64) {
        let changed = self.totals.iter().zip(self.gtins.iter()).filter(|((_, seq), _)| *seq > ask.since.0);
        let totals: Vec<PresentTotal> =
            changed.map(|((units, seq), gtin)| PresentTotal { gtin: *gtin, units: *units, seq: *seq }).collect();
        let count = totals.len().div_ceil(PART_TOTALS).max(1);
        let part = |n: usize| Present {
            since: ask.since.0,
            as_of: ask.as_of.0,
            part: n as u32,
            last: n + 1 == count,
            totals: totals.iter().skip(n * PART_TOTALS).take(PART_TOTALS).copied().collect(),
            ..Present::default()
        };
        ((0..count).map(part).collect(), self.totals.len() as u64)
    }
}

impl Chain for Journal {
    type Error = Infallible;

    fn end(&self) -> Position {
        self.chunks.last().map_or(Position::default(), |(head, _)| head.after())
    }

    fn beginning(&self) -> Result<Position, Infallible> {
        Ok(Position { seq: Seq::ZERO, hash: ChainHash::ORIGIN })
    }

    fn standing(&self, at: Position) -> Result<Standing, Infallible> {
        let found = self.chunks.get(self.chunks.partition_point(|(head, _)| head.last < at.seq));
        let standing = remnant::standing(at, found.map(|(head, bytes)| (head, &bytes[..])));
        Ok(standing.expect("a journal of whole chunks"))
    }

    fn chunks(&self, first: Seq, last: Seq, bytes_max: usize) -> Result<Vec<(Head, Bytes)>, Infallible> {
        let from = self.chunks.partition_point(|(head, _)| head.first < first);
        let mut bytes = 0;
        let fits = |(head, chunk): &&(Head, Bytes)| {
            bytes += chunk.len();
            head.last <= last && (bytes == chunk.len() || bytes <= bytes_max)
        };
        Ok(self.chunks[from..].iter().take_while(fits).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_chain_that_a_session_can_send() {
        let gtins = (1..=50).map(|n| crate::retail::barcode(n).parse().unwrap()).collect();
        let journal = Journal::make(3, 1_000, gtins);
        assert_eq!(journal.end().seq, Seq(1_000));
        let chunks = journal.chunks(Seq(1), Seq(1_000), usize::MAX).unwrap();
        assert!(chunks.windows(2).all(|pair| pair[0].0.after() == pair[1].0.before()));
        assert_eq!(journal.chunks(chunks[2].0.first, Seq(1_000), 0).unwrap(), chunks[2..3]);
        assert_eq!(journal.standing(journal.end()).unwrap(), Standing::Ours);
        let (parts, _) = journal.present(PresentAsk { since: Seq::ZERO, as_of: Seq(1_000) });
        assert_eq!(parts.iter().flat_map(|part| &part.totals).map(|total| total.units).sum::<i64>(), -1_000);
        let batch = proto::lean::pack(&chunks[..5]).unwrap();
        let sealed =
            proto::lean::unpack(&batch, &journal.replica, Position::default(), &mut Sealer::default()).unwrap();
        assert!(sealed.iter().zip(&chunks).all(|((_, made), (_, stored))| made == stored));
    }
}
