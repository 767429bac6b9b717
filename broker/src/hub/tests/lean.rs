//! Lean batches leave in the journal what the site stored; one that does not come to its hash is asked for as stored.

use proto::{chunk, lean};

use super::*;

fn note(text: &str) -> Vec<Of> {
    vec![Of::Note(Note { kind: "activity".into(), payload: Bytes::copy_from_slice(text.as_bytes()) })]
}

fn lean_batch(chunks: &[&Vec<u8>]) -> Chunked {
    let chunks: Vec<_> = chunks.iter().map(|bytes| (chunk::head(bytes).unwrap(), bytes.to_vec().into())).collect();
    lean::pack(&chunks).unwrap()
}

#[tokio::test]
async fn chunks_are_made_again_as_they_were_or_asked_for() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    let (one, two, three) = (site.seal(note("one")), site.seal(note("two")), site.seal(note("three")));
    hub.up("hill", UpOf::Batch(lean_batch(&[&one]))).await;
    assert_eq!(hub.applied("hill").await, 1);
    // A gap, and what overlaps what is applied.
    hub.up("hill", UpOf::Batch(lean_batch(&[&three]))).await;
    hub.up("hill", UpOf::Batch(lean_batch(&[&one, &two]))).await;
    assert_eq!(hub.applied("hill").await, 1);

    let sound = lean_batch(&[&two, &three]);
    let damaged = Chunked { last_hash: vec![0; 8].into(), ..sound.clone() };
    for batch in [damaged, Chunked { last_seq: 4, ..sound.clone() }, Chunked { body: "no".into(), ..sound.clone() }] {
        for _ in 0..4 {
            hub.up("hill", UpOf::Batch(batch.clone())).await;
        }
        assert_eq!(hub.applied("hill").await, 1, "{batch:?}");
    }
    assert_eq!(hub.status().await["sync"]["set_aside"], 0, "nothing is passed by before it was seen as stored");
    hub.up("hill", UpOf::Batch(sound.clone())).await;
    assert_eq!(hub.applied("hill").await, 3);
    let before = hub.reader.stats().durable;
    hub.up("hill", UpOf::Batch(sound)).await;
    assert_eq!(hub.reader.stats().durable, before, "a repeat changes nothing");

    let records = Running::records(&hub.stop().await).await;
    let kept: Vec<&[u8]> = records
        .iter()
        .filter_map(|of| if let Of::SiteChunk(site) = of { Some(&site.chunk[..]) } else { None })
        .collect();
    assert_eq!(kept, [&one[..], &two, &three], "bit for bit");
}
