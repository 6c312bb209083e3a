//! Group commit: concurrent calls of the hot verbs become one transaction with one fsync.
//!
//! While one flush is in flight the next gathers, and so it does while others have the processors; an idle system adds
//! no delay. Every caller gets its own answer after the commit.

mod op;
mod take;
mod width;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::db::Engine;
use super::emit::{After, Outbox};
use super::error::{Error, Result};
use super::lease::Waiting;
use super::model::{Attempted, JobChange, LeaseRequest};
use super::pool::{Pool, Tx};
use super::{Inner, Store, change, deliveries, lease, limits, publish, record, submit};
use crate::types::Millis;
use op::Weight;
pub(super) use op::{Op, Reply};
use submit::Stored;
use take::{FLUSH, gather, portions};
use width::Width;

/// Calls that may wait for a flush, and their bytes; beyond either the caller is told to come back.
const QUEUE: usize = 8_192;
const QUEUE_BYTES: usize = 128 << 20;
/// A flush is repeated for so long when the database goes away; then its callers are told.
const PATIENCE: Duration = Duration::from_secs(4);
/// Transactions that met another one are repeated so often.
const REPEATS: u32 = 5;

pub(super) struct Call {
    op: Op,
    now: Millis,
    weight: Weight,
    reply: oneshot::Sender<Result<Reply>>,
}

/// The callers' end.
pub(super) struct Committer {
    calls: std::sync::Mutex<Option<mpsc::Sender<Call>>>,
    /// Bytes that wait for a flush.
    waiting: AtomicUsize,
    pub(super) width: Arc<Width>,
    tasks: std::sync::Mutex<JoinSet<()>>,
    pools: std::sync::Mutex<Vec<Pool>>,
}

impl Committer {
    pub(super) fn new() -> (Committer, mpsc::Receiver<Call>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (
            Committer {
                calls: std::sync::Mutex::new(Some(sender)),
                waiting: AtomicUsize::new(0),
                width: Arc::default(),
                tasks: std::sync::Mutex::default(),
                pools: std::sync::Mutex::default(),
            },
            receiver,
        )
    }

