//! What strace wrote, read back: calls with their bytes, and the order in which they began and ended.
//!
//! The flags matter: `-f -y -xx -e raw=read,readv`, so that every string is hex and no string is cut.

use std::collections::HashMap;
use std::io::BufRead;

/// Everything that makes, changes, names or syncs files, and what tells which descriptor is which. `?`: not every
/// machine has the older ones.
pub(super) const CALLS: &str = "trace=?open,openat,?creat,close,?dup,?dup2,dup3,fcntl,lseek,read,readv,\
write,writev,pwrite64,pwritev,pwritev2,?truncate,ftruncate,fallocate,copy_file_range,sendfile,mmap,\
fsync,fdatasync,sync_file_range,sync,syncfs,?io_uring_setup,\
?mkdir,mkdirat,?rmdir,?unlink,unlinkat,?rename,?renameat,renameat2,?link,linkat,?symlink,symlinkat,\
?accept,accept4,sendto,sendmsg";

#[derive(Debug, Clone, Default)]
pub(super) struct Call {
    pub(super) name: String,
    /// As printed, with every string taken out of it.
    pub(super) args: Vec<String>,
    /// The strings of the arguments in their order.
    pub(super) strings: Vec<Vec<u8>>,
    /// None if it was never seen to return.
    pub(super) result: Option<i64>,
}

impl Call {
    pub(super) fn number(&self, arg: usize) -> i64 {
        let text = self.args.get(arg).map_or("", String::as_str);
        number(text).unwrap_or_else(|| panic!("argument {arg} of {self:?} is not a number"))
    }

    /// The path behind a descriptor, where strace showed one.
    pub(super) fn path_of(&self, arg: usize) -> Option<String> {
        let (_, path) = self.args.get(arg)?.split_once('<')?;
        Some(String::from_utf8_lossy(&unhex(path.strip_suffix('>')?)).into_owned())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mark {
    Began(usize),
    Ended(usize),
    /// The process is gone.
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) calls: Vec<Call>,
    pub(super) marks: Vec<Mark>,
    /// Calls under way, by thread.
    open: HashMap<u32, usize>,
    /// The first thread of the process that lives now.
    leader: Option<u32>,
}

impl Trace {
    pub(super) fn read(mut lines: impl BufRead) -> Trace {
        let (mut trace, mut line) = (Trace::default(), Vec::new());
        while lines.read_until(b'\n', &mut line).expect("read the trace") > 0 {
            let text = std::str::from_utf8(&line).expect("strace writes ASCII");
            trace.take(text.trim_end());
            line.clear();
        }
        trace
    }

    fn take(&mut self, line: &str) {
        let (thread, rest) = line.split_once(' ').unwrap_or_else(|| panic!("not a line of strace: {line:?}"));
        let thread: u32 = thread.parse().unwrap_or_else(|_| panic!("no thread in {line:?}"));
        let rest = rest.trim_start();
        let leader = *self.leader.get_or_insert(thread);
        if rest.starts_with("---") {
            return;
        }
        if rest.starts_with("+++") {
            self.open.remove(&thread);
            // A group's leader is always the last that is seen to end.
            if thread == leader {
                self.leader = None;
                self.open.clear();
                self.marks.push(Mark::Over);
            }
            return;
        }
        if rest.starts_with("<...") {
            let call = self.open.remove(&thread).unwrap_or_else(|| panic!("resumed, but never begun: {line:?}"));
            return self.end(call, rest);
        }
        let call = self.calls.len();
        self.calls.push(parse(rest));
        self.marks.push(Mark::Began(call));
        match rest.ends_with("<unfinished ...>") {
            true => drop(self.open.insert(thread, call)),
            false => self.end(call, rest),
        }
    }

