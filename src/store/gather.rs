//! Reads by key that many ask for at a time: while one statement is under way the keys of the next gather, and so they do
//! while others are ready to run, who may ask too. Where nobody is, this takes no time.
//!
//! With many endpoints each job and each attempt reads a row that nobody else needs: alone each would be a statement and a
//! round trip of its own.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex as Lock, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::error::{Error, Result};

/// No read takes longer: all others wait for it.
const READ: Duration = Duration::from_millis(1_200);

/// A key, and where to tell what there is of it.
type Asked<K, V> = (K, oneshot::Sender<Result<Option<V>>>);

/// Those who ask at this moment.
pub(super) struct Gather<K, V> {
    asked: Lock<Vec<Asked<K, V>>>,
    turn: Mutex<()>,
}

impl<K, V> Default for Gather<K, V> {
    fn default() -> Self {
        Gather { asked: Lock::default(), turn: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Gather<K, V> {
    /// What `read` gives for `key`, which is read together with the keys of others, by one of them. None where it gives
    /// nothing. An error is that of all, so `read` leaves out what is wrong with one key.
    pub(super) async fn ask<F>(&self, key: K, read: impl FnOnce(Vec<K>) -> F) -> Result<Option<V>>
    where
        F: Future<Output = Result<HashMap<K, V>>>,
    {
        loop {
            let (tell, mut told) = oneshot::channel();
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push((key.clone(), tell));
            let turn = tokio::select! {
                biased;
                told = &mut told => match told {
                    Ok(told) => return told,
                    // Who read for all was broken off.
                    Err(_) => continue,
                },
                turn = self.turn.lock() => turn,
            };
            match told.try_recv() {
                Ok(told) => return told,
                Err(oneshot::error::TryRecvError::Closed) => continue,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            yield_now().await;
            let mut asked = std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner));
            asked.retain(|(_, tell)| !tell.is_closed());
            let mut known = HashSet::with_capacity(asked.len());
            let keys = asked.iter().map(|(key, _)| key).filter(|key| known.insert(*key)).cloned().collect();
            let late = || Err(Error::Down("no answer in time".to_owned()));
            let found = timeout(READ, read(keys)).await.unwrap_or_else(|_| late());
            for (asked, tell) in asked {
                let _ = tell.send(match &found {
                    Ok(found) => Ok(found.get(&asked).cloned()),
                    Err(e) => Err(e.for_another()),
                });
            }
            // Not before all are told: whose turn comes untold takes it that its key is still to be read.
            drop(turn);
            return found.map(|mut found| found.remove(&key));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn who_asks_while_one_reads_is_read_for_together() {
        let gather = Gather::<u32, u32>::default();
        let reads = RefCell::new(Vec::new());
        let (go, gone) = oneshot::channel::<()>();
        let first = gather.ask(0, |keys| {
            reads.borrow_mut().push(keys);
            async { Ok(gone.await.map_or_else(|_| HashMap::new(), |()| HashMap::from([(0, 10)]))) }
        });
        let mut first = Box::pin(first);
        assert!(first.as_mut().now_or_never().is_none() && reads.borrow().is_empty(), "others go first");
        assert!(first.as_mut().now_or_never().is_none());
        let read = |keys: Vec<u32>| {
            let found = keys.iter().filter(|key| **key != 3).map(|key| (*key, key + 10)).collect();
            reads.borrow_mut().push(keys);
            async { Ok(found) }
        };
        let mut others: Vec<_> = [1, 2, 2, 3].map(|key| Box::pin(gather.ask(key, read))).into();
        assert!(others.iter_mut().all(|other| other.now_or_never().is_none()));
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Some(10));
        let told: Vec<_> = join_all(others).await.into_iter().map(|told| told.unwrap()).collect();
        assert_eq!(told, [Some(11), Some(12), Some(12), None]);
        assert_eq!(*reads.borrow(), [vec![0], vec![1, 2, 3]]);
    }

    #[tokio::test]
    async fn a_reader_that_is_broken_off_takes_nobody_along_and_an_error_is_told_to_all() {
        let gather = Gather::<u32, u32>::default();
        let mut hangs = Box::pin(gather.ask(1, |_| std::future::pending()));
        assert!((0..2).all(|_| hangs.as_mut().now_or_never().is_none()));
        let mut next = Box::pin(gather.ask(2, |_| std::future::pending()));
        let mut last = Box::pin(gather.ask(3, async |keys| Ok(keys.into_iter().map(|k| (k, k)).collect())));
        assert!(next.as_mut().now_or_never().is_none() && last.as_mut().now_or_never().is_none());
        drop(hangs);
        let reads = (0..2).all(|_| next.as_mut().now_or_never().is_none());
        assert!(reads, "it reads for itself and the last one");
        drop(next);
        assert_eq!(last.await.unwrap(), Some(3));
        let down = async |_| Err(Error::Down("away".to_owned()));
        let (one, two) = tokio::join!(gather.ask(1, down), gather.ask(2, down));
        assert!(matches!((one, two), (Err(Error::Down(_)), Err(Error::Down(_)))));
    }
}
