//! Questions about conflicts as they stand on the admin socket, whose lines are words.

use proto::id::Seq;

use crate::hub::{Ask, Wanted};
use crate::node::note::{of_word, to_word};

/// The line on the admin socket that [`of_words`] reads.
pub(crate) fn to_words(ask: &Ask) -> String {
    match ask {
        Ask::List(Wanted { limit, prefixes }) => format!("conflicts list {limit} {}", prefixes.join(" ")),
        Ask::Show(seq) => format!("conflicts show {seq}"),
        Ask::Restore { conflict, by, why } => {
            format!("conflicts restore {conflict} {} {}", to_word('b', by), to_word('w', why))
        }
    }
}

/// `None` if it is no question about conflicts.
pub(crate) fn of_words(words: &[&str]) -> Option<Ask> {
    let seq = |word: &str| word.parse().ok().map(Seq);
    match words {
        ["conflicts", "list", limit, prefixes @ ..] => {
            let prefixes = prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
            Some(Ask::List(Wanted { limit: limit.parse().ok()?, prefixes }))
        }
        ["conflicts", "show", conflict] => Some(Ask::Show(seq(conflict)?)),
        ["conflicts", "restore", conflict, by, why] => {
            Some(Ask::Restore { conflict: seq(conflict)?, by: of_word('b', by)?, why: of_word('w', why)? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::note::NOTE_BYTES_MAX;

    #[test]
    fn what_is_asked_arrives_as_it_was_meant() {
        let restore = |by: &str, why: &str| Ask::Restore { conflict: Seq(7), by: by.into(), why: why.into() };
        for ask in [
            Ask::List(Wanted { limit: 20, prefixes: vec![] }),
            Ask::List(Wanted { limit: 1, prefixes: vec!["item/".into(), "note/04006381333931/".into()] }),
            Ask::Show(Seq(57)),
            restore("", ""),
            restore("Anna K.", "the price list\nsays so"),
        ] {
            let words = to_words(&ask);
            assert_eq!(of_words(&words.split_whitespace().collect::<Vec<_>>()), Some(ask), "{words}");
        }
        let long = to_words(&restore(&"x".repeat(NOTE_BYTES_MAX + 1), ""));
        for words in ["conflicts", "conflicts list", "conflicts show x", "conflicts restore 7 b w6", &long] {
            assert_eq!(of_words(&words.split_whitespace().collect::<Vec<_>>()), None, "{words}");
        }
    }
}
