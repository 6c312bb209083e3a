//! The documented exit codes, and how an error is told.

use std::process::ExitCode;

use super::print;
use crate::client;
use crate::types::problem::Invalid;
use crate::types::signature::BadSecret;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Done = 0,
    /// It was refused or failed.
    Failed = 1,
    /// It was asked in a wrong way.
    Usage = 2,
    /// It could not reach the service.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Wrong usage that only shows after the arguments were read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The exit code that an error stands for.
pub fn of(error: &anyhow::Error) -> Exit {
    if gone(error) {
        return Exit::Done;
    }
    let usage = error.is::<Usage>() || error.is::<BadSecret>() || error.is::<Invalid>();
    if usage {
        return Exit::Usage;
    }
    match error.downcast_ref::<client::Error>() {
        Some(client::Error::Unreachable(_)) => Exit::Unreachable,
        Some(
            client::Error::Problem(_)
            | client::Error::Foreign(_)
            | client::Error::BadReply(_)
            | client::Error::TooLarge(_),
        )
        | None => Exit::Failed,
    }
}

/// The code that a command came to, once its answer was printed. A reader that has gone, as in `| head`, does not make a
/// failure a success.
pub fn told(code: impl Into<ExitCode>, printed: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    match printed {
        Err(error) if !gone(&error) => Err(error),
        Ok(()) | Err(_) => Ok(code.into()),
    }
}

/// Tells of an error on standard error, as JSON if wanted.
pub fn complain(error: &anyhow::Error, json: bool) -> Exit {
    let exit = of(error);
    match exit {
        Exit::Done => {}
        Exit::Failed | Exit::Usage | Exit::Unreachable if json => print::err(document(error, exit)),
        Exit::Failed | Exit::Usage | Exit::Unreachable => {
            print::err(format_args!("error: {}", print::clean(&format!("{error:#}"))));
        }
    }
    exit
}

/// The service's own problem document where there is one.
fn document(error: &anyhow::Error, exit: Exit) -> serde_json::Value {
    if let Some(own @ client::Error::Problem(problem)) = error.downcast_ref()
        && let Ok(mut document) = serde_json::to_value(problem)
    {
        // What was under way when it came, such as the job that was submitted.
        if error.to_string() != own.to_string() {
            document["detail"] = format!("{error:#}").into();
        }
        return document;
    }
    let code = match exit {
        Exit::Done | Exit::Failed => "failed",
        Exit::Usage => "usage",
        Exit::Unreachable => "unreachable",
    };
    serde_json::json!({"code": code, "detail": format!("{error:#}")})
}

/// Whether it is only that the reader of our output has had enough.
fn gone(error: &anyhow::Error) -> bool {
    let broken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(broken)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn every_error_has_its_documented_code() {
        let problem = r#"{"type":"/problems/forbidden","title":"t","status":403,"code":"forbidden"}"#;
        let problem = client::Error::Problem(serde_json::from_str(problem).unwrap());
        let io = |kind| anyhow::Error::from(std::io::Error::from(kind));
        for (error, exit) in [
            (problem.into(), Exit::Failed),
            (client::Error::BadReply("x".into()).into(), Exit::Failed),
            (client::Error::Unreachable("x".into()).into(), Exit::Unreachable),
            (Usage("x".into()).into(), Exit::Usage),
            (BadSecret::Prefix.into(), Exit::Usage),
            (Invalid::member("tenant", "x").into(), Exit::Usage),
            (anyhow::anyhow!("x"), Exit::Failed),
            (io(std::io::ErrorKind::NotFound), Exit::Failed),
            (io(std::io::ErrorKind::BrokenPipe), Exit::Done),
        ] {
            assert_eq!(of(&error), exit, "{error}");
            let wrapped = Err::<(), _>(error).context("while doing it").unwrap_err();
            assert_eq!(of(&wrapped), exit, "{wrapped:#}");
        }
    }

    #[test]
    fn in_json_a_problem_stays_what_it_is() {
        let problem = r#"{"type":"/problems/forbidden","title":"t","status":403,"code":"forbidden"}"#;
        let error: anyhow::Error = client::Error::Problem(serde_json::from_str(problem).unwrap()).into();
        let wanted: serde_json::Value = serde_json::from_str(problem).unwrap();
        assert_eq!(document(&error, Exit::Failed), wanted);
        let told = document(&error.context("job_1 was submitted"), Exit::Failed);
        assert_eq!((&told["code"], &told["status"]), (&wanted["code"], &wanted["status"]));
        assert!(
            told["detail"].as_str().is_some_and(|detail| detail.starts_with("job_1 was submitted: ")),
            "{told}"
        );
        let error = Usage("no".into()).into();
        assert_eq!(document(&error, Exit::Usage).to_string(), r#"{"code":"usage","detail":"no"}"#);
    }
}
