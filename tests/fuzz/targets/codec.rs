//! Bytes to MQTT packets. The first byte chooses the version.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((version, bytes)) = data.split_first() else { return };
    broker::front::fuzzing::decode(version & 1 == 1, bytes);
});
