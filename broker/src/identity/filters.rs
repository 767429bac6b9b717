//! Topic filters against topic filters (OASIS MQTT 5.0, 4.7). Every filter here is a valid one that does not start
//! with `$`; `{name}` as a level of a pattern stands for the name of who asks.

/// What stands for the name of who asks.
pub(super) const NAME: &str = "{name}";

/// A pattern's levels, with the name in its place.
fn levels<'a>(pattern: &'a str, name: &'a str) -> Vec<&'a str> {
    pattern.split('/').map(|level| if level == NAME { name } else { level }).collect()
}

/// Whether every topic that `filter` asks for is one that `pattern` does.
pub(super) fn within(filter: &str, pattern: &str, name: &str) -> bool {
    // At the beginning there is always a level: `#` is the same as `+/#`.
    let filter = if filter == "#" { vec!["+", "#"] } else { filter.split('/').collect() };
    let pattern = levels(pattern, name);
    let (mut filter, mut pattern) = (&filter[..], &pattern[..]);
    loop {
        match (filter, pattern) {
            (_, ["#"]) => return true,
            ([], []) => return true,
            (["#"], _) | ([], _) | (_, []) => return false,
            ([asked, more @ ..], [allowed, rest @ ..]) if *allowed == "+" || asked == allowed => {
                (filter, pattern) = (more, rest);
            }
            _ => return false,
        }
    }
}

/// Whether there is a topic that both ask for.
pub(super) fn overlap(filter: &str, pattern: &str, name: &str) -> bool {
    let (filter, pattern) = (filter.split('/').collect::<Vec<_>>(), levels(pattern, name));
    let (mut filter, mut pattern) = (&filter[..], &pattern[..]);
    loop {
        match (filter, pattern) {
            (["#"], _) | (_, ["#"]) => return true,
            ([], []) => return true,
            ([], _) | (_, []) => return false,
            ([one, more @ ..], [other, rest @ ..]) if *one == "+" || *other == "+" || one == other => {
                (filter, pattern) = (more, rest);
            }
            _ => return false,
        }
    }
}

/// Whether a topic is one that the pattern asks for.
pub(super) fn covers(pattern: &str, topic: &str, name: &str) -> bool {
    // A topic is a filter without wildcards.
    within(topic, pattern, name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::front::topic_rules::matches;

    #[test]
    fn wildcards_are_judged_by_what_they_contain() {
        for (filter, pattern, inside) in [
            ("dev/pos-1/reply", "dev/{name}/#", true),
            ("dev/pos-1/#", "dev/{name}/#", true),
            ("dev/pos-1", "dev/{name}/#", true),
            ("dev/pos-10/reply", "dev/{name}/#", false),
            ("dev/+/reply", "dev/{name}/#", false),
            ("#", "dev/{name}/#", false),
            ("+/+/#", "dev/#", false),
            ("store/+/x", "store/#", true),
            ("store/#", "store/+/x", false),
            ("store/+", "store/+/x", false),
            ("#", "+/#", true),
            ("a/#", "a/+/#", false),
        ] {
            assert_eq!(within(filter, pattern, "pos-1"), inside, "{filter} within {pattern}");
        }
    }

    fn level(of: &'static str) -> impl Strategy<Value = String> {
        proptest::sample::select(of.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn filter() -> impl Strategy<Value = String> {
        (proptest::collection::vec(level("a b +"), 0..4), any::<bool>()).prop_map(|(mut levels, rest)| {
            if rest || levels.is_empty() {
                levels.push("#".into());
            }
            levels.join("/")
        })
    }

    /// Every topic of up to five levels of three words, one of which no filter names.
    fn topics() -> Vec<String> {
        let mut all = vec![];
        let mut longest = vec![String::new()];
        for depth in 0..5 {
            let words = ["a", "b", "z"];
            let join = |topic: &String, word| if depth == 0 { String::from(word) } else { format!("{topic}/{word}") };
            longest = longest.iter().flat_map(|topic| words.map(|word| join(topic, word))).collect();
            all.extend(longest.clone());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn containment_and_overlap_are_those_of_the_topics(one in filter(), other in filter()) {
            let of = |filter: &str| topics().into_iter().filter(|topic| matches(filter, topic)).collect::<Vec<_>>();
            let (ones, others) = (of(&one), of(&other));
            prop_assert_eq!(within(&one, &other, ""), ones.iter().all(|topic| others.contains(topic)));
            prop_assert_eq!(overlap(&one, &other, ""), ones.iter().any(|topic| others.contains(topic)));
        }
    }
}
