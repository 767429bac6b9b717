//! Who does something by a command, and why: what the journal keeps of a person's decision.

use clap::Args;

use super::rejects::hex;

/// The longest name of who says it, and the longest reason.
pub const NOTE_BYTES_MAX: usize = 256;

/// Who does something, and why, for the journal.
#[derive(Debug, Args)]
pub struct NoteArgs {
    /// Who does it, for the journal; if it is not said, the user who runs this.
    #[arg(long, value_name = "NAME", default_value_t = operator(), hide_default_value = true)]
    pub by: String,
    /// Why, for the journal.
    #[arg(long, visible_alias = "reason", value_name = "TEXT", default_value = "")]
    pub why: String,
}

/// The same, of what has a name elsewhere.
#[derive(Debug, Args)]
pub struct SaidArgs {
    #[command(flatten)]
    pub note: NoteArgs,
    /// Your own name for it, for the journal: an order, a delivery.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reference: String,
}

impl SaidArgs {
    /// # Errors
    /// One of them is too long.
    pub fn check(&self) -> anyhow::Result<()> {
        self.note.check()?;
        anyhow::ensure!(self.reference.len() <= NOTE_BYTES_MAX, "--reference takes at most {NOTE_BYTES_MAX} bytes");
        Ok(())
    }
}

impl NoteArgs {
    /// # Errors
    /// One of them is too long.
    pub fn check(&self) -> anyhow::Result<()> {
        let long = self.by.len().max(self.why.len()) > NOTE_BYTES_MAX;
        anyhow::ensure!(!long, "--by and --why take at most {NOTE_BYTES_MAX} bytes each");
        Ok(())
    }
}

/// Who types, as the system has it: never empty, one word.
pub fn operator() -> String {
    let said = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|of| std::env::var(of).ok().filter(|v| !v.is_empty()));
    let mut name = said.unwrap_or_else(|| "operator".into());
    name.retain(|c| c.is_ascii_alphanumeric() || "._-@".contains(c));
    name.truncate(64);
    if name.is_empty() { "operator".into() } else { name }
}

/// A text as one word of the admin socket, also if it is empty: in hex behind a letter.
pub(crate) fn to_word(letter: char, text: &str) -> String {
    format!("{letter}{}", hex::encode(text.as_bytes()))
}

/// The text of such a word; `None` if it is none, or too long.
pub(crate) fn of_word(letter: char, word: &str) -> Option<String> {
    let text = String::from_utf8(hex::decode(word.strip_prefix(letter)?)?).ok()?;
    (text.len() <= NOTE_BYTES_MAX).then_some(text)
}
