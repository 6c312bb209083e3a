//! What a command says on standard error: progress, words for people, and the last of them as a reason.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How much of standard error becomes the error text.
const LAST_LINES: usize = 20;
const LINE_MAX: usize = 4_096;
const MARK: &str = "::progress";

/// Cuts a stream into lines of bounded length; bytes that are not UTF-8 are replaced.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The lines that `chunk` ends.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for byte in chunk {
            if *byte == b'\n' || self.0.len() == LINE_MAX {
                whole.extend(self.rest().or_else(|| Some(String::new())));
            }
            if *byte != b'\n' {
                self.0.push(*byte);
            }
        }
        whole
    }

    /// The line that has no end.
    pub fn rest(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.0);
        (!line.is_empty()).then(|| String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
    }
}

/// The last lines with something in them. Shared with who reads them: what was heard counts although a pipe does not end.
#[derive(Default, Clone)]
pub struct Last(Arc<Mutex<VecDeque<String>>>);

impl Last {
    /// One more line.
    pub fn push(&self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// All of them as one text.
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).make_contiguous().join("\n")
    }
}

/// How far a command says it is: a percentage, and maybe words.
pub type Mark = (u8, Option<String>);

/// Takes the progress lines out of a stream and passes everything else on byte for byte.
///
/// Only what may still become a progress line is held back: a prompt without a line break shows at once.
#[derive(Default)]
pub struct Sieve {
    held: Vec<u8>,
    /// The line under way is known to be an ordinary one.
    ordinary: bool,
}

impl Sieve {
    /// What of `chunk` is passed on, and the progress in it.
    pub fn push(&mut self, chunk: &[u8]) -> (Vec<u8>, Vec<Mark>) {
        let (mut pass, mut marks) = (Vec::new(), Vec::new());
        for byte in chunk {
            if self.ordinary {
                pass.push(*byte);
                self.ordinary = *byte != b'\n';
                continue;
            }
            self.held.push(*byte);
            if *byte == b'\n' {
                self.settle(&mut pass, &mut marks);
            } else if !self.may_be_progress() {
                pass.append(&mut self.held);
                self.ordinary = true;
            }
        }
        (pass, marks)
    }

    /// The same for a line that has no end.
    pub fn rest(&mut self) -> (Vec<u8>, Vec<Mark>) {
        let (mut pass, mut marks) = (Vec::new(), Vec::new());
        self.settle(&mut pass, &mut marks);
        (pass, marks)
    }

    fn settle(&mut self, pass: &mut Vec<u8>, marks: &mut Vec<Mark>) {
        match parse_progress(&String::from_utf8_lossy(&self.held)) {
            Some((percent, message)) => {
                marks.push((percent, message.map(str::to_owned)));
                self.held.clear();
            }
            None => pass.append(&mut self.held),
        }
    }

    fn may_be_progress(&self) -> bool {
        let text = self.held.trim_ascii_start();
        self.held.len() < LINE_MAX && (MARK.as_bytes().starts_with(text) || text.starts_with(MARK.as_bytes()))
    }
}

/// Reads `::progress 40` and `::progress 40 some words`; anything else is an ordinary line.
pub fn parse_progress(line: &str) -> Option<(u8, Option<&str>)> {
    let rest = line.trim().strip_prefix(MARK)?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (number, message) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let digits = number.strip_suffix('%').unwrap_or(number);
    let percent = digits.parse().ok().filter(|percent| *percent <= 100)?;
    let message = message.trim();
    Some((percent, (!message.is_empty()).then_some(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_line_is_told_from_an_ordinary_one() {
        for (line, wanted) in [
            ("::progress 40", Some((40, None))),
            ("::progress 0 a  b ", Some((0, Some("a  b")))),
            ("  ::progress\t100%  done\r", Some((100, Some("done")))),
            ("::progress 101", None),
            ("::progress -1", None),
            ("::progress 4.5", None),
            ("::progress", None),
            ("::progress40", None),
            ("::progressive 40", None),
            ("note: ::progress 40", None),
        ] {
            assert_eq!(parse_progress(line), wanted, "{line}");
        }
    }

    #[test]
    fn lines_are_cut_and_repaired() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"a\r\nb"), ["a"]);
        assert_eq!(lines.push(b"c\n\n\xff"), ["bc", ""]);
        assert_eq!(lines.rest().unwrap(), "\u{fffd}");
        let long = lines.push(&vec![b'x'; LINE_MAX * 2 + 1]);
        assert_eq!(long.iter().map(String::len).collect::<Vec<_>>(), [LINE_MAX, LINE_MAX]);
        assert_eq!(lines.rest().unwrap(), "x");
    }

    #[test]
    fn progress_is_taken_out_and_all_else_passes_at_once() {
        let mut sieve = Sieve::default();
        let mut push = |chunk: &[u8]| {
            let (pass, marks) = sieve.push(chunk);
            (String::from_utf8_lossy(&pass).into_owned(), marks)
        };
        assert_eq!(push(b"Password: "), ("Password: ".to_owned(), vec![]));
        assert_eq!(push(b"\xff::progress 1\n::pro"), ("\u{fffd}::progress 1\n".to_owned(), vec![]));
        assert_eq!(push(b"gress 40 half\n\nx"), ("\nx".to_owned(), vec![(40, Some("half".to_owned()))]));
        assert_eq!(push(b"\n::progressive\n"), ("\n::progressive\n".to_owned(), vec![]));
        let long = [b"::progress 1 ".to_vec(), vec![b'x'; LINE_MAX]].concat();
        assert_eq!(push(&long).0.len(), long.len(), "held back within bounds");
        assert_eq!(push(b"\n::progress 9"), ("\n".to_owned(), vec![]));
        assert_eq!(sieve.rest(), (vec![], vec![(9, None)]));
    }

    #[test]
    fn the_last_lines_are_kept() {
        let last = Last::default();
        (0..30).for_each(|n| last.push(&n.to_string()));
        last.push(" ");
        assert!(last.text().starts_with("10\n11\n"));
    }
}
