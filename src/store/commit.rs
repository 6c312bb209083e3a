//! Group commit: concurrent calls of the hot verbs become one transaction with one fsync.
//!
//! While one flush is in flight the next gathers; an idle system adds no delay. Every caller
//! gets its own answer after the commit.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::emit::{After, Handed, Outbox};
use super::error::{Error, Result};
use super::model::{
    Attempted, Changed, ClaimedDelivery, DueDelivery, JobChange, LeaseRequest, LeasedJob, Right, Submitted,
    What,
};
use super::pool::Pool;
use super::submit::Many;
use super::{Inner, Store, change, deliveries, lease, record, submit};
use crate::types::Millis;
use crate::types::id::NodeId;
use crate::types::job::{Change, NewJob, Outcome};

/// Calls that may wait for a flush, and their bytes; beyond either the caller is told to come back.
const QUEUE: usize = 8_192;
const QUEUE_BYTES: usize = 128 << 20;
/// Calls that one transaction takes, their rows and bytes: what takes longer than its callers wait serves nobody.
const FLUSH: usize = 512;
const FLUSH_WEIGHT: Weight = Weight { rows: 4_000, bytes: 8 << 20 };
/// A flush is repeated for so long when the database goes away; then its callers are told.
const PATIENCE: Duration = Duration::from_secs(4);
/// Transactions that met another one are repeated so often.
const REPEATS: u32 = 5;

/// One call of a hot verb.
pub(super) enum Op {
    Submit(Many),
    Change(Vec<JobChange>),
    Lease(LeaseRequest),
    Claim { due: Vec<DueDelivery>, node: NodeId, lease: Duration },
    Record(Vec<Attempted>),
}

/// The answer to an [`Op`] of the same name.
pub(super) enum Reply {
    Submit(Vec<Submitted>),
    Change(Vec<Result<Changed>>),
    Lease(Vec<LeasedJob>),
    Claim(Vec<ClaimedDelivery>),
    Record(Vec<bool>),
}

pub(super) struct Call {
    op: Op,
    now: Millis,
    weight: Weight,
    reply: oneshot::Sender<Result<Reply>>,
}

/// How much a call writes, roughly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weight {
    rows: usize,
    bytes: usize,
}

impl Op {
    fn weight(&self) -> Weight {
        match self {
            Op::Submit(jobs) => {
                let bytes = jobs.iter().map(|j| j.input.len() + j.metadata.len()).sum();
                Weight { rows: jobs.len(), bytes }
            }
            Op::Change(changes) => {
                Weight { rows: changes.len(), bytes: changes.iter().map(result_bytes).sum() }
            }
            Op::Lease(want) => Weight { rows: want.max as usize, bytes: 0 },
            Op::Claim { due, .. } => Weight { rows: due.len(), bytes: 0 },
            Op::Record(attempted) => {
                let kept = |a: &Attempted| a.exchange.as_ref().map_or(0, |e| e.body.len());
                Weight { rows: attempted.len(), bytes: attempted.iter().map(kept).sum() }
            }
        }
    }
}

fn result_bytes(change: &JobChange) -> usize {
    match &change.what {
        What::Change(Change::Complete(Outcome::Bytes { bytes, .. })) => bytes.len(),
        What::Change(_) | What::Heartbeat { .. } | What::Retry | What::Overdue => 0,
    }
}

/// The callers' end.
pub(super) struct Committer {
    calls: std::sync::Mutex<Option<mpsc::Sender<Call>>>,
    /// Bytes that wait for a flush.
    waiting: AtomicUsize,
    tasks: std::sync::Mutex<JoinSet<()>>,
}

impl Committer {
    pub(super) fn new() -> (Committer, mpsc::Receiver<Call>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (
            Committer {
                calls: std::sync::Mutex::new(Some(sender)),
                waiting: AtomicUsize::new(0),
                tasks: std::sync::Mutex::default(),
            },
            receiver,
        )
    }

