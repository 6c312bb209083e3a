//! What a handler gets and gives.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::types::api;
use crate::types::job::Failure;

/// The result of a job.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A JSON value.
    Json(api::Json),
    /// Bytes of any type.
    Bytes {
        /// Their content type.
        content_type: String,
        /// At most 1 MiB.
        bytes: Bytes,
    },
    /// Kept elsewhere, at this URL.
    Elsewhere(String),
}

impl Reply {
    /// `value` as JSON; one that cannot be written fails the job for good.
    pub fn json(value: &impl Serialize) -> Result<Reply, Failure> {
        let written = serde_json::value::to_raw_value(value);
        let refused = |e| Failure::fatal(format!("the result is not JSON: {e}")).with_code("result-invalid");
        written.map(Reply::Json).map_err(refused)
    }

    /// Plain text.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply::bytes("text/plain; charset=utf-8", text.into())
    }

    /// Bytes of any type, at most 1 MiB.
    pub fn bytes(content_type: impl Into<String>, bytes: impl Into<Bytes>) -> Reply {
        Reply::Bytes { content_type: content_type.into(), bytes: bytes.into() }
    }
}

/// One job in the handler's hands.
#[derive(Debug)]
pub struct Task {
    /// What is to be done.
    pub job: api::ClaimedJob,
    /// Tells the client how far the work is.
    pub progress: Progress,
    /// Fires when the work is to be stopped, for whatever reason.
    pub stop: CancellationToken,
}

impl Task {
    /// The input as a `T`; one of another shape fails the job for good, for it would never fit.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let refused =
            |e| Failure::fatal(format!("the input is not understood: {e}")).with_code("input-invalid");
        serde_json::from_str(self.job.input.get()).map_err(refused)
    }
}

#[cfg(all(test, feature = "server"))]
impl Task {
    /// A task without a service behind it, and where its progress shows.
    pub(crate) fn alone(job: api::ClaimedJob) -> (Task, impl Fn() -> (Option<u8>, Option<String>)) {
        let (progress, marks) = Progress::line();
        let seen = move || {
            let mark = marks.borrow().clone();
            (mark.percent, mark.message)
        };
        (Task { job, progress, stop: CancellationToken::new() }, seen)
    }
}

/// Tells the client how far the work is. Cheap to clone and to call; the newest word wins.
#[derive(Debug, Clone)]
pub struct Progress(watch::Sender<Mark>);

impl Progress {
    /// A line to the client, and its other end.
    pub(super) fn line() -> (Progress, watch::Receiver<Mark>) {
        let (progress, marks) = watch::channel(Mark::default());
        (Progress(progress), marks)
    }

    /// `percent` is held at 100, `message` cut after 1,000 characters.
    pub fn report(&self, percent: u8, message: Option<&str>) {
        let message = message.map(|text| text.chars().take(1_000).collect());
        self.0.send_replace(Mark { percent: Some(percent.min(100)), message });
    }
}

/// The last word of a handler on how far it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Mark {
    pub(super) percent: Option<u8>,
    pub(super) message: Option<String>,
}