    fn end(&mut self, call: usize, rest: &str) {
        let (_, result) = rest.rsplit_once(" = ").unwrap_or_else(|| panic!("no result in {rest:.200}"));
        if let Some(result) = number(result) {
            self.calls[call].result = Some(result);
            self.marks.push(Mark::Ended(call));
        }
    }
}

fn parse(text: &str) -> Call {
    let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("not a call: {text:.200}"));
    let (mut strings, mut plain, mut rest) = (Vec::new(), String::new(), rest);
    while let Some((before, after)) = rest.split_once('"') {
        let (string, after) = after.split_once('"').unwrap_or_else(|| panic!("an open string: {text:.200}"));
        assert!(!after.starts_with("..."), "strace has cut a string short: {name}");
        strings.push(unhex(string));
        plain.push_str(before);
        rest = after;
    }
    plain.push_str(rest);
    let args = plain.rsplit_once(" = ").map_or(plain.as_str(), |(args, _)| args.trim_end());
    let args = args.strip_suffix("<unfinished ...>").unwrap_or(args).trim_end();
    let args = args.strip_suffix(')').unwrap_or(args);
    Call { name: name.into(), args: split(args), strings, result: None }
}

/// At commas that are in no bracket.
fn split(args: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for letter in args.chars() {
        match letter {
            '[' | '{' | '<' | '(' => depth += 1,
            ']' | '}' | '>' | ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("one part at least").push(letter);
    }
    parts.into_iter().map(|part| part.trim().to_owned()).collect()
}

fn number(text: &str) -> Option<i64> {
    if let Some(hex) = text.strip_prefix("0x") {
        let digits = hex.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        return u64::from_str_radix(digits, 16).ok().map(|bits| bits as i64);
    }
    let end = text.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => letter - b'0',
        b'a'..=b'f' => letter - b'a' + 10,
        _ => panic!("not a hex digit in {text:.200}"),
    };
    let bytes = text.as_bytes().chunks(4).map(|escape| match escape {
        [b'\\', b'x', high, low] => digit(*high) << 4 | digit(*low),
        _ => panic!("not an escape: {text:.200}"),
    });
    bytes.collect()
}

#[test]
fn calls_are_read_with_their_bytes() {
    let text = [
        r#"7 openat(AT_FDCWD<\x2f>, "\x2f\x61", O_WRONLY|O_CREAT, 0666) = 9<\x2f\x61>"#,
        r#"7 pwrite64(9<\x2f\x61>, "\x00\x22\x2c", 3, 4096 <unfinished ...>"#,
        r#"8 writev(5<\x73>, [{iov_base="\x40\x02", iov_len=2}, {iov_base="\x00\x01", iov_len=2}], 2) = 4"#,
        "8 --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER} ---",
        "7 <... pwrite64 resumed>)          = 3",
        "8 fsync(9) = -1 EIO (Input/output error)",
        "8 read(0x9, 0x7f00, 0x1000) = 0x40",
        "8 fdatasync(9 <unfinished ...>",
        "8 <... fdatasync resumed>) = ?",
        "8 +++ killed by SIGKILL +++",
        "7 +++ killed by SIGKILL +++",
    ];
    let trace = Trace::read(text.join("\n").as_bytes());
    use Mark::{Began, Ended, Over};
    let order = [
        Began(0),
        Ended(0),
        Began(1),
        Began(2),
        Ended(2),
        Ended(1),
        Began(3),
        Ended(3),
        Began(4),
        Ended(4),
        Began(5),
        Over,
    ];
    assert_eq!(trace.marks, order);
    let [opened, written, vector, failed, raw, lost] = &trace.calls[..] else { panic!("{:?}", trace.calls) };
    assert_eq!((opened.strings[0].as_slice(), opened.args[2].as_str()), (&b"/a"[..], "O_WRONLY|O_CREAT"));
    assert_eq!(opened.result, Some(9));
    assert_eq!((written.number(0), written.number(3), written.path_of(0)), (9, 4096, Some("/a".into())));
    assert_eq!((written.strings[0].as_slice(), written.result), (&[0, 0x22, 0x2c][..], Some(3)));
    assert_eq!(vector.strings, [vec![0x40, 2], vec![0, 1]]);
    assert_eq!((failed.result, raw.number(0), raw.result, lost.result), (Some(-1), 9, Some(64), None));
}

#[test]
#[should_panic(expected = "cut a string short")]
fn a_string_that_was_cut_short_is_noticed() {
    Trace::read(&br#"7 write(9, "\x00"..., 8) = 8"#[..]);
}
