//! One job in this process's hands, however it came there.

use std::time::Duration;

use super::report::{self, Outcome};
use super::{CancellationToken, Failure, Progress, Reply, lease};
use crate::client::{Client, Error};
use crate::types::key::LeaseToken;
use crate::types::{JobId, api};

/// A job whose lease is kept until it is reported, or until this is dropped.
///
/// For who holds a job without a claim: an external job (`worker: "external"`) brings its lease token in
/// the answer to its submission. What is dropped without a report ends as its lease does: `worker-lost`.
pub struct Hold {
    client: Client,
    id: JobId,
    token: LeaseToken,
    lease: Duration,
    progress: Progress,
    stop: CancellationToken,
    keeper: lease::Keeper,
}

impl Hold {
    /// Keeps the lease from now on, with a heartbeat every third of `lease` and every 20 s at least.
    ///
    /// The lease token is right enough to report: a key that ends meanwhile costs no job that is held.
    pub fn new(client: &Client, id: JobId, token: LeaseToken, lease: Duration) -> Hold {
        let client = client.without_key();
        let (progress, marks) = Progress::line();
        let stop = CancellationToken::new();
        let keeper = lease::Keeper::start(&client, id, token, lease, marks, stop.clone());
        Hold { client, id, token, lease, progress, stop, keeper }
    }

    /// Tells the client how far the work is.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Fires when the work is to be stopped: the client has cancelled, or the lease is lost.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Fires when the job is this process's no more; a report would be refused.
    pub fn lost(&self) -> &CancellationToken {
        self.keeper.lost()
    }

    /// Reports how the work ended, and gives the job as it stands then.
    ///
    /// The lease is kept meanwhile. A service that cannot be reached is told again for as long as the lease, for a
    /// minute at least.
    pub async fn report(self, ended: Result<Reply, Failure>) -> Result<api::Job, Error> {
        let job = self.tell(Outcome::of(Some(ended), false), &CancellationToken::new()).await?;
        job.ok_or_else(|| Error::BadReply("a report was answered without the job".to_owned()))
    }

    /// [`Hold::report`] of a worker, which `hurry` tells that the grace of its stop is over.
    pub(super) async fn tell(
        self,
        outcome: Outcome,
        hurry: &CancellationToken,
    ) -> Result<Option<api::Job>, Error> {
        self.keeper.report();
        report::send(&self.client, self.id, self.token, outcome, self.lease, hurry).await
    }
}