    async fn call(&self, op: Op, now: Millis) -> Result<Reply> {
        let (reply, answer) = oneshot::channel();
        let calls = self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let closed = || Error::Down("closed".to_owned());
        let weight = op.weight();
        let ahead = self.waiting.fetch_add(weight.bytes, Ordering::Relaxed);
        let sent = match calls {
            None => Err(closed()),
            // A call that is alone in the queue is taken however large it is.
            Some(_) if ahead > 0 && ahead + weight.bytes > QUEUE_BYTES => Err(Error::Overloaded),
            Some(calls) => calls.try_send(Call { op, now, weight, reply }).map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => Error::Overloaded,
                mpsc::error::TrySendError::Closed(_) => closed(),
            }),
        };
        if sent.is_err() {
            self.waiting.fetch_sub(weight.bytes, Ordering::Relaxed);
        }
        sent?;
        answer.await.map_err(|_| closed())?
    }

    /// Lets what is queued be written, then ends the committers.
    pub(super) async fn close(&self) {
        drop(self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let ended = async { while tasks.join_next().await.is_some() {} };
        let _ = timeout(Duration::from_secs(10), ended).await;
    }
}

/// Starts `n` committers over `pool`. They hold the lock file as long as they live.
pub(super) fn start(store: &Store, pool: Pool, n: usize, receiver: mpsc::Receiver<Call>, lock: Option<File>) {
    let receiver = Arc::new(Mutex::new(receiver));
    let lock = Arc::new(lock);
    let mut tasks = store.0.committer.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in 0..n {
        // Weak: the committers must not keep the store alive that ends them.
        let (inner, pool, receiver, lock) =
            (Arc::downgrade(&store.0), pool.clone(), receiver.clone(), lock.clone());
        tasks.spawn(async move {
            let mut calls = Vec::with_capacity(FLUSH);
            while receiver.lock().await.recv_many(&mut calls, FLUSH).await > 0 {
                let Some(inner) = inner.upgrade() else { return };
                let bytes = calls.iter().map(|c| c.weight.bytes).sum();
                inner.committer.waiting.fetch_sub(bytes, Ordering::Relaxed);
                // Nobody waits any more: what was not begun need not be.
                calls.retain(|c| !c.reply.is_closed());
                let (calls, pool) = (std::mem::take(&mut calls), pool.clone());
                // In a task of its own: a panic costs its callers their answer and not the node its writer.
                let flushed = tokio::spawn(async move {
                    for calls in portions(calls) {
                        flush(&inner, &pool, calls).await;
                    }
                });
                if let Err(e) = flushed.await {
                    tracing::error!(error = %e, "a flush panicked");
                }
            }
            drop(lock);
        });
    }
}

/// The calls cut into transactions of a size that is done in time.
fn portions(calls: Vec<Call>) -> Vec<Vec<Call>> {
    let mut portions: Vec<Vec<Call>> = Vec::new();
    let mut sum = Weight::default();
    for call in calls {
        sum = Weight { rows: sum.rows + call.weight.rows, bytes: sum.bytes + call.weight.bytes };
        match portions.last_mut() {
            Some(last) if sum.rows <= FLUSH_WEIGHT.rows && sum.bytes <= FLUSH_WEIGHT.bytes => last.push(call),
            Some(_) | None => {
                sum = call.weight;
                portions.push(vec![call]);
            }
        }
    }
    portions
}

/// Writes the calls in one transaction and answers them. What fails the transaction for one call's fault
/// fails only that call: the batch is halved until it stands alone.
async fn flush(inner: &Inner, pool: &Pool, calls: Vec<Call>) {
    let now = calls.iter().map(|c| c.now).max().unwrap_or_default();
    let mut stack = vec![calls];
    let mut unheard = Vec::new();
    while let Some(mut calls) = stack.pop() {
        if calls.is_empty() {
            continue;
        }
        match persist(inner, pool, &mut calls).await {
            Ok(replies) => {
                for (call, reply) in calls.into_iter().zip(replies) {
                    if let Err(Ok(Reply::Lease(jobs))) = call.reply.send(reply) {
                        unheard.extend(jobs);
                    }
                }
            }
            Err(
                Error::Data(_) | Error::KeyInFlight | Error::KeyReused | Error::Locked(_) | Error::Bug(_),
            ) if calls.len() > 1 => {
                let rest = calls.split_off(calls.len() / 2);
                stack.push(rest);
                stack.push(calls);
            }
            Err(e) => fail(calls, &e),
        }
    }
    if !unheard.is_empty() {
        give_back(inner, pool, unheard, now).await;
    }
}

