//! A place in a segment that is not read: what stands there is damaged, and there was no room to write it anew.

use bytes::Bytes;

use super::segment::FrameAt;

/// Passed over by whoever reads the segment. It may be empty: then only the remnant stands there.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Number and body of the frame that is read instead.
    bridge: Option<(u64, Bytes)>,
}

impl Patch {
    pub(super) fn new(from: u64, to: u64) -> Patch {
        Patch { from, to, bridge: None }
    }

    pub(super) fn bridge(&mut self, number: u64, body: Bytes) {
        self.bridge = Some((number, body));
    }

    pub(super) fn is_bridged(&self) -> bool {
        self.bridge.is_some()
    }

    pub(super) fn into_frame(self) -> Option<FrameAt> {
        let (number, body) = self.bridge?;
        Some(FrameAt { number, offset: self.from, bytes: (self.to - self.from) as usize, body })
    }
}
