//! Which dead letters belong together.

use super::Store;
use super::dead_letters::narrow;
use super::error::{Error, Result};
use super::list::Filter;
use super::model::{Narrow, OutageFilter};
use crate::args;
use crate::types::outage::Span;
use crate::types::{DeliveryId, Millis, TenantId};

/// Ten minutes of one receiver with one error are one row; so many are read, the newest first.
const SPANS: u32 = 5_000;

/// Letters that are looked at, the newest.
const LOOKED: u32 = 100_000;

const OF_TENANT: &str = "SELECT delivery_id FROM dead_letters WHERE tenant_id = $1";
const LETTERS: &str = "
    SELECT endpoint_id, host, COALESCE(last_error, reason), COUNT(*), MIN(died_at), MAX(died_at), account
    FROM dead_letters WHERE tenant_id = $1";

impl Store {
    /// The tenant's dead letters by receiver, error and time, for [`crate::types::outage`]; of very many the newest.
    pub async fn letter_spans(
        &self,
        tenant: TenantId,
        filter: &OutageFilter,
        only: &Narrow,
    ) -> Result<Vec<Span>> {
        let (sql, args) = Filter::new(OF_TENANT, args![tenant]).nth("delivery_id", "DESC", LOOKED);
        let older: Option<DeliveryId> = self.read(sql, args).await?.first().map(|r| r.id(0)).transpose()?;
        let mut f = Filter::new(LETTERS, args![tenant]);
        f.and_some("delivery_id > {}", older);
        f.and_some("endpoint_id = {}", filter.endpoint_id);
        f.and_some("host = {}", filter.host.clone());
        f.and_some("died_at >= {}", filter.since);
        f.and_some("died_at < {}", filter.until);
        narrow(&mut f, only, "dead_letters.job_id", "dead_letters.account");
        f.args.push(SPANS.into());
        let n = f.args.len();
        f.push(&format!(
            " GROUP BY endpoint_id, account, host, COALESCE(last_error, reason), died_at / 600000
              ORDER BY died_at / 600000 DESC LIMIT ${n}"
        ));
        let (sql, args) = f.finish();
        let rows = self.read(sql, args).await?;
        rows.iter()
            .map(|row| {
                let died: (Millis, Millis) = (row.time(4)?, row.time(5)?);
                Ok::<_, Error>(Span {
                    endpoint_id: row.id_opt(0)?,
                    account: row.text_opt(6)?,
                    host: row.text(1)?,
                    error: row.text(2)?,
                    letters: u64::try_from(row.int(3)?).unwrap_or(0),
                    died,
                })
            })
            .collect()
    }
}
