//! A text as a QR code for a terminal.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Two modules a character, dark on light as scanners want it on a dark terminal; `None` if the text is too long for one.
pub fn qr(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    #[test]
    fn fits_a_terminal() {
        let shown = super::qr(&format!("tillsync-gateway join hub.example.com:8443 {}", "ABCDE-".repeat(7))).unwrap();
        assert!(shown.lines().all(|line| line.chars().count() <= 80) && shown.lines().count() <= 32, "{shown}");
        assert!(super::qr(&"x".repeat(5_000)).is_none());
    }
}
