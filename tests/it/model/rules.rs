//! The rules, switch by switch: as they are coded, as a rejoin was planned, as they are sound, and broken on purpose.

/// How far one exhaustive run goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Real-world records of each site.
    pub(super) records: [u8; 2],
    /// Connections of each site; the end of one is also what a crash of the gateway is to the hub.
    pub(super) connections: [u8; 2],
    /// Different messages on their way in each direction of each site.
    pub(super) wire: usize,
    pub(super) trims: u8,
    /// Crashes between a commit and its acknowledgement.
    pub(super) unacknowledged: u8,
    pub(super) hub_crashes: u8,
    pub(super) hub_restores: u8,
    pub(super) site_restores: u8,
    /// Batches are committed in a group, some time after they came.
    pub(super) groups: bool,
}

/// Records past the watermark that may be under way.
pub(super) const WINDOW: u8 = 2;

/// What the two ends do. A rule that is off is a fault.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The hub applies a batch only if its hash continues the watermark, not its seq alone; both ends compare chains.
    pub(super) hash_test: bool,
    /// A site trims what it heard is applied, not what it sent.
    pub(super) trim_applied: bool,
    /// What comes of another incarnation is ignored.
    pub(super) incarnation_test: bool,
    /// A restored hub takes a new incarnation.
    pub(super) new_incarnation: bool,
    /// Applied is said after the commit.
    pub(super) commit_then_speak: bool,
    /// The Hello of a new epoch names the ledger that it follows, and the hub retires that.
    pub(super) follows: bool,
    /// It names it in every Hello, not until the first Welcome only.
    pub(super) follows_again: bool,
    /// It names all the ledgers that led to it, not the last one only.
    pub(super) follows_all: bool,
    /// A new epoch is drawn, never counted up from what the ledger says.
    pub(super) fresh_epoch: bool,
    /// A span that a remnant stands for is counted.
    pub(super) count_lost: bool,
    /// The hub leaves out a record that it has applied under another epoch of the site.
    pub(super) once: bool,
    /// Every Hello after a silence has a nonce of its own.
    pub(super) fresh_nonce: bool,
    /// A site remembers the hashes of what it trimmed, and bridges only over its own chain.
    pub(super) remember_hashes: bool,
    /// A site rejoins only if what the hub holds differs from its own ledger as it is now, whatever it was told.
    pub(super) own_check: bool,
}

impl Rules {
    /// What the properties hold for.
    pub(super) const SOUND: Rules = Rules {
        hash_test: true,
        trim_applied: true,
        incarnation_test: true,
        new_incarnation: true,
        commit_then_speak: true,
        follows: true,
        follows_again: true,
        follows_all: true,
        fresh_epoch: true,
        count_lost: true,
        once: true,
        fresh_nonce: true,
        remember_hashes: true,
        own_check: true,
    };
}
