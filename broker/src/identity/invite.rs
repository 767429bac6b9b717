//! What an operator is shown once: the credentials of an account, to type or to scan.

use std::net::SocketAddr;

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::{Value, json};

/// Credentials in the clear. They are nowhere else.
pub struct Invite<'a> {
    pub name: &'a str,
    pub password: Option<&'a str>,
    /// Host and port, if they are known, and whether it is reached with TLS.
    pub at: Option<(String, bool)>,
}

impl Invite<'_> {
    /// `mqtts://pos-1:password@store:8883`
    fn line(&self) -> Option<String> {
        let (at, tls) = self.at.as_ref()?;
        let scheme = if *tls { "mqtts" } else { "mqtt" };
        Some(format!("{scheme}://{}:{}@{at}", self.name, self.password?))
    }

    pub fn to_json(&self) -> Value {
        json!({ "user": self.name, "password": self.password, "url": self.line(), "client_id": self.name })
    }

    pub fn to_text(&self) -> String {
        let mut text = format!("user       {0}\nclient id  {0}\n", self.name);
        if let Some(password) = self.password {
            text += &format!("password   {password}\n");
        }
        if let Some(line) = self.line() {
            text += &format!("address    {line}\n\n");
            text += &drawn(&line).unwrap_or_default();
        }
        text
    }
}

/// A QR code of the text for a terminal, two modules a character, dark on light as scanners want it; `None` if the text is too long for one.
pub fn drawn(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build() + "\n")
}

/// Where to connect to, as seen from elsewhere: an address that means every interface is the box's own name.
pub fn address(listen: SocketAddr) -> String {
    match listen.ip().is_unspecified() {
        false => listen.to_string(),
        true => {
            let name = rustix::system::uname();
            format!("{}:{}", name.nodename().to_string_lossy(), listen.port())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_is_scanned() {
        let at = Some(("store:8883".to_owned(), true));
        let invite = Invite { name: "pos-1", password: Some("k7wq-3m9x"), at };
        assert_eq!(invite.to_json()["url"], "mqtts://pos-1:k7wq-3m9x@store:8883");
        let text = invite.to_text();
        assert!(text.contains("password   k7wq-3m9x") && text.lines().count() > 15, "{text}");
        let join = format!("tillsync-gateway join hub.example.com:8443 {}", "ABCDE-".repeat(7));
        let shown = drawn(&join).unwrap();
        assert!(shown.lines().all(|line| line.chars().count() <= 80) && shown.lines().count() <= 33, "{shown}");
        assert!(drawn(&"x".repeat(5_000)).is_none());
        assert_eq!(address(([127, 0, 0, 1], 1883).into()), "127.0.0.1:1883");
        assert!(address(([0, 0, 0, 0], 8883).into()).ends_with(":8883"));
    }
}
