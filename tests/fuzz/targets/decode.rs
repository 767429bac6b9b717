//! What devices publish, in JSON and protobuf. The first byte chooses the kind, the form and what a plain scan means.
#![no_main]

use bytes::Bytes;
use gateway::decode::{Limits, ScanMode, decode};
use proto::topic::{Form, Kind};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, payload)) = data.split_first() else { return };
    let kind = Kind::ALL[usize::from(choice & 0x0f) % Kind::ALL.len()];
    let form = if choice & 0x10 == 0 { Form::Json } else { Form::Protobuf };
    let mode = if choice & 0x20 == 0 { ScanMode::Lookup } else { ScanMode::Sell };
    let limits = Limits { payload_bytes_max: 4096, ..Limits::default() };
    let decoded = decode(kind, form, mode, &Bytes::copy_from_slice(payload), &limits);
    if payload.len() > limits.payload_bytes_max {
        assert!(decoded.is_err(), "longer than may be");
    }
    if let Err(refused) = decoded {
        assert!(!refused.why.code.is_empty() && refused.why.reason.len() < 4096, "a refusal says why, in short");
    }
});
