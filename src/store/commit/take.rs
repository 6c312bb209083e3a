//! What a transaction takes of the calls that there are.

use std::thread;

use tokio::sync::{Mutex, mpsc};

use super::Call;
use super::op::Weight;
use super::width::{Place, Width};

/// Calls that one transaction takes, their rows and bytes: what takes longer than its callers wait serves nobody.
pub(super) const FLUSH: usize = 512;
const FLUSH_WEIGHT: Weight = Weight { rows: 4_000, bytes: 8 << 20 };

/// Waits for calls, and for a place for their transaction, and takes all there are. None: there will be no more. It is for a thread
/// that nothing else runs on.
pub(super) async fn gather<'w>(
    receiver: &Mutex<mpsc::Receiver<Call>>,
    width: &'w Width,
    calls: &mut Vec<Call>,
) -> Option<Place<'w>> {
    let mut receiver = receiver.lock().await;
    if receiver.recv_many(calls, FLUSH).await == 0 {
        return None;
    }
    let place = width.place().await;
    // Where the processors are busy, those who were answered by the last flush may go on first: they have the next
    // calls to make, and each that comes along spares a transaction. Where they are idle this takes no time.
    if calls.len() < FLUSH {
        thread::yield_now();
    }
    while calls.len() < FLUSH
        && let Ok(call) = receiver.try_recv()
    {
        calls.push(call);
    }
    if place.is_some() {
        width.filled(calls.len());
    }
    Some(place)
}

/// The calls cut into transactions of a size that is done in time, in none of which a job both ends and begins
/// anew: the statements for the two exclude each other.
pub(super) fn portions(calls: Vec<Call>) -> Vec<Vec<Call>> {
    let mut portions: Vec<Vec<Call>> = Vec::new();
    let mut sum = Weight::default();
    for call in calls {
        sum = Weight { rows: sum.rows + call.weight.rows, bytes: sum.bytes + call.weight.bytes };
        match portions.last_mut() {
            Some(last)
                if sum.rows <= FLUSH_WEIGHT.rows
                    && sum.bytes <= FLUSH_WEIGHT.bytes
                    && !(call.op.retries() && last.iter().any(|earlier| call.op.meets(&earlier.op))) =>
            {
                last.push(call);
            }
            Some(_) | None => {
                sum = call.weight;
                portions.push(vec![call]);
            }
        }
    }
    portions
}