    pub(super) async fn call(&self, op: Op, now: Millis) -> Result<Reply> {
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

    /// Whether someone takes what is called.
    pub(super) fn is_open(&self) -> bool {
        let calls = self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        calls.as_ref().is_some_and(|calls| !calls.is_closed())
    }

    /// Takes no more calls and lets what is queued be written, for 10 s. Of what is left then the transactions that have
    /// begun end behind it, and the rest fails.
    pub(super) async fn close(&self) {
        drop(self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let ended = async { while tasks.join_next().await.is_some() {} };
        let _ = timeout(Duration::from_secs(10), ended).await;
        self.pools
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .drain(..)
            .for_each(|p| p.close());
    }
}

/// How many committers a node has, each with a connection that writes. SQLite has one writer.
pub fn committers(engine: Engine) -> usize {
    match engine {
        Engine::Sqlite => 1,
        Engine::Postgres => 2,
    }
}

/// Starts the committers, which write to the database of `pool`.
pub(super) fn start(store: &Store, pool: &Pool, receiver: mpsc::Receiver<Call>) -> Result<()> {
    let receiver = Arc::new(Mutex::new(receiver));
    let mut tasks = store.0.committer.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in 0..committers(pool.engine()) {
        // Weak: the committers must not keep the store alive that ends them.
        let (inner, receiver) = (Arc::downgrade(&store.0), receiver.clone());
        let width = store.0.committer.width.clone();
        let spawned = pool.spawn(&mut tasks, |pool| async move {
            let mut calls = Vec::with_capacity(FLUSH);
            while let Some(_place) = gather(&receiver, &width, &mut calls).await {
                let Some(inner) = inner.upgrade() else { return };
                let bytes = calls.iter().map(|c| c.weight.bytes).sum();
                inner.committer.waiting.fetch_sub(bytes, Ordering::Relaxed);
                // Nobody waits any more: what was not begun need not be.
                calls.retain(|c| !c.reply.is_closed());
                for calls in portions(std::mem::take(&mut calls)) {
                    // A panic costs its callers their answer and not the node its writer.
                    if AssertUnwindSafe(flush(&inner, &pool, calls)).catch_unwind().await.is_err() {
                        tracing::error!("a flush panicked");
                    }
                }
            }
        })?;
        store.0.committer.pools.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(spawned);
    }
    Ok(())
}

/// Adds the claims that wait for what is submitted: they take it in its own transaction.
fn join(inner: &Inner, calls: &mut Vec<Call>) {
    let now = newest(calls);
    let submissions = pick(calls, |op| if let Op::Submit(many) = op { Some(many) } else { None }).1;
    let waiting = inner.offers.beside(submissions.into_iter(), &inner.limits, now);
    let call = |Waiting { want, reply }| {
        // It was in no queue: nothing counts it.
        Call { op: Op::Lease { want, look: false }, now, weight: Weight::default(), reply }
    };
    // In front: they were there before those who ask only now.
    calls.splice(0..0, waiting.into_iter().map(call));
}

fn newest(calls: &[Call]) -> Millis {
    calls.iter().map(|c| c.now).max().unwrap_or_default()
}

/// Writes the calls in one transaction and answers them. What fails the transaction for one call's fault
/// fails only that call: the batch is halved until it stands alone.
async fn flush(inner: &Inner, pool: &Pool, mut calls: Vec<Call>) {
    join(inner, &mut calls);
    let now = newest(&calls);
    let mut stack = vec![(calls, false)];
    let mut unheard = Vec::new();
    while let Some((mut calls, mut in_doubt)) = stack.pop() {
        if calls.is_empty() {
            continue;
        }
        match persist(inner, pool, &mut calls, &mut in_doubt).await {
            Ok(replies) => {
                for (call, reply) in calls.into_iter().zip(replies) {
                    if let Err(Ok(Reply::Lease(jobs))) = call.reply.send(reply) {
                        unheard.extend(jobs);
                    }
                }
            }
            Err(e) if calls.len() > 1 && e.may_be_one_of_them() => {
                let (waiting, mut calls): (Vec<_>, Vec<_>) = calls.into_iter().partition(|c| c.op.waits());
                // They would stand in one half and what they wait for in the other; they look for it.
                for call in waiting {
                    let _ = call.reply.send(Ok(Reply::Lease(Vec::new())));
                }
                let rest = calls.split_off(calls.len() / 2);
                stack.push((rest, in_doubt));
                stack.push((calls, in_doubt));
            }
            // What it submits may be there already, from a caller who heard nothing and asks again.
            Err(Error::Data(_)) if !in_doubt && matches!(calls[..], [Call { op: Op::Submit(_), .. }]) => {
                stack.push((calls, true));
            }
            Err(e) => fail(calls, &e),
        }
    }
    if !unheard.is_empty() {
        give_back(inner, pool, unheard, now).await;
    }
}

/// Jobs whose claimer is gone wait for another one at once, and no attempt is used.
async fn give_back(inner: &Inner, pool: &Pool, jobs: Vec<lease::LeasedRow>, now: Millis) {
    let op = Op::Change(jobs.iter().map(lease::LeasedRow::release).collect());
    let (reply, _nobody) = oneshot::channel();
    let weight = op.weight();
    match persist(inner, pool, &mut vec![Call { op, now, weight, reply }], &mut false).await {
        Ok(mut replies) => {
            if let Some(Ok(Reply::Change(done))) = replies.pop() {
                inner.offers.given_back(done);
            }
        }
        Err(e) => {
            tracing::warn!(error = %e, "jobs of a claim that nobody waited for come back by their lease");
        }
    }
}

fn fail(calls: Vec<Call>, e: &Error) {
    tracing::warn!(error = %e, calls = calls.len(), "a flush failed");
    for call in calls {
        let _ = call.reply.send(Err(e.for_another()));
    }
}

/// Repeats what may be repeated. A lost answer after the commit is harmless: a submission is known
/// by its id, a change by its fence, an attempt by its number. A claim is repeated only while someone
/// waits for it: what was claimed and never heard of comes back by its lease.
///
/// `in_doubt` becomes true when a commit was sent and its answer lost, as far as one can know.
async fn persist(
    inner: &Inner,
    pool: &Pool,
    calls: &mut Vec<Call>,
    in_doubt: &mut bool,
) -> Result<Vec<Result<Reply>>> {
    let until = Instant::now() + PATIENCE;
    let mut repeats = 0;
    loop {
        let began = Instant::now();
        let error = match transaction(inner, pool, calls, in_doubt, repeats == 0).await {
            Ok((replies, mut after)) => {
                after.disabled.iter().for_each(|id| inner.endpoint_changed(*id));
                after.pass();
                after.ended.iter().for_each(|job| inner.learned.learn(job, &inner.metrics));
                if let Some(observer) = inner.observer.get() {
                    observer.moved(&after.moved);
                }
                inner.metrics.committed(calls.len(), began.elapsed());
                replies.iter().flatten().for_each(|r| count(inner, r));
                return Ok(replies);
            }
            Err(e) => e,
        };
        match error {
            Error::Again if repeats < REPEATS => {}
            Error::Down(_) if Instant::now() < until => {
                sleep(Duration::from_millis(100)).await;
            }
            e => return Err(e),
        }
        repeats += 1;
        calls.retain(|c| !(matches!(c.op, Op::Lease { .. }) && c.reply.is_closed()));
    }
}

fn count(inner: &Inner, reply: &Reply) {
    match reply {
        Reply::Submit(jobs) => {
            inner.metrics.submitted(jobs.iter().filter(|j| matches!(j, Stored::Now { .. })).count() as u64);
            let taken = |j: &&Stored| matches!(j, Stored::Now { taken: true, .. });
            inner.metrics.taken(jobs.iter().filter(taken).count() as u64);
        }
        Reply::Lease(jobs) => inner.metrics.claimed(jobs.len() as u64),
        Reply::Publish(_) | Reply::Change(_) | Reply::Claim(_) | Reply::Record(_) => {}
    }
}

type Written = (Vec<Result<Reply>>, After);

/// `adopts`: it may own lanes. Repeated it does not, as it may be their rows that others hold.
async fn transaction(
    inner: &Inner,
    pool: &Pool,
    calls: &[Call],
    in_doubt: &mut bool,
    adopts: bool,
) -> Result<Written> {
    let mut tx = pool.open().await?;
    let looked = |op| wish(op).filter(|_| !op.waits());
    let undone = |_: &Error| inner.floors.forget(pick(calls, looked).1.into_iter());
    match write(inner, &mut tx, calls, *in_doubt, adopts).await.inspect_err(undone) {
        Ok(written) => {
            // Where the database itself says no, that is what became of it.
            let unheard =
                |e: &Error| *in_doubt |= !matches!(e, Error::Again | Error::Data(_) | Error::Locked(_));
            tx.commit().await.inspect_err(unheard).inspect_err(undone)?;
            Ok(written)
        }
        Err(e) => {
            // A connection that still works is kept, with all that it has prepared.
            let _ = tx.rollback().await;
            Err(e)
        }
    }
}

/// `in_doubt` says that the same calls may have been committed before, and the answer lost.
async fn write(inner: &Inner, tx: &mut Tx, calls: &[Call], in_doubt: bool, adopts: bool) -> Result<Written> {
    let now = newest(calls);
    let mut out = Outbox::new(inner, now);
    if !adopts {
        out.leaves_lanes();
    }
    let mut replies: Vec<Option<Result<Reply>>> = calls.iter().map(|_| None).collect();

    // One order of tables in every transaction, so that two of them cannot deadlock; lanes come last. What is written later needs
    // none: a row is changed only by who holds its queue row or its document, taken before.
    let wants = pick(calls, wish).1;
    let mut held = limits::held(inner, tx, &wants, now).await?;
    let (at, changes) = pick(calls, |op| if let Op::Change(c) = op { Some(c) } else { None });
    if !at.is_empty() {
        let flat: Vec<&JobChange> = changes.iter().flat_map(|c| c.iter()).collect();
        let mut answers = change::change(tx, &mut out, &flat, in_doubt, now).await?.into_iter();
        for (i, c) in at.into_iter().zip(changes) {
            replies[i] = Some(Ok(Reply::Change(answers.by_ref().take(c.len()).collect())));
        }
    }
    let (claims, wants) =
        pick(calls, |op| if let Op::Lease { want, look } = op { Some((want, *look)) } else { None });
    let mut takers = Vec::with_capacity(claims.len());
    for want in wants {
        takers.push(lease::lease(inner, tx, &mut out, want, &mut held, now).await?);
        let bytes: i64 = takers.iter().map(lease::Taker::bytes).sum();
        if bytes > lease::TOGETHER_BYTES && calls.len() > 1 {
            // As below.
            return Err(Error::Data("more bytes are claimed than one transaction bears".to_owned()));
        }
    }
    let (at, many) = pick(calls, |op| if let Op::Submit(m) = op { Some(m) } else { None });
    if !at.is_empty() {
        let answers = submit::submit(inner, tx, &mut out, &many, (&mut takers, in_doubt), now).await?;
        at.into_iter().zip(answers).for_each(|(i, answer)| replies[i] = Some(answer.map(Reply::Submit)));
    }
    for (i, taker) in claims.into_iter().zip(takers) {
        replies[i] = Some(Ok(Reply::Lease(taker.into_jobs())));
    }
    let (at, many) = pick(calls, |op| if let Op::Publish(p, _) = op { Some(p) } else { None });
    if !at.is_empty() {
        let answers = publish::publish(tx, &mut out, &many, now).await?;
        at.into_iter().zip(answers).for_each(|(i, answer)| replies[i] = Some(Ok(Reply::Publish(answer))));
    }
    let (at, lists) = pick(calls, |op| if let Op::Record(a) = op { Some(a) } else { None });
    if !at.is_empty() {
        let flat: Vec<&Attempted> = lists.iter().flat_map(|l| l.iter()).collect();
        let mut answers = record::record(tx, &mut out, &flat, now).await?.into_iter();
        for (i, l) in at.into_iter().zip(lists) {
            replies[i] = Some(Ok(Reply::Record(answers.by_ref().take(l.len()).collect())));
        }
    }
    for (i, call) in calls.iter().enumerate() {
        if let Op::Claim { due, node, lease } = &call.op {
            let got = deliveries::claim(tx, due, *node, now.plus(*lease), now).await?;
            replies[i] = Some(Ok(Reply::Claim(got)));
        }
    }
    if out.is_crowded() && calls.len() > 1 {
        // The flush is halved: each part is a transaction of its own, between which others have their turn.
        return Err(Error::Data("more deliveries than one transaction bears".to_owned()));
    }
    let after = out.write(tx).await?;
    let missing = || Err(Error::Bug("a call without an answer".to_owned()));
    Ok((replies.into_iter().map(|r| r.unwrap_or_else(missing)).collect(), after))
}

fn wish(op: &Op) -> Option<&LeaseRequest> {
    if let Op::Lease { want, .. } = op { Some(want) } else { None }
}

fn pick<'c, T>(calls: &'c [Call], of: impl Fn(&'c Op) -> Option<T>) -> (Vec<usize>, Vec<T>) {
    calls.iter().enumerate().filter_map(|(i, c)| Some((i, of(&c.op)?))).unzip()
}
