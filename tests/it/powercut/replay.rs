//! The calls of a trace done again on the model of the disk, one mark at a time. What the model cannot follow is a
//! panic, never a guess; and whenever a process had ended, the model must hold what the real folder held.

use std::collections::{BTreeSet, HashMap};

use super::disk::{Disk, Ino, Node, Sync, Tree};
use super::trace::{Call, Mark, Trace};

/// Bound and removed by the node; a socket is no file.
const SOCKET: &str = "admin.sock";

/// What a descriptor stands for. Others (other files, eventfds, the uplink) are not followed.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// An open file description.
    File(usize),
    Folder(Ino),
    /// A connection that came in.
    Client,
}

#[derive(Debug, Clone, Copy)]
struct Description {
    ino: Ino,
    at: usize,
    append: bool,
}

/// What a call refers to, as it was when the call began.
#[derive(Debug, Clone, Copy, Default)]
struct Begun {
    target: Option<Target>,
    sync: Option<Sync>,
}

pub(super) struct Replay<'a> {
    trace: &'a Trace,
    /// The disk's root, as the process names it.
    root: &'a str,
    /// What the real disk held after each life of the process.
    ends: &'a [Tree],
    pub(super) disk: Disk,
    /// Packet ids whose PUBACK has been handed to the network.
    pub(super) acked: BTreeSet<u16>,
    /// The next mark.
    pub(super) at: usize,
    pub(super) life: usize,
    descriptors: HashMap<i64, Target>,
    descriptions: Vec<Description>,
    running: HashMap<usize, Begun>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(trace: &'a Trace, root: &'a str, disk: Disk, ends: &'a [Tree]) -> Replay<'a> {
        let (descriptors, descriptions, running) = Default::default();
        let acked = BTreeSet::new();
        Replay { trace, root, ends, disk, acked, at: 0, life: 0, descriptors, descriptions, running }
    }

    /// False at the end.
    pub(super) fn step(&mut self) -> bool {
        let trace = self.trace;
        let Some(mark) = trace.marks.get(self.at) else { return false };
        self.at += 1;
        match *mark {
            Mark::Began(call) => self.began(call),
            Mark::Ended(call) => {
                let begun = self.running.remove(&call).expect("a call begins before it ends");
                let call = &trace.calls[call];
                if call.result.is_some_and(|result| result >= 0) {
                    self.ended(call, begun);
                }
            }
            Mark::Over => self.over(),
        }
        true
    }

    fn began(&mut self, number: usize) {
        let call = &self.trace.calls[number];
        let descriptor = match call.name.as_str() {
            "mmap" => self.mapped(call),
            "io_uring_setup" | "sync" | "syncfs" | "link" | "linkat" | "symlink" | "symlinkat" | "truncate" => {
                panic!("{} is not modelled", call.name)
            }
            "sendfile" | "copy_file_range" => None,
            _ if call.args[0].starts_with(|c: char| c.is_ascii_digit()) => Some(call.number(0)),
            _ => None,
        };
        let target = descriptor.and_then(|descriptor| self.descriptors.get(&descriptor).copied());
        let unknown = target.is_none() && descriptor.is_some_and(|descriptor| descriptor > 2);
        let path = if unknown { call.path_of(0) } else { None };
        let is_ours =
            path.as_ref().is_some_and(|path| self.inside(path).is_some_and(|path| self.disk.find(path).is_some()));
        assert!(!is_ours, "{} of {path:?}, which nobody was seen to open", call.name);
        let mut begun = Begun { target, sync: None };
        match (call.name.as_str(), target) {
            // From here on the number may be given out again.
            ("close", _) => drop(descriptor.map(|descriptor| self.descriptors.remove(&descriptor))),
            ("write" | "writev" | "sendto" | "sendmsg", Some(Target::Client)) => self.hear(&call.strings.concat()),
            ("fsync" | "fdatasync", Some(Target::File(at))) => {
                begun.sync = Some(self.disk.sync_began(self.descriptions[at].ino));
            }
            ("fsync" | "fdatasync", Some(Target::Folder(ino))) => begun.sync = Some(self.disk.sync_began(ino)),
            _ => {}
        }
        self.running.insert(number, begun);
    }

    fn mapped(&self, call: &Call) -> Option<i64> {
        let shared = call.args[2].contains("PROT_WRITE") && call.args[3].contains("MAP_SHARED");
        let path = call.path_of(4).filter(|path| shared && self.inside(path).is_some());
        assert!(path.is_none(), "{path:?} is written through a mapping: its writes cannot be seen");
        None
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        // The admin socket speaks JSON.
        while let [head, rest @ ..] = bytes
            && *head != b'{'
        {
            let (mut len, mut at) = (0, 0);
            loop {
                len |= usize::from(rest[at] & 127) << (7 * at);
                at += 1;
                if rest[at - 1] < 128 {
                    break;
                }
            }
            let body = rest.get(at..at + len).expect("the node writes whole packets");
            if let (0x40, [high, low]) = (*head, body) {
                self.acked.insert(u16::from_be_bytes([*high, *low]));
                self.disk.version += 1;
            }
            bytes = &rest[at + len..];
        }
    }

    fn ended(&mut self, call: &Call, begun: Begun) {
        let result = call.result.expect("it has returned");
        match call.name.as_str() {
            "open" | "openat" | "creat" => self.open(call, result),
            "accept" | "accept4" => drop(self.descriptors.insert(result, Target::Client)),
            "fsync" | "fdatasync" => drop(begun.sync.map(|sync| self.disk.sync_ended(sync))),
            "sendfile" | "copy_file_range" => self.copy(call, result as usize),
            "dup" | "dup2" | "dup3" => self.duplicate(begun, result),
            "fcntl" if call.args[1].starts_with("F_DUPFD") => self.duplicate(begun, result),
            "mkdir" | "mkdirat" | "rmdir" | "unlink" | "unlinkat" => self.name(call),
            "rename" | "renameat" | "renameat2" => self.rename(call),
            _ => {
                if let Some(Target::File(at)) = begun.target {
                    self.file_call(call, at, result as usize);
                }
            }
        }
    }

    fn file_call(&mut self, call: &Call, description: usize, result: usize) {
        let Description { ino, at, append } = self.descriptions[description];
        let len = self.disk.file(ino).now.len();
        match call.name.as_str() {
            "lseek" => self.descriptions[description].at = result,
            "read" | "readv" => self.descriptions[description].at += result,
            "write" | "writev" => {
                let at = if append { len } else { at };
                self.write(call, ino, at, result);
                self.descriptions[description].at = at + result;
            }
            "pwrite64" | "pwritev" | "pwritev2" => self.write(call, ino, call.number(3) as usize, result),
            "ftruncate" => self.disk.resize(ino, call.number(1) as usize),
            "fallocate" => match call.args[1].as_str() {
                "0" => self.disk.resize(ino, len.max((call.number(2) + call.number(3)) as usize)),
                "FALLOC_FL_KEEP_SIZE" => {}
                mode => panic!("fallocate with {mode} is not modelled"),
            },
            "sync_file_range" | "close" | "fcntl" => {}
            other => panic!("{other} of a file is not modelled"),
        }
    }

    fn write(&mut self, call: &Call, ino: Ino, at: usize, written: usize) {
        let bytes = call.strings.concat();
        self.disk.write(ino, at, &bytes[..written]);
    }

    /// The path below the root; None if it is elsewhere.
    fn inside<'p>(&self, path: &'p str) -> Option<&'p str> {
        let below = path.strip_prefix(self.root)?;
        if below.is_empty() { Some(below) } else { below.strip_prefix('/') }
    }

    /// The folder and name that a call's `string`th path means.
    fn place(&self, call: &Call, string: usize) -> Option<(Ino, String)> {
        let path = std::str::from_utf8(call.strings.get(string)?).ok()?;
        if path.starts_with('/') {
            return self.disk.place(self.inside(path)?.trim_end_matches('/'));
        }
        // In rename's calls every path has a folder of its own before it.
        let folder =
            call.args.get(2 * string).and_then(|arg| self.descriptors.get(&arg.split('<').next()?.parse().ok()?));
        match folder {
            Some(Target::Folder(ino)) => Some((*ino, path.to_owned())),
            _ => None,
        }
    }

    fn open(&mut self, call: &Call, descriptor: i64) {
        self.descriptors.remove(&descriptor);
        let Some((folder, name)) = self.place(call, 0) else { return };
        let flags = call.args[if call.name == "openat" { 2 } else { 1 }].clone();
        assert!(!flags.contains("O_TMPFILE"), "a file without a name is not modelled");
        let found = if name.is_empty() { Some(folder) } else { self.disk.folder(folder).now.get(&name).copied() };
        let ino = match found {
            Some(ino) => ino,
            None if flags.contains("O_CREAT") => self.disk.make_file(folder, &name),
            // Such as the configuration, which stands beside the data folder.
            None => return,
        };
        let target = match &self.disk.nodes[ino] {
            Node::Folder(_) => Target::Folder(ino),
            Node::File(_) => {
                if flags.contains("O_TRUNC") {
                    self.disk.resize(ino, 0);
                }
                self.descriptions.push(Description { ino, at: 0, append: flags.contains("O_APPEND") });
                Target::File(self.descriptions.len() - 1)
            }
        };
        self.descriptors.insert(descriptor, target);
    }

    fn duplicate(&mut self, begun: Begun, descriptor: i64) {
        match begun.target {
            Some(target) => self.descriptors.insert(descriptor, target),
            None => self.descriptors.remove(&descriptor),
        };
    }

    fn copy(&mut self, call: &Call, copied: usize) {
        let (from, to) = if call.name == "sendfile" { (1, 0) } else { (0, 2) };
        let file = |arg: usize| match self.descriptors.get(&call.number(arg)) {
            Some(Target::File(at)) => Some(*at),
            _ => None,
        };
        let (from, to) = (file(from), file(to));
        let Some(to) = to else { return };
        let from = from.expect("what is copied in comes from the same folder");
        assert!(call.args.iter().filter(|arg| *arg == "NULL").count() >= 1, "a copy at offsets is not modelled");
        let (source, target) = (self.descriptions[from], self.descriptions[to]);
        let bytes = self.disk.file(source.ino).now[source.at..source.at + copied].to_vec();
        self.disk.write(target.ino, target.at, &bytes);
        self.descriptions[from].at += copied;
        self.descriptions[to].at += copied;
    }

    fn name(&mut self, call: &Call) {
        let Some((folder, name)) = self.place(call, 0) else { return };
        if call.name.starts_with("mkdir") {
            self.disk.make_folder(folder, &name);
        } else if self.disk.folder(folder).now.contains_key(&name) {
            self.disk.unlink(folder, &name);
        } else {
            assert_eq!(name, SOCKET, "removed, but never seen to be made");
        }
    }

    fn rename(&mut self, call: &Call) {
        assert!(!call.args.iter().any(|arg| arg.contains("RENAME_EXCHANGE")), "an exchange is not modelled");
        let (Some(from), Some(to)) = (self.place(call, 0), self.place(call, 1)) else { return };
        self.disk.rename(from, to);
    }

    /// The process is gone. Calls that were cut off may have been done, in part or not at all: the real folder says.
    fn over(&mut self) {
        let real = &self.ends[self.life];
        let trace = self.trace;
        let mut cut_off: Vec<_> = self.running.drain().collect();
        cut_off.sort_by_key(|(call, _)| *call);
        for (number, begun) in cut_off {
            let call = &trace.calls[number];
            let before = (self.disk.clone(), self.descriptions.clone());
            match (call.name.as_str(), begun.target) {
                ("write" | "writev" | "pwrite64" | "pwritev" | "pwritev2", Some(Target::File(at))) => {
                    self.write_cut_off(call, at, real);
                    continue;
                }
                ("openat" | "open" | "mkdir" | "mkdirat" | "unlink" | "unlinkat" | "rmdir", _) => {
                    self.ended(&Call { result: Some(-1), ..call.clone() }, begun);
                }
                ("rename" | "renameat" | "renameat2", _) => self.rename(call),
                ("ftruncate", Some(Target::File(at))) => self.file_call(call, at, 0),
                _ => continue,
            }
            if !self.disk.now().keys().eq(real.keys()) {
                (self.disk, self.descriptions) = before;
            }
        }
        let seen = self.disk.now();
        assert!(seen.keys().eq(real.keys()), "life {}: {:?} not {:?}", self.life, seen.keys(), real.keys());
        for (path, content) in &seen {
            let same = *content == real[path];
            assert!(same, "life {}: the model of {path} is not what the disk holds", self.life);
        }
        self.descriptors.clear();
        self.life += 1;
        self.disk.version += 1;
    }

    fn write_cut_off(&mut self, call: &Call, description: usize, real: &Tree) {
        let Description { ino, at, append } = self.descriptions[description];
        let file = self.disk.file(ino);
        let at = match call.name.as_str() {
            "write" | "writev" if append => file.now.len(),
            "write" | "writev" => at,
            _ => call.number(3) as usize,
        };
        let path = self.disk.path_of(ino);
        let Some(Some(content)) = path.and_then(|path| real.get(&path)) else { return };
        let len: usize = call.strings.iter().map(Vec::len).sum();
        if let Some(done) = content.get(at..content.len().min(at + len)) {
            let done = done.to_vec();
            self.disk.write(ino, at, &done);
        }
    }
}

