//! Sectors that cannot be read, and a journal that is damaged on a disk that has no room to mend it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::ledgers;
use crate::harness::mqtt::{Link, Packet, Qos};
use crate::harness::node::{BINARY, Node, Spec, path};
use crate::harness::wait::until;
use crate::harness::{GTIN, SITE, folder, tools};

const SENT: u32 = 800;
/// Small segments.
const CONFIG: &str = "journal_mib_max = 2\n";

fn receive(n: u32) -> String {
    json!({"id": format!("r{n}"), "gtin": GTIN, "op": "receive"}).to_string()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir.join("journal")).expect("list the journal");
    let mut files: Vec<_> = listed.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a folder");
    for entry in fs::read_dir(from).expect("list a folder") {
        let entry = entry.expect("an entry");
        let (kind, target) = (entry.file_type().expect("its kind"), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).expect("copy a file");
        }
    }
}

async fn scans(gateway: &Node, count: u32) {
    let mut scanner = Link::device(gateway.addr, "scanner-1").await;
    for n in 1..=count {
        scanner.ask("scan", receive(n)).await;
    }
}

/// A stopped gateway's ledger of several segments.
async fn made() -> TempDir {
    let dir = folder();
    let mut gateway = Spec::gateway(dir.path(), SITE, None).config(CONFIG).start().await;
    scans(&gateway, SENT).await;
    gateway.stop().await;
    assert!(segments(&dir.path().join(SITE)).len() > 2);
    dir
}

/// Puts a file or folder where only its old self is: what takes its place is on sectors that can be read.
fn moved_away(path: &Path) -> PathBuf {
    let away = path.with_file_name(format!("bad-{}", path.file_name().expect("a name").display()));
    fs::rename(path, &away).expect("move it away");
    std::os::unix::fs::symlink(&away, path).expect("leave a link");
    away
}

