//! Chunks and batches: as bytes, as bodies that are sealed rightly, as lean batches.
#![no_main]

use bytes::Bytes;
use prost::Message;
use proto::chunk::{self, Position, Sealer};
use proto::id::{Epoch, ReplicaId};
use proto::wire::Batch;
use proto::{lean, pack};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let replica = ReplicaId { site: "harbour".parse().expect("a name"), epoch: Epoch(1) };
    match choice % 4 {
        0 => {
            if let Ok(head) = chunk::head(bytes) {
                let _ = chunk::bare(&head, bytes);
            }
            if let Ok(chunk) = chunk::open(bytes) {
                assert_eq!(chunk.head, chunk::head(bytes).expect("it was opened"));
                assert!(chunk.events().count() <= chunk.body.events.len());
            }
        }
        1 => {
            let mut sealer = Sealer::default();
            let Ok((sealed, stored)) = sealer.restore(&replica, Position::default(), bytes) else { return };
            let opened = chunk::open(&stored).expect("what was sealed can be opened");
            assert_eq!(opened.head, sealed.head);
            let stored = Bytes::from(stored);
            // What a gateway packs its hub makes again, to the byte.
            let Some(batch) = lean::pack(&[(sealed.head.clone(), stored.clone())]) else { return };
            let again = lean::unpack(&batch, &replica, Position::default(), &mut sealer);
            let again = again.expect("a batch of our own can be unpacked");
            assert_eq!(again[0].1, stored);
        }
        2 => {
            let Ok(batch) = Batch::decode(bytes) else { return };
            let _ = lean::unpack(&batch, &replica, Position::default(), &mut Sealer::default());
        }
        _ => {
            let _ = pack::unpack(bytes, usize::from(*choice) << 4);
        }
    }
});
