//! `tillsync-gateway privacy`.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::Keys;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say which keys there are, oldest first. Pseudonyms begin with the name of their key.
    Show(Folder),
    /// Draw a new key: from the next start on everybody has a new pseudonym. Old keys are kept.
    Rotate(Folder),
    /// Print the key in use, to be given to the brand's other stores. Keep it as you would a password.
    Export(Folder),
    /// Read a key from standard input and use it from the next start on.
    Import(Folder),
}

#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// The gateway's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
}

/// Carries it out. `default` is the data folder if none is named.
pub(crate) fn run(command: Command, default: &Path) -> anyhow::Result<()> {
    let (Command::Show(folder) | Command::Rotate(folder) | Command::Export(folder) | Command::Import(folder)) =
        &command;
    let dir = folder.data.as_deref().unwrap_or(default);
    anyhow::ensure!(dir.is_dir(), "{} is no folder: give the gateway's with --data", dir.display());
    let mut keys = Keys::load_or_draw(dir)?;
    match command {
        Command::Show(_) => {}
        Command::Rotate(_) => keys.rotate(dir)?,
        Command::Export(_) => {
            println!("{}", keys.newest().context("there is no key")?);
            return Ok(());
        }
        Command::Import(_) => {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).context("read the key")?;
            keys.import(dir, &line)?;
        }
    }
    for (n, id) in keys.ids().iter().enumerate() {
        let used = if n + 1 == keys.ids().len() { "  in use" } else { "" };
        println!("{id}{used}");
    }
    if matches!(command, Command::Rotate(_) | Command::Import(_)) {
        println!("restart the gateway for it to count");
    }
    Ok(())
}
