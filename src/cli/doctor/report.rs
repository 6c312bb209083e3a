//! What was found, for a receiver's team to read or a program to take.

use serde::Serialize;

use super::super::print::Out;

/// What a check came to; the worst comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Not asked: something before it failed, no secret was given, or the scheme has no answer to it.
    Skipped,
    Pass,
    /// It works, and will not for ever or not well.
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Skipped => "skipped",
            Verdict::Pass => "pass",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        }
    }
}

/// One question and its answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub detail: String,
}

/// All of them, in the order they were asked.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub url: String,
    pub checks: Vec<Check>,
}

impl Report {
    pub fn of(url: &str) -> Report {
        Report { url: url.to_owned(), checks: Vec::new() }
    }

    pub fn add(&mut self, name: &'static str, verdict: Verdict, detail: impl Into<String>) {
        self.checks.push(Check { name, verdict, detail: detail.into() });
    }

    pub fn pass(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Verdict::Pass, detail);
    }

    pub fn warn(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Verdict::Warn, detail);
    }

    pub fn fail(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Verdict::Fail, detail);
    }

    /// The worst of all answers.
    pub fn worst(&self) -> Verdict {
        self.checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Fail)
    }

    /// Whether it was sent anything that it must take.
    fn asked_to_accept(&self) -> bool {
        self.checks.iter().any(|check| check.name == "signed event" && check.verdict != Verdict::Skipped)
    }

    /// A table and a verdict, or one JSON document.
    pub fn print(&self, out: Out) -> anyhow::Result<()> {
        let sound = self.worst() != Verdict::Fail;
        if out.json {
            return out.value(&serde_json::json!({"url": self.url, "sound": sound, "checks": self.checks}));
        }
        let row = |check: &Check| {
            vec![check.name.to_owned(), check.verdict.word().to_owned(), check.detail.clone()]
        };
        out.rows(&["CHECK", "RESULT", "WHAT WAS SEEN"], self.checks.iter().map(row))?;
        let failed = self.checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
        Ok(out.say(&match failed {
            0 if self.asked_to_accept() => "the receiver does what a receiver must".to_owned(),
            0 => "the receiver refuses what it must; whether it takes what it must, only --secret can tell"
                .to_owned(),
            1 => "1 check failed".to_owned(),
            n => format!("{n} checks failed"),
        })?)
    }
}
