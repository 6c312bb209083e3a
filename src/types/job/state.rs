//! The words for where a job stands and what happens to it.

use serde::{Deserialize, Serialize};

use crate::types::delivery::DeliveryState;

/// A closed set of words that look the same in JSON, SQL and logs.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Every word.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }

            /// The value of a word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == word)
            }
        }

        // By hand: the derive does not see a rename that a macro writes.
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some(Self::ALL.iter().map(|v| v.as_str())))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

words! {
    /// The finer word for where a job stands.
    JobState {
        /// Not yet due.
        Scheduled "scheduled",
        /// Waiting for a worker.
        Queued "queued",
        /// In a worker's hands.
        Processing "processing",
        /// Waiting for its next attempt.
        Retrying "retrying",
        /// Done.
        Complete "complete",
        /// Given up.
        Failed "failed",
        /// Ended by the client.
        Cancelled "cancelled",
        /// Its deadline passed.
        Expired "expired",
    }
}

words! {
    /// The seed's four words; a poller that knows only these always ends.
    Status {
        /// Waiting.
        Queued "queued",
        /// Being worked on.
        Processing "processing",
        /// Done.
        Complete "complete",
        /// Ended without a result.
        Failed "failed",
    }
}

words! {
    /// Who does the work.
    WorkerKind {
        /// Workers that claim from the queue.
        Pull "pull",
        /// The submitter itself: the job is processing at once.
        External "external",
    }
}

words! {
    /// Where the terminal event's delivery stands.
    CallbackState {
        /// There is none.
        None "none",
        /// It is owed.
        Pending "pending",
        /// The receiver took it.
        Delivered "delivered",
        /// It was given up.
        Dead "dead",
        /// Its lane is held.
        Held "held",
        /// It was taken back.
        Cancelled "cancelled",
    }
}

words! {
    /// What happens to a job; each event has the job's next sequence number.
    JobEvent {
        /// Accepted, or queued again.
        Queued "job.queued",
        /// A worker has it.
        Started "job.started",
        /// A worker told how far it is.
        Progress "job.progress",
        /// An attempt failed, another will follow.
        Retrying "job.retrying",
        /// Done.
        Completed "job.completed",
        /// Given up.
        Failed "job.failed",
        /// Ended by the client.
        Cancelled "job.cancelled",
        /// Its deadline passed.
        Expired "job.expired",
    }
}

impl JobState {
    /// The seed's word for it.
    pub const fn status(self) -> Status {
        match self {
            JobState::Scheduled | JobState::Queued | JobState::Retrying => Status::Queued,
            JobState::Processing => Status::Processing,
            JobState::Complete => Status::Complete,
            JobState::Failed | JobState::Cancelled | JobState::Expired => Status::Failed,
        }
    }

    /// Whether nothing more happens without an explicit retry.
    pub const fn ended(self) -> bool {
        match self {
            JobState::Scheduled | JobState::Queued | JobState::Processing | JobState::Retrying => false,
            JobState::Complete | JobState::Failed | JobState::Cancelled | JobState::Expired => true,
        }
    }

    /// The event that tells of the end.
    pub const fn terminal_event(self) -> Option<JobEvent> {
        match self {
            JobState::Scheduled | JobState::Queued | JobState::Processing | JobState::Retrying => None,
            JobState::Complete => Some(JobEvent::Completed),
            JobState::Failed => Some(JobEvent::Failed),
            JobState::Cancelled => Some(JobEvent::Cancelled),
            JobState::Expired => Some(JobEvent::Expired),
        }
    }
}

impl JobEvent {
    /// The four that a callback gets by default.
    pub const TERMINAL: [JobEvent; 4] =
        [JobEvent::Completed, JobEvent::Failed, JobEvent::Cancelled, JobEvent::Expired];

    /// Its bit in a set of wanted events.
    pub const fn bit(self) -> i64 {
        1 << self as i64
    }

    /// The bits of [`JobEvent::TERMINAL`].
    pub fn ends() -> i64 {
        Self::TERMINAL.iter().fold(0, |set, event| set | event.bit())
    }

    /// Whether a set is exactly [`JobEvent::ends`].
    pub fn are_ends(wants: &i64) -> bool {
        *wants == Self::ends()
    }

    /// Whether the job has ended with it.
    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }
}

impl CallbackState {
    /// That of a job that has not ended and whose callback, if it has one, wants these events.
    pub fn awaited(wants: Option<i64>) -> CallbackState {
        if wants.is_some_and(|wants| wants & JobEvent::ends() != 0) {
            CallbackState::Pending
        } else {
            CallbackState::None
        }
    }

    /// Where the callback stands when its delivery stands so.
    pub const fn of(delivery: DeliveryState) -> CallbackState {
        match delivery {
            DeliveryState::Pending | DeliveryState::InFlight => CallbackState::Pending,
            DeliveryState::Delivered => CallbackState::Delivered,
            DeliveryState::Dead => CallbackState::Dead,
            DeliveryState::Held => CallbackState::Held,
            DeliveryState::Cancelled => CallbackState::Cancelled,
        }
    }
}
