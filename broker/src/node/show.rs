//! The `status` command of every node: asks the admin socket and prints for people or for programs.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::admin;

/// Prints the node's status. `lines` picks what people want to see first.
pub fn status(dir: &Path, json: bool, lines: fn(&Value) -> Vec<(String, String)>) -> anyhow::Result<()> {
    let status = admin::ask(dir, "status").with_context(|| {
        format!("ask {}: is the node running with this --data folder?", admin::socket_path(dir).display())
    })?;
    if let Some(error) = status.get("error") {
        anyhow::bail!("the node answered: {error}");
    }
    if json {
        println!("{status}");
        return Ok(());
    }
    let lines = lines(&status);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in lines {
        println!("{name:width$}  {value}");
    }
    Ok(())
}

/// A number with thin groups: 1234567 as 1,234,567.
pub fn number(value: &Value) -> String {
    let Some(n) = value.as_i64() else { return value.as_str().unwrap_or("-").to_owned() };
    let digits = n.unsigned_abs().to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if n < 0 { format!("-{out}") } else { out }
}

pub fn bytes(value: &Value) -> String {
    let n = value.as_u64().unwrap_or(0) as f64;
    let (unit, size) = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .map(|(unit, shift)| (unit, f64::from(1u32 << shift)))
        .find(|(_, size)| n >= *size)
        .unwrap_or(("B", 1.0));
    if unit == "B" { format!("{n} B") } else { format!("{:.1} {unit}", n / size) }
}

/// What a node costs its disk, in a line.
pub fn disk(disk: &Value) -> String {
    let free = format!("{} free", bytes(&disk["free_bytes"]));
    if !disk["written_bytes"].is_u64() {
        return format!("{free}; this system does not say what is written");
    }
    let each = match disk["written_bytes_per_record"].is_u64() {
        true => format!(
            ", {} a record ({} appended)",
            bytes(&disk["written_bytes_per_record"]),
            bytes(&disk["appended_bytes_per_record"])
        ),
        false => String::new(),
    };
    let day = match disk["written_bytes_per_day"].is_u64() {
        true => format!(", {} a day", bytes(&disk["written_bytes_per_day"])),
        false => ", a day's rate is known after a minute".into(),
    };
    format!("{} written since the start{each}{day}; {free}", bytes(&disk["written_bytes"]))
}

/// A node's certificates, in a line.
pub fn certificates(certificates: &Value) -> String {
    let each = certificates.as_object().into_iter().flatten().map(|(of, certificate)| {
        let days = certificate["days_left"].as_f64().unwrap_or(0.0);
        let trouble = certificate["trouble"].as_str().map(|why| format!(" (NOT RENEWED: {why})")).unwrap_or_default();
        match days {
            ..0.0 => format!("{of} ENDED {}{trouble}", certificate["not_after"].as_str().unwrap_or_default()),
            _ => format!("{of} for {days:.0} days{trouble}"),
        }
    });
    let all: Vec<String> = each.collect();
    if all.is_empty() { "none: not encrypted".into() } else { all.join(", ") }
}

/// Milliseconds in the unit that reads best.
pub fn span(value: &Value) -> String {
    let Some(ms) = value.as_u64() else { return "-".into() };
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", ms as f64 / 1e3),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{:.1} h", ms as f64 / 3.6e6),
    }
}

/// 2026-11-22T06:00:00Z
pub fn when(at_ms: u64) -> String {
    let (days, second) = (at_ms / 86_400_000, at_ms / 1_000 % 86_400);
    // Civil from days, after Howard Hinnant: eras of 400 years that begin with March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (ms, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696_000, "2000-02-29T12:34:56Z"),
            (1_795_312_800_000, "2026-11-22T02:00:00Z"),
        ] {
            assert_eq!(when(ms), shown);
        }
    }
}
