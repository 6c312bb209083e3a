//! What can go wrong between us and a database.

use crate::types::problem::Invalid;

/// Why a store verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such row for this tenant.
    #[error("not found")]
    NotFound,
    /// The job's documents are past their retention.
    #[error("past retention")]
    Expired,
    /// Events behind the cursor are past their retention.
    #[error("cursor expired")]
    CursorExpired,
    /// The lease ran out and the job was claimed again, cancelled or ended.
    #[error("lease lost")]
    LeaseLost,
    /// The job has already ended.
    #[error("already finished")]
    AlreadyFinished,
    /// Only failed, cancelled and expired jobs can be retried.
    #[error("not retryable")]
    NotRetryable,
    /// So many redrives of the tenant are running, and no more may.
    #[error("{0} redrives are running")]
    TooManyRedrives(u32),
    /// The idempotency key belongs to another request.
    #[error("idempotency key reused")]
    KeyReused,
    /// The first request with this idempotency key has not committed yet.
    #[error("idempotency key in flight")]
    KeyInFlight,
    /// The request is refused for what it says.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The queue to the database is full.
    #[error("overloaded")]
    Overloaded,
    /// The database does not answer, or not in time; what was asked may have happened.
    #[error("storage unavailable: {0}")]
    Down(String),
    /// The transaction met another one and may be repeated.
    #[error("serialisation failure")]
    Again,
    /// Another transaction holds what is needed, or a statement took too long; nothing was changed.
    #[error("locked or too slow: {0}")]
    Locked(String),
    /// A value the database refuses (SQLSTATE class 22 or 23).
    #[error("refused by the database: {0}")]
    Data(String),
    /// A sealed secret cannot be opened.
    #[error("a sealed secret cannot be opened: {0}")]
    Seal(#[from] super::seal::SealError),
    /// A later release has been at the store.
    #[error(
        "the store is at schema version {at} and this release knows up to {known}: start the newer release, or restore a backup of before"
    )]
    Newer {
        /// The store's version.
        at: i64,
        /// The last that this release knows.
        known: i64,
    },
    /// This release has not been at the store yet.
    #[error(
        "the store is at schema version {at} and this release needs {known}: `ringback migrate --store URL` brings it there"
    )]
    Older {
        /// The store's version; 0 where nothing was ever stored.
        at: i64,
        /// The one of this release.
        known: i64,
    },
    /// A defect of ours.
    #[error("defect: {0}")]
    Bug(String),
}

impl Error {
    /// Whether it may be the fault of one of those that were to be done together, so that the others may do without it.
    pub(super) fn may_be_one_of_them(&self) -> bool {
        use Error::{Bug, Data, Invalid, KeyInFlight, KeyReused, Locked};
        matches!(self, Data(_) | KeyInFlight | KeyReused | Invalid(_) | Locked(_) | Bug(_))
    }

    /// Whether it is what was asked that fails by it, and would again. What someone holds is had another time.
    pub(super) fn is_its_own(&self) -> bool {
        self.may_be_one_of_them() && !matches!(self, Error::Locked(_))
    }

    /// The same for another one who waited for the same call.
    pub(super) fn for_another(&self) -> Error {
        match self {
            Error::Down(text) => Error::Down(text.clone()),
            Error::Data(text) => Error::Data(text.clone()),
            Error::Locked(text) => Error::Locked(text.clone()),
            Error::Again => Error::Again,
            Error::KeyInFlight => Error::KeyInFlight,
            Error::KeyReused => Error::KeyReused,
            Error::Invalid(refusal) => Error::Invalid(refusal.clone()),
            other => Error::Bug(other.to_string()),
        }
    }
}

/// What a store verb answers.
pub type Result<T> = std::result::Result<T, Error>;

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Error {
        match e.as_database_error() {
            Some(db) => from_postgres(&db.code().unwrap_or_default(), db.message().to_owned()),
            None => from_driver(&e),
        }
    }
}

fn from_postgres(code: &str, text: String) -> Error {
    match code {
        // lock_not_available; the time-outs of a statement (query_canceled) and of a transaction
        "55P03" | "57014" | "25P04" => Error::Locked(text),
        "40001" | "40P01" => Error::Again,
        // read-only; a node that stood still for so long that its transaction was ended
        "25006" | "25P03" => Error::Down(text),
        _ => match code.get(..2) {
            Some("22" | "23") => Error::Data(text),
            // connection, who may come in, no such database, resources, operator intervention, system error
            Some("08" | "28" | "3D" | "53" | "57" | "58") => Error::Down(text),
            _ => Error::Bug(format!("{code} {text}")),
        },
    }
}

fn from_driver(e: &sqlx::Error) -> Error {
    match e {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => Error::Down(e.to_string()),
        other => Error::Bug(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgres_says_is_read_by_what_may_be_done_about_it() {
        let read = |code: &str| match from_postgres(code, String::new()) {
            Error::Down(_) => "away",
            Error::Locked(_) => "held",
            Error::Again => "again",
            Error::Data(_) => "refused",
            other => panic!("{code}: {other}"),
        };
        for (codes, wanted) in [
            // A broken connection, a password that was changed, a database that is put back, no room, a stop, a full disk.
            (&["08006", "08P01", "28P01", "3D000", "53100", "53300", "58030"][..], "away"),
            (&["57P01", "57P02", "57P03", "57P04", "57P05", "25006", "25P03"], "away"),
            (&["55P03", "57014", "25P04"], "held"),
            (&["40001", "40P01"], "again"),
            (&["22021", "23505"], "refused"),
        ] {
            for code in codes {
                assert_eq!(read(code), wanted, "{code}");
            }
        }
        for ours in ["25P02", "42703", "42P01", ""] {
            assert!(matches!(from_postgres(ours, String::new()), Error::Bug(_)), "{ours}");
        }
    }
}
