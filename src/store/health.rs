//! How endpoints fare: since when they fail, and when that is enough. The bounds are those of [`crate::types::disable`].

use std::collections::BTreeMap;

use super::batch::{Col, Sql};
use super::error::Result;
use super::model::Attempted;
use super::pool::Tx;
use crate::args;
use crate::types::delivery::{DeadReason, Verdict};
use crate::types::disable::{DISABLED, FAILED};
use crate::types::{EndpointId, Millis};

// Neither writes a row while nothing changes: an endpoint that is well, or known to fail, costs no write.
static RECOVERED: Sql = Sql::batch(
    "UPDATE endpoints SET failing_since = NULL, failed = 0
     FROM {b} WHERE endpoints.id = b.id AND endpoints.failing_since IS NOT NULL",
    0,
    &[("id", Col::Uuid)],
);
static FAILING: Sql = Sql::batch(
    "UPDATE endpoints SET failing_since = COALESCE(endpoints.failing_since, $1), failed = endpoints.failed + b.failed
     FROM {b} WHERE endpoints.id = b.id AND (endpoints.failing_since IS NULL OR b.failed > 0)",
    1,
    &[("id", Col::Uuid), ("failed", Col::Int)],
);
static DISABLE: Sql = Sql::batch(
    "UPDATE endpoints
     SET state = 'disabled', state_reason = CASE WHEN b.gone = 1 THEN 'gone' ELSE 'failing' END, state_since = $1
     FROM {b} WHERE endpoints.id = b.id AND endpoints.state = 'enabled'
       AND (b.gone = 1 OR (endpoints.failing_since <= $2 AND endpoints.failed >= $3))
     RETURNING endpoints.id",
    3,
    &[("id", Col::Uuid), ("gone", Col::Int)],
);

/// What a batch of outcomes says of one endpoint.
#[derive(Default)]
struct Word {
    delivered: bool,
    /// Deliveries that failed for the first time.
    failed: u32,
    gone: bool,
}

/// Notes what these outcomes say of the endpoints they came from, and disables those that are given up. True if
/// there were any.
pub(super) async fn note(
    tx: &mut Tx,
    outcomes: impl Iterator<Item = (&Attempted, Verdict)>,
    now: Millis,
) -> Result<bool> {
    let mut words: BTreeMap<EndpointId, Word> = BTreeMap::new();
    for (attempted, verdict) in outcomes {
        // What was not sent says nothing of its receiver.
        let (Some((id, _)), true) = (&attempted.endpoint, attempted.exchange.is_some()) else { continue };
        let word = words.entry(*id).or_default();
        match verdict {
            Verdict::Delivered => word.delivered = true,
            Verdict::RetryAt(_) => word.failed += u32::from(attempted.number == 1),
            Verdict::Dead(reason) => {
                word.failed += u32::from(attempted.number == 1);
                word.gone |= reason == DeadReason::Gone;
            }
        }
    }
    let (well, ill): (Vec<_>, Vec<_>) = words.into_iter().partition(|(_, word)| word.delivered);
    tx.batch(&RECOVERED, vec![], well.iter().map(|(id, _)| args![*id]).collect()).await?;
    tx.batch(&FAILING, args![now], ill.iter().map(|(id, word)| args![*id, word.failed]).collect()).await?;
    // One that has just delivered is well, whatever another delivery came to; but gone is gone.
    let gone = well.iter().filter(|(_, word)| word.gone);
    let given_up = ill.iter().chain(gone).map(|(id, word)| args![*id, i64::from(word.gone)]).collect();
    let disabled = tx.batch(&DISABLE, args![now, now.minus(DISABLED), FAILED], given_up).await?;
    Ok(!disabled.is_empty())
}
