//! A connection from CONNECT to its end: sequences of packets, in pieces as long as the byte before each says. The
//! router, the sessions and the mailboxes live on from one input to the next, as they do in a node.
#![no_main]

use broker::front::fuzzing::Rig;

thread_local! {
    static RIG: Rig = Rig::default();
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    RIG.with(|rig| {
        rig.serve(data);
        assert!(rig.router_lives(), "a client ended the router");
    });
});