/// Jobs whose claimer is gone wait for another one at once, and no attempt is used.
async fn give_back(inner: &Inner, pool: &Pool, jobs: Vec<LeasedJob>, now: Millis) {
    let release = |leased: LeasedJob| JobChange {
        id: leased.job.job_id,
        tenant: None,
        right: Right::Lease(leased.job.lease_token),
        what: What::Change(Change::Release { delay_seconds: 0 }),
    };
    let op = Op::Change(jobs.into_iter().map(release).collect());
    let (reply, _nobody) = oneshot::channel();
    let weight = op.weight();
    if let Err(e) = persist(inner, pool, &mut vec![Call { op, now, weight, reply }]).await {
        tracing::warn!(error = %e, "jobs of a claim that nobody waited for come back by their lease");
    }
}

fn fail(calls: Vec<Call>, e: &Error) {
    tracing::warn!(error = %e, calls = calls.len(), "a flush failed");
    for call in calls {
        let _ = call.reply.send(Err(match e {
            Error::Down(text) => Error::Down(text.clone()),
            Error::Data(text) => Error::Data(text.clone()),
            Error::Locked(text) => Error::Locked(text.clone()),
            Error::Again => Error::Again,
            Error::KeyInFlight => Error::KeyInFlight,
            Error::KeyReused => Error::KeyReused,
            other => Error::Bug(other.to_string()),
        }));
    }
}

/// Repeats what may be repeated. A lost answer after the commit is harmless: a submission is known
/// by its id, a change by its fence, an attempt by its number. A claim is repeated only while someone
/// waits for it: what was claimed and never heard of comes back by its lease.
async fn persist(inner: &Inner, pool: &Pool, calls: &mut Vec<Call>) -> Result<Vec<Result<Reply>>> {
    let until = Instant::now() + PATIENCE;
    let (mut repeats, mut in_doubt) = (0, false);
    loop {
        let began = Instant::now();
        let error = match transaction(inner, pool, calls, in_doubt).await {
            Ok((replies, after)) => {
                after.handed.into_iter().for_each(Handed::pass);
                after.ended.iter().for_each(|job| inner.metrics.ended(job.state.as_str()));
                after.ended.iter().for_each(|job| inner.estimates.learn(job));
                inner.metrics.committed(calls.len(), began.elapsed());
                replies.iter().flatten().for_each(|r| count(inner, r));
                return Ok(replies);
            }
            Err(e) => e,
        };
        match error {
            Error::Again if repeats < REPEATS => {}
            Error::Down(_) if Instant::now() < until => {
                in_doubt = true;
                sleep(Duration::from_millis(100)).await;
            }
            e => return Err(e),
        }
        repeats += 1;
        calls.retain(|c| !(matches!(c.op, Op::Lease(_)) && c.reply.is_closed()));
    }
}

fn count(inner: &Inner, reply: &Reply) {
    match reply {
        Reply::Submit(jobs) => {
            inner.metrics.submitted(jobs.iter().filter(|j| !j.replayed).count() as u64);
        }
        Reply::Lease(jobs) => inner.metrics.claimed(jobs.len() as u64),
        Reply::Change(_) | Reply::Claim(_) | Reply::Record(_) => {}
    }
}

type Written = (Vec<Result<Reply>>, After);