#[cfg(test)]
fn tree_after(lines: &[&str], ends: &[Tree]) -> Tree {
    let trace = Trace::read(lines.join("\n").as_bytes());
    let mut replay = Replay::new(&trace, "/r", Disk::new(&Tree::new()), ends);
    while replay.step() {}
    replay.disk.now()
}

#[test]
fn descriptors_positions_and_names_are_followed() {
    let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let (folder, file, other) = (hex("/r/d"), hex("/r/d/f"), hex("g"));
    let lines = [
        &*format!(r#"1 mkdir("{folder}", 0777) = 0"#),
        &*format!(r#"1 openat(AT_FDCWD<\x2f>, "{file}", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 5<{file}>"#),
        &*format!(r#"1 write(5<{file}>, "\x61\x62\x63", 3) = 3"#),
        &*format!(r#"1 fcntl(5<{file}>, F_DUPFD_CLOEXEC, 3) = 6<{file}>"#),
        &*format!(r#"1 write(6<{file}>, "\x64", 1) = 1"#),
        &*format!(r#"1 pwrite64(5<{file}>, "\x58", 1, 1) = 1"#),
        &*format!(r#"1 openat(AT_FDCWD<\x2f>, "{folder}", O_RDONLY|O_DIRECTORY) = 7<{folder}>"#),
        &*format!(r#"1 openat(7<{folder}>, "{other}", O_WRONLY|O_CREAT|O_APPEND, 0666) = 8"#),
        r#"1 write(8, "\x79", 1) = 1"#,
        r#"1 write(8, "\x7a", 1) = 1"#,
        r#"1 write(8, "\x7a", 1) = -1 ENOSPC (No space left on device)"#,
        r#"1 lseek(5, 0, SEEK_SET) = 0"#,
        r#"1 openat(7, "\x68", O_WRONLY|O_CREAT, 0666) = 9"#,
        r#"1 copy_file_range(5, NULL, 9, NULL, 1073741824, 0) = 4"#,
        r#"1 unlinkat(7, "\x67", 0) = 0"#,
        &*format!(r#"1 rename("{file}", "{folder}\x2f\x69") = 0"#),
        r#"1 ftruncate(5, 2) = 0"#,
    ];
    let tree = tree_after(&lines, &[]);
    let content = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(tree, Tree::from([("d".into(), None), ("d/h".into(), content("aXcd")), ("d/i".into(), content("aX"))]));
}

#[test]
fn a_write_that_a_kill_cut_off_is_what_the_real_disk_says() {
    let lines = [
        r#"1 openat(AT_FDCWD<\x2f>, "\x2f\x72\x2f\x66", O_WRONLY|O_CREAT, 0666) = 5"#,
        r#"1 write(5, "\x61", 1) = 1"#,
        r#"2 pwrite64(5, "\x62\x63", 2, 1 <unfinished ...>"#,
        "2 +++ killed by SIGKILL +++",
        "1 +++ killed by SIGKILL +++",
    ];
    for content in [&b"a"[..], b"ab", b"abc"] {
        let real = Tree::from([("f".into(), Some(content.to_vec()))]);
        assert_eq!(tree_after(&lines, std::slice::from_ref(&real)), real);
    }
}

#[test]
#[should_panic(expected = "is not what the disk holds")]
fn a_model_that_differs_from_the_disk_is_noticed() {
    let lines = [
        r#"1 openat(AT_FDCWD<\x2f>, "\x2f\x72\x2f\x66", O_WRONLY|O_CREAT, 0666) = 5"#,
        r#"1 write(5, "\x61", 1) = 1"#,
        "1 +++ exited with 0 +++",
    ];
    tree_after(&lines, &[Tree::from([("f".into(), Some(b"b".to_vec()))])]);
}
