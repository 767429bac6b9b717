//! Which topics, filters and client ids pass (OASIS MQTT 3.1.1 section 4.7, and what the router cannot bear).

/// Bytes of a topic or filter. Longer ones are refused: the router keeps each for ever.
pub(super) const TOPIC_BYTES_MAX: usize = 256;
/// Characters of a client id.
pub(super) const CLIENT_ID_MAX: usize = 64;
/// Client ids of the process's own links begin with this. No client may take one.
pub(super) const RESERVED_PREFIX: &str = "tillsync.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicFault {
    /// Ill-formed UTF-8 or NUL: MQTT wants the connection closed [MQTT-1.5.3-1, 1.5.3-2].
    IllFormed,
    /// Anything else: the message is recorded as refused and the connection lives.
    Invalid(&'static str),
}

impl TopicFault {
    pub(super) fn reason(self) -> &'static str {
        match self {
            TopicFault::IllFormed => "the topic is not well-formed UTF-8",
            TopicFault::Invalid(reason) => reason,
        }
    }
}

/// The topic as text. The first character must be ASCII: rumqttd 0.20 slices its first byte off and panics otherwise.
pub(super) fn topic(bytes: &[u8]) -> Result<&str, TopicFault> {
    let topic = std::str::from_utf8(bytes).map_err(|_| TopicFault::IllFormed)?;
    let Some(&first) = bytes.first() else { return Err(TopicFault::Invalid("the topic is empty")) };
    if bytes.contains(&0) {
        Err(TopicFault::IllFormed)
    } else if bytes.len() > TOPIC_BYTES_MAX {
        Err(TopicFault::Invalid("the topic is longer than 256 bytes"))
    } else if bytes.iter().any(|b| matches!(b, b'+' | b'#')) {
        Err(TopicFault::Invalid("the topic contains a wildcard"))
    } else if first == b'$' {
        Err(TopicFault::Invalid("topics that start with $ belong to the server"))
    } else if !first.is_ascii() {
        Err(TopicFault::Invalid("the topic does not start with an ASCII character"))
    } else {
        Ok(topic)
    }
}

/// Whether a subscription to it is possible. `$` filters name nothing here, and `$share` is not served.
pub(crate) fn filter(filter: &str) -> bool {
    let first_ok = filter.bytes().next().is_some_and(|b| b.is_ascii() && b != b'$');
    if !first_ok || filter.len() > TOPIC_BYTES_MAX || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        match level {
            "+" => {}
            "#" if last => {}
            level if level.contains(['+', '#']) => return false,
            _ => {}
        }
    }
    true
}

/// Whether a topic that passed [`topic`] is one that a filter which passed [`filter`] asks for.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// What every topic that matches begins with: the part before the first wildcard, without its last slash, since
/// `a/#` matches `a` too.
pub(super) fn literal_prefix(filter: &str) -> &str {
    match filter.find(['+', '#']) {
        None => filter,
        Some(at) => filter[..at].trim_end_matches('/'),
    }
}

pub(super) fn client_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= CLIENT_ID_MAX
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-'))
        && !id.starts_with(RESERVED_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics() {
        for good in ["a", "/", "a/b", "dev/x/scan", "a b", "a/é"] {
            assert_eq!(topic(good.as_bytes()), Ok(good));
        }
        for bad in ["", "a/+", "#", "a#", "$SYS/x", "é/a", &"x".repeat(257)] {
            assert!(matches!(topic(bad.as_bytes()), Err(TopicFault::Invalid(_))), "{bad:?}");
        }
        for bad in [&b"a\0b"[..], b"a\xff", b"\xc3"] {
            assert_eq!(topic(bad), Err(TopicFault::IllFormed));
        }
    }

    #[test]
    fn filters() {
        for good in ["#", "+", "a/#", "a/+/b", "/", "+/+", "a//b", "a"] {
            assert!(filter(good), "{good}");
        }
        for bad in ["", "a/#/b", "a+", "+a", "a#", "#a", "##", "$SYS/#", "$share/g/a", "a\0", "é/#", &"x".repeat(257)]
        {
            assert!(!filter(bad), "{bad}");
        }
    }

    #[test]
    fn matching() {
        for (filter, yes, no) in [
            ("a/#", &["a", "a/b", "a/b/c", "a/"][..], &["ab", "b/a"][..]),
            ("#", &["a", "a/b", "/"], &[]),
            ("+/b", &["a/b", "/b"], &["b", "a/b/c", "a/c"]),
            ("a/+", &["a/b", "a/"], &["a", "a/b/c"]),
            ("a", &["a"], &["a/b", "b"]),
        ] {
            for topic in yes {
                assert!(matches(filter, topic), "{filter} {topic}");
                assert!(topic.starts_with(literal_prefix(filter)), "{filter} {topic}");
            }
            for topic in no {
                assert!(!matches(filter, topic), "{filter} {topic}");
            }
        }
    }

    #[test]
    fn client_ids() {
        for good in ["a", "scanner-01", "A.b:c_9", &"x".repeat(64)] {
            assert!(client_id(good), "{good}");
        }
        for bad in ["", "a+b", "a#", "$a", "a/b", "a b", "é", "tillsync.feed", &"x".repeat(65)] {
            assert!(!client_id(bad), "{bad}");
        }
    }
}