/// `in_doubt` says that the same calls may have been committed before, and the answer lost.
async fn transaction(inner: &Inner, pool: &Pool, calls: &[Call], in_doubt: bool) -> Result<Written> {
    let now = calls.iter().map(|c| c.now).max().unwrap_or_default();
    let mut tx = pool.begin().await?;
    let mut out = Outbox::new(inner, now);
    let mut replies: Vec<Option<Result<Reply>>> = calls.iter().map(|_| None).collect();

    // One order of tables in every transaction, so that two of them cannot deadlock.
    let (at, changes) = pick(calls, |op| if let Op::Change(c) = op { Some(c) } else { None });
    if !at.is_empty() {
        let flat: Vec<&JobChange> = changes.iter().flat_map(|c| c.iter()).collect();
        let mut answers = change::change(&mut tx, &mut out, &flat, in_doubt, now).await?.into_iter();
        for (i, c) in at.into_iter().zip(changes) {
            replies[i] = Some(Ok(Reply::Change(answers.by_ref().take(c.len()).collect())));
        }
    }
    let (at, many) = pick(calls, |op| if let Op::Submit(m) = op { Some(m) } else { None });
    if !at.is_empty() {
        for (i, answer) in at.into_iter().zip(submit::submit(inner, &mut tx, &mut out, &many, now).await?) {
            replies[i] = Some(answer.map(Reply::Submit));
        }
    }
    let (at, lists) = pick(calls, |op| if let Op::Record(a) = op { Some(a) } else { None });
    if !at.is_empty() {
        let flat: Vec<&Attempted> = lists.iter().flat_map(|l| l.iter()).collect();
        let mut answers = record::record(&mut tx, &mut out, &flat, now).await?.into_iter();
        for (i, l) in at.into_iter().zip(lists) {
            replies[i] = Some(Ok(Reply::Record(answers.by_ref().take(l.len()).collect())));
        }
    }
    for (i, call) in calls.iter().enumerate() {
        match &call.op {
            Op::Claim { due, node, lease } => {
                let got = deliveries::claim(&mut tx, due, *node, now.plus(*lease), now).await?;
                replies[i] = Some(Ok(Reply::Claim(got)));
            }
            Op::Lease(want) => {
                let got = lease::lease(inner, &mut tx, &mut out, want, now).await?;
                replies[i] = Some(Ok(Reply::Lease(got)));
            }
            Op::Submit(_) | Op::Change(_) | Op::Record(_) => {}
        }
    }
    let after = out.write(&mut tx).await?;
    tx.commit().await?;
    let missing = || Err(Error::Bug("a call without an answer".to_owned()));
    Ok((replies.into_iter().map(|r| r.unwrap_or_else(missing)).collect(), after))
}

fn pick<'c, T>(calls: &'c [Call], of: impl Fn(&'c Op) -> Option<&'c T>) -> (Vec<usize>, Vec<&'c T>) {
    calls.iter().enumerate().filter_map(|(i, c)| Some((i, of(&c.op)?))).unzip()
}

/// A verb got the answer of another verb: a defect of `transaction`.
fn mixed_up<T>() -> Result<T> {
    Err(Error::Bug("the answer belongs to another verb".to_owned()))
}

impl Store {
    /// Stores jobs that were checked, all or none. One answer per job, in order.
    ///
    /// `KeyReused` or `KeyInFlight` if an idempotency key says so.
    pub async fn submit(&self, mut jobs: Vec<NewJob>, now: Millis) -> Result<Vec<Submitted>> {
        use crate::types::{job::WorkerKind, key::LeaseToken};
        for job in jobs.iter_mut().filter(|j| j.worker == WorkerKind::External && j.lease.is_none()) {
            job.lease = Some(LeaseToken { fence: 1, random: self.0.dice.bytes() });
        }
        match self.0.committer.call(Op::Submit(jobs), now).await? {
            Reply::Submit(answer) => Ok(answer),
            _ => mixed_up(),
        }
    }

    /// Changes jobs: complete, fail, release, heartbeat, cancel, retry. One answer per change, in order.
    pub async fn change(&self, changes: Vec<JobChange>, now: Millis) -> Result<Vec<Result<Changed>>> {
        match self.0.committer.call(Op::Change(changes), now).await? {
            Reply::Change(answer) => Ok(answer),
            _ => mixed_up(),
        }
    }

    /// Claims due jobs for a worker. Empty if there are none.
    pub async fn lease(&self, request: LeaseRequest, now: Millis) -> Result<Vec<LeasedJob>> {
        match self.0.committer.call(Op::Lease(request), now).await? {
            Reply::Lease(answer) => Ok(answer),
            _ => mixed_up(),
        }
    }

    /// Claims deliveries that are still as they were seen. Commits the intent of each attempt.
    pub async fn claim(
        &self,
        due: Vec<DueDelivery>,
        node: NodeId,
        lease: Duration,
        now: Millis,
    ) -> Result<Vec<ClaimedDelivery>> {
        match self.0.committer.call(Op::Claim { due, node, lease }, now).await? {
            Reply::Claim(answer) => Ok(answer),
            _ => mixed_up(),
        }
    }

    /// Writes the outcomes of attempts. False where the lease was lost and nothing changed.
    pub async fn record(&self, attempted: Vec<Attempted>, now: Millis) -> Result<Vec<bool>> {
        match self.0.committer.call(Op::Record(attempted), now).await? {
            Reply::Record(answer) => Ok(answer),
            _ => mixed_up(),
        }
    }
}