/// The words that run a program to which the disk does not give back `file`, in the reads of the given counts.
fn unreadable(file: &Path, calls: &str, when: &str) -> Vec<String> {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error=EIO:when={when}"));
    let strace = ["strace", "-D", "-f", "-o", "/dev/null", "-P", &path(file), "-e", &trace, "-e", &inject];
    strace.map(str::to_owned).to_vec()
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Starts it with sectors that it cannot read, lets it go on, and checks that all is there but what it names.
async fn goes_on(made: &Path, strace: &[String]) -> (Vec<(u64, u64)>, Node) {
    let dir = made.parent().expect("a folder of all nodes");
    let mut gateway = Spec::gateway(dir, SITE, None).config(CONFIG).under(&words(strace)).start().await;
    let recovery = gateway.status().await["recovery"].clone();
    let lost: Vec<(u64, u64)> = serde_json::from_value(recovery["lost"].clone()).expect("spans");
    let mut scanner = Link::device(gateway.addr, "scanner-1").await;
    scanner.done("scan", json!({"id": "after", "gtin": GTIN, "op": "receive"})).await;
    gateway.stop().await;
    let mut left: Vec<_> = (1..=u64::from(SENT))
        .filter(|seq| !lost.iter().any(|(first, last)| (first..=last).contains(&seq)))
        .map(|seq| format!("r{seq}"))
        .collect();
    left.push("after".into());
    let found = ledgers::of_gateway(made);
    assert_eq!(found.iter().map(|row| row.request.clone()).collect::<Vec<_>>(), left, "{recovery}");
    gateway.by_itself();
    gateway.restart().await;
    let again = gateway.status().await["recovery"].clone();
    assert_eq!((&again["lost"], &again["damaged"]), (&json!([]), &json!([])), "mended once is mended");
    (lost, gateway)
}

#[tokio::test]
async fn a_sector_of_the_journal_that_cannot_be_read_costs_what_was_in_it() {
    if !tools::has(&["strace"]) {
        return;
    }
    // The first read of the frames and the fifth page, on its own, of a segment; and a segment as a whole.
    for (segment, when, at_most) in [(0, "3..8+5", 40), (1, "2..7+5", 40), (0, "1+", 500), (1, "1+", 500)] {
        let dir = made().await;
        let data = dir.path().join(SITE);
        let file = segments(&data)[segment].clone();
        let (lost, mut gateway) = goes_on(&data, &unreadable(&moved_away(&file), "pread64", when)).await;
        let [(first, last)] = lost[..] else { panic!("{segment} {when}: {lost:?}") };
        assert!((3..at_most).contains(&(last - first + 1)), "{segment} {when}: {lost:?}");
        let kept = data.join("damaged").join(file.file_name().expect("a name"));
        assert!(kept.exists(), "the file is kept");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_segment_that_cannot_be_opened_is_kept_aside_and_its_records_named() {
    if !tools::has(&["strace"]) {
        return;
    }
    for (name, pick) in [("the first", 0), ("one between", 1), ("the newest", usize::MAX)] {
        let dir = made().await;
        let data = dir.path().join(SITE);
        let files = segments(&data);
        let file = files[pick.min(files.len() - 1)].clone();
        let before = fs::read(&file).expect("read a segment");
        let (lost, mut gateway) = goes_on(&data, &unreadable(&file, "openat", "1+")).await;
        let [(first, last)] = lost[..] else { panic!("{name}: {lost:?}") };
        assert!(last - first > 20, "{name}: {lost:?}");
        assert_eq!((first == 1, last == u64::from(SENT)), (pick == 0, pick == usize::MAX), "{name}: {lost:?}");
        let kept = data.join("damaged").join(file.file_name().expect("a name"));
        assert_eq!(fs::read(kept).expect("read what was kept"), before, "{name}");
        gateway.stop().await;
    }
}

/// What cannot be gone on from is told with what a person can do, and nothing is changed.
#[tokio::test]
async fn what_must_not_be_passed_over_stops_the_start_with_advice() {
    if !tools::has(&["strace"]) {
        return;
    }
    let dir = made().await;
    let data = dir.path().join(SITE);
    fs::remove_file(data.join("ledger.closed")).expect("make it an unclean stop");
    let files = segments(&data);
    let newest = files.last().expect("a segment").clone();
    let cases = [
        (newest.clone(), "openat", "without the newest records"),
        (data.join("journal"), "openat,getdents64", "empty data folder"),
    ];
    for (bad, calls, advice) in cases {
        let strace = unreadable(&bad, calls, "1+");
        let spec = Spec::gateway(dir.path(), SITE, None).config(CONFIG).under(&words(&strace));
        let said = spec.try_start().await.expect_err("it must not start");
        assert!(said.contains(advice) && said.contains(&path(&bad)), "{said}");
        assert_eq!(segments(&data), files);
    }
    // Once the disk gives it back, nothing is missing.
    let mut gateway = Spec::gateway(dir.path(), SITE, None).config(CONFIG).start().await;
    assert_eq!(gateway.status().await["recovery"]["lost"], json!([]));
    gateway.stop().await;
    assert_eq!(ledgers::of_gateway(&data).len(), SENT as usize);
}

#[tokio::test]
async fn a_state_or_a_small_file_that_cannot_be_read_is_made_anew() {
    if !tools::has(&["strace"]) {
        return;
    }
    let whole = ["ledger.closed", "ledger/conf", "state.snapshot", "ledger/db"].map(|file| (file, "1+"));
    let once = ["2", "3", "5", "9"].map(|when| ("ledger/db", when));
    let read = whole.into_iter().chain(once).map(|(file, when)| (file, "read,pread64", when));
    // Openings are known by the name that was asked for, which what is made anew gets: only the first fails.
    let opened = [("ledger.closed", "1+"), ("ledger/conf", "1"), ("state.snapshot", "1+"), ("ledger/db", "1")];
    let opened = opened.map(|(file, when)| (file, "openat", when));
    for (file, calls, when) in read.chain(opened) {
        let dir = made().await;
        let data = dir.path().join(SITE);
        if file == "state.snapshot" {
            fs::write(data.join(file), "nobody reads it").expect("write a snapshot");
            fs::write(data.join("ledger/db"), "").expect("damage the database");
        }
        let bad = match file.strip_prefix("ledger/") {
            Some(_) if calls == "openat" => data.join(file),
            Some(name) => moved_away(&data.join("ledger")).join(name),
            None => data.join(file),
        };
        let (lost, mut gateway) = goes_on(&data, &unreadable(&bad, calls, when)).await;
        assert_eq!(lost, [], "{file} {calls} {when}");
        let mut scanner = Link::device(gateway.addr, "scanner-1").await;
        let stock = scanner.done("scan", json!({"id": "last", "gtin": GTIN, "op": "receive"})).await;
        assert_eq!(stock["item"]["on_hand"], SENT + 2, "{file} {when}: {stock}");
        gateway.stop().await;
    }
}

/// What the uplink cannot read stops the uplink alone; the next start passes it over.
#[tokio::test]
async fn a_segment_that_goes_bad_while_it_runs_holds_up_the_uplink_until_the_next_start() {
    if !tools::has(&["strace"]) {
        return;
    }
    let dir = made().await;
    let data = dir.path().join(SITE);
    let bad = moved_away(&segments(&data)[1]);
    let mut hub = Spec::hub(dir.path()).start().await;
    hub.stop().await;
    let hub_addr = hub.addr;
    let spec = || Spec::gateway(dir.path(), SITE, Some(hub_addr)).config(CONFIG);
    let mut gateway = spec().start().await;
    let Some(mut strace) = from_now_on(&gateway, &unreadable(&bad, "pread64", "1+")).await else { return };
    hub.restart().await;
    let status = gateway.until_status("the uplink gives up", |s| s.to_string().contains("ledger_unreadable")).await;
    assert!(status.to_string().contains("does not give back"), "{status}");
    hub.until_status("what comes before is there", |s| s["sites"][SITE]["applied_seq"].as_u64() > Some(300)).await;
    let mut scanner = Link::device(gateway.addr, "scanner-1").await;
    scanner.done("scan", json!({"id": "after", "gtin": GTIN, "op": "receive"})).await;
    strace.kill().await.expect("let go of it");
    gateway.stop().await;

    // Now the start finds it.
    let mut gateway = spec().under(&words(&unreadable(&bad, "pread64", "1+"))).start().await;
    let status = gateway.status().await;
    assert_eq!(status["recovery"]["lost"].as_array().map(Vec::len), Some(1), "{status}");
    gateway.until_applied().await;
    gateway.stop().await;
    hub.stop().await;
    let at_hq = ledgers::Hq::read(hub.dir()).rows;
    assert!(at_hq.len() < SENT as usize && at_hq == ledgers::of_gateway(&data), "{status}");
}

#[tokio::test]
async fn doctor_says_what_cannot_be_read() {
    if !tools::has(&["strace"]) {
        return;
    }
    let dir = made().await;
    let data = dir.path().join(SITE);
    fs::write(data.join("state.snapshot"), "nobody reads it").expect("write a snapshot");
    let all = [segments(&data)[1].clone(), data.join("ledger/db"), data.join("state.snapshot")];
    for file in all {
        let done = doctor(&data, &unreadable(&file, "read,pread64", "1+")).await;
        let said = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(65), "{done:?}");
        assert!(said.contains("cannot be read"), "{said}");
    }
}

/// Lets strace hold a running gateway. `None` where this machine does not allow that.
async fn from_now_on(gateway: &Node, strace: &[String]) -> Option<Child> {
    let mut command = Command::new("strace");
    command.args(["-p", &gateway.id().to_string()]).args(strace[1..].iter().filter(|word| *word != "-D"));
    let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("start strace");
    let mut said = BufReader::new(child.stderr.take().expect("its stderr")).lines();
    let first = said.next_line().await.expect("read what strace says").unwrap_or_default();
    if !first.contains("attached") {
        println!("SKIPPED: this machine lets nobody trace a process that runs: {first}");
        return None;
    }
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    Some(child)
}

async fn doctor(dir: &Path, strace: &[String]) -> Output {
    let words = [strace, &[BINARY, "gateway", "doctor"].map(str::to_owned), &[path(dir)]].concat();
    Command::new(&words[0]).args(&words[1..]).kill_on_drop(true).output().await.expect("run doctor")
}

/// Not a byte is free, and the journal is damaged: it starts, serves what is sound, refuses, and takes again when there
/// is room. The start after that mends.
#[tokio::test]
async fn a_damaged_journal_on_a_full_disk_is_used_as_it_is_until_there_is_room() {
    let mount = "mount -t tmpfs -o size=64m none \"$0\"";
    let allowed = std::process::Command::new("unshare").args(["-rm", "sh", "-c", mount, "/mnt"]).output();
    if !allowed.is_ok_and(|done| done.status.success()) {
        println!("SKIPPED: this machine lets nobody mount a file system of their own");
        return;
    }
    let fill = "cp -a \"$1\"/. \"$0\" && shift && { dd if=/dev/zero of=\"$0/ballast\" bs=4096; exec \"$@\"; }";
    let fill = format!("{mount} && {fill}");
    for newest in [false, true] {
        let dir = made().await;
        // A database has all the room that it needs at a start from its third on.
        for _ in 0..2 {
            Spec::gateway(dir.path(), SITE, None).config(CONFIG).start().await.stop().await;
        }
        let (data, before) = (dir.path().join(SITE), dir.path().join("before"));
        let mut files = segments(&data);
        let file = if newest { files.pop().expect("a segment") } else { files.remove(1) };
        let mut bytes = fs::read(&file).expect("read a segment");
        // In the middle, and what stands at its end.
        let (middle, end) = (bytes.len() / 2, bytes.len() - 3);
        bytes[middle] ^= 1;
        bytes[end] ^= 1;
        fs::write(&file, bytes).expect("damage a segment");
        fs::rename(&data, &before).expect("put the ledger aside");
        fs::create_dir(&data).expect("make the place to mount on");

        let spec = Spec::gateway(dir.path(), SITE, None).config(CONFIG).config("disk_reserve_mib = 20\n");
        let under = ["unshare", "-rm", "sh", "-c", &fill, &path(&data), &path(&before)];
        let gateway = spec.clone().under(&under).start().await;
        let inside = PathBuf::from(format!("/proc/{}/root{}", gateway.id(), path(&data)));
        assert!(gateway.log().contains("is used as it is"), "{}", gateway.log());
        assert!(!publishes(&gateway, "early").await, "there is no room");
        fs::remove_file(inside.join("ballast")).expect("make room");
        until("publishes are taken", async || publishes(&gateway, "late").await.then_some(()).ok_or("no".into())).await;

        let recovery = gateway.status_in(&inside).await["recovery"].clone();
        let lost: Vec<(u64, u64)> = serde_json::from_value(recovery["lost"].clone()).expect("spans");
        assert!(lost.len() == 2 && lost.iter().all(|(first, last)| first == last), "newest {newest}: {recovery}");

        // What a power cut would leave there, on a disk that has room.
        let left = dir.path().join("left").join(SITE);
        copy(&inside, &left);
        drop(gateway);
        let mut again = Spec::gateway(&dir.path().join("left"), SITE, None).config(CONFIG).start().await;
        let kept = left.join("damaged").join(file.file_name().expect("a name"));
        assert!(kept.exists(), "newest {newest}: mended now");
        again.stop().await;
        let gone = |n: u64| lost.iter().any(|(first, last)| (first..=last).contains(&&n));
        let mut wanted: Vec<_> = (1..=u64::from(SENT)).filter(|n| !gone(*n)).map(|n| format!("r{n}")).collect();
        wanted.push("late".into());
        let found: Vec<_> = ledgers::of_gateway(&left).into_iter().map(|row| row.request).collect();
        assert_eq!(found, wanted, "newest {newest}: {recovery}");
    }
}

async fn publishes(gateway: &Node, id: &str) -> bool {
    let mut device = Link::open(gateway.addr, "scanner-1").await;
    let scan = json!({"id": id, "gtin": GTIN, "op": "receive"}).to_string();
    device.throw(Qos::One, 1, false, b"dev/scanner-1/scan", scan.as_bytes()).await;
    matches!(device.next_or_closed().await, Some(Packet::PubAck(1)))
}
