//! The Prometheus text format, version 0.0.4.

use std::fmt::Write;

use serde_json::Value;

/// Families in the order in which they were written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// One family of samples. Its HELP and TYPE come with the first sample: one without any is not there.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    kind: &'static str,
    name: &'a str,
    help: &'a str,
    begun: bool,
}

impl Exposition {
    pub fn counters<'a>(&'a mut self, name: &'a str, help: &'a str) -> Family<'a> {
        debug_assert!(name.ends_with("_total"), "{name}");
        Family { text: &mut self.text, kind: "counter", name, help, begun: false }
    }

    pub fn gauges<'a>(&'a mut self, name: &'a str, help: &'a str) -> Family<'a> {
        Family { text: &mut self.text, kind: "gauge", name, help, begun: false }
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: &Value) {
        self.counters(name, help).sample(&[], value);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: &Value) {
        self.gauges(name, help).sample(&[], value);
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// A number as it is, true as 1. What is no number is unknown, and left out.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: &Value) {
        let number = match value {
            Value::Number(number) => number.to_string(),
            Value::Bool(yes) => u8::from(*yes).to_string(),
            _ => return,
        };
        if !std::mem::replace(&mut self.begun, true) {
            let (name, kind) = (self.name, self.kind);
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(self.help, false));
        }
        self.text.push_str(self.name);
        for (n, (label, value)) in labels.iter().enumerate() {
            let before = if n == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(value, true));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {number}");
    }

    /// Each number of an object under its key, as many as `max`.
    pub fn samples(&mut self, label: &str, values: &Value, max: usize) {
        for (key, value) in values.as_object().into_iter().flatten().take(max) {
            self.sample(&[(label, key)], value);
        }
    }
}

/// Milliseconds of a status in the unit that Prometheus wants.
pub fn seconds(ms: &Value) -> Value {
    ms.as_f64().map_or(Value::Null, |ms| (ms / 1e3).into())
}

fn escaped(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_what_prometheus_reads() {
        let mut out = Exposition::default();
        out.counter("a_total", "How many.", &json!(3));
        out.gauge("b", "True\nor \"not\" \\.", &json!(true));
        out.gauge("unknown", "Not measured.", &Value::Null);
        out.gauge("c_seconds", "A span.", &seconds(&json!(1_500)));
        let mut family = out.gauges("d", "By label.");
        family.sample(&[("site", "a\"b\\c\nd"), ("class", "x")], &json!(-1));
        family.samples("code", &json!({ "x": 1, "y": "no number", "z": 2 }), 2);
        assert_eq!(
            out.into_text(),
            "# HELP a_total How many.\n# TYPE a_total counter\na_total 3\n\
             # HELP b True\\nor \"not\" \\\\.\n# TYPE b gauge\nb 1\n\
             # HELP c_seconds A span.\n# TYPE c_seconds gauge\nc_seconds 1.5\n\
             # HELP d By label.\n# TYPE d gauge\nd{site=\"a\\\"b\\\\c\\nd\",class=\"x\"} -1\nd{code=\"x\"} 1\n"
        );
    }
}
