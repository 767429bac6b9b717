/// Who a verified client certificate says its owner is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    pub name: String,
    pub key: crate::identity::Fingerprint,
    pub serial_hex: String,
}
