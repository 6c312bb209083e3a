//! `check`: what the store can show of the invariants I1, I4 and I5 (`docs/guarantees.md`).
//!
//! Reads only, takes no lock, beside a running service or after it. Each question is asked in
//! bounded ranges of ids, so no snapshot is held for long; one statement sees one snapshot, so a
//! row on its way between two tables is never half seen.

use super::db::{Call, Conn, Target};
use super::error::{Error, Result};
use super::migrate;
use crate::args;
use crate::types::JobId;

/// Rows per range.
const RANGE: i64 = 2_000;

struct Question {
    invariant: &'static str,
    /// Gives `(id, broken)` per row of one range: `$1` = last id seen, `$2` = rows.
    sql: &'static str,
}

const QUESTIONS: &[Question] = &[
    Question {
        invariant: "I1: a job is terminal or owed by exactly one queue row",
        sql: "SELECT j.id, CAST(CASE WHEN (j.state = 'owed') = (q.job_id IS NOT NULL) THEN 0 ELSE 1 END AS BIGINT)
              FROM jobs j LEFT JOIN job_queue q ON q.job_id = j.id
              WHERE j.id > $1 ORDER BY j.id LIMIT $2",
    },
    Question {
        invariant: "I1: a queued job has its document",
        sql: "SELECT q.job_id, CAST(CASE WHEN j.id IS NULL THEN 1 ELSE 0 END AS BIGINT)
              FROM job_queue q LEFT JOIN jobs j ON j.id = q.job_id
              WHERE q.job_id > $1 ORDER BY q.job_id LIMIT $2",
    },
    Question {
        invariant: "I1: a delivery is terminal or owed by exactly one queue row",
        sql: "SELECT d.id, CAST(CASE WHEN (d.state = 'owed') = (q.delivery_id IS NOT NULL)
                     AND (d.state = 'owed') = (d.ended_at IS NULL) THEN 0 ELSE 1 END AS BIGINT)
              FROM deliveries d LEFT JOIN delivery_queue q ON q.delivery_id = d.id
              WHERE d.id > $1 ORDER BY d.id LIMIT $2",
    },
    Question {
        invariant: "I1: a queued delivery has its document and its frozen body",
        sql: "SELECT q.delivery_id, CAST(CASE WHEN o.event_id IS NULL THEN 1 ELSE 0 END AS BIGINT)
              FROM delivery_queue q LEFT JOIN deliveries d ON d.id = q.delivery_id
              LEFT JOIN bodies o ON o.event_id = d.event_id AND o.variant = d.variant
              WHERE q.delivery_id > $1 ORDER BY q.delivery_id LIMIT $2",
    },
    Question {
        invariant: "I1: an event that is still to be told is there, and so is its frozen body",
        sql: "SELECT q.event_id, MAX(CAST(CASE WHEN e.id IS NULL OR o.event_id IS NULL THEN 1 ELSE 0 END AS BIGINT))
              FROM fan_outs q LEFT JOIN events e ON e.id = q.event_id
              LEFT JOIN bodies o ON o.event_id = q.event_id AND o.variant = q.variant
              WHERE q.event_id > $1 GROUP BY q.event_id ORDER BY q.event_id LIMIT $2",
    },
    Question {
        invariant: "I1: what is parked has an endpoint that will let it go",
        sql: "SELECT q.delivery_id, CAST(CASE WHEN q.due_at < 4503599627370496 OR e.state <> 'enabled'
                     OR e.drain_at IS NOT NULL THEN 0 ELSE 1 END AS BIGINT)
              FROM delivery_queue q LEFT JOIN endpoints e ON e.id = q.lane_id
              WHERE q.delivery_id > $1 ORDER BY q.delivery_id LIMIT $2",
    },
    Question {
        invariant: "I4: the last event of an ended job is its end",
        sql: "SELECT j.id, CAST(CASE WHEN j.state = 'owed' OR j.purged_at IS NOT NULL THEN 0
                     WHEN EXISTS (SELECT 1 FROM events e WHERE e.job_id = j.id AND e.sequence > j.sequence) THEN 1
                     WHEN EXISTS (SELECT 1 FROM events e WHERE e.job_id = j.id AND e.sequence = j.sequence
                                  AND e.kind IN ('job.completed', 'job.failed', 'job.cancelled', 'job.expired')) THEN 0
                     ELSE 1 END AS BIGINT)
              FROM jobs j WHERE j.id > $1 ORDER BY j.id LIMIT $2",
    },
    Question {
        invariant: "I4: no attempt begins after a delivery has ended",
        sql: "SELECT d.id, CAST(CASE WHEN d.state = 'owed' THEN 0
                     WHEN EXISTS (SELECT 1 FROM attempts a WHERE a.delivery_id = d.id
                                  AND (a.number > d.attempt OR a.started_at > d.ended_at)) THEN 1
                     ELSE 0 END AS BIGINT)
              FROM deliveries d WHERE d.id > $1 ORDER BY d.id LIMIT $2",
    },
    Question {
        invariant: "I5: a dead delivery has its dead letter until that is discarded",
        sql: "SELECT d.id, CAST(CASE WHEN d.state = 'dead' AND d.discarded_at IS NULL AND x.delivery_id IS NULL THEN 1 ELSE 0 END AS BIGINT)
              FROM deliveries d LEFT JOIN dead_letters x ON x.delivery_id = d.id
              WHERE d.id > $1 ORDER BY d.id LIMIT $2",
    },
    Question {
        invariant: "I5: a dead letter belongs to a dead delivery",
        sql: "SELECT x.delivery_id, CAST(CASE WHEN d.state = 'dead' THEN 0 ELSE 1 END AS BIGINT)
              FROM dead_letters x LEFT JOIN deliveries d ON d.id = x.delivery_id
              WHERE x.delivery_id > $1 ORDER BY x.delivery_id LIMIT $2",
    },
];

/// One finding of `check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The invariant, in words.
    pub invariant: &'static str,
    /// Rows looked at.
    pub rows: u64,
    /// UUIDs of the rows that break it, at most 20.
    pub broken: Vec<String>,
}

/// Asks every question. Empty `broken` everywhere: the invariants hold.
pub async fn check(url: &str) -> Result<Vec<Finding>> {
    let target = Target::parse(url)?;
    migrate::check(&target).await?;
    let mut conn = target.connect(true).await?;
    let mut findings = Vec::with_capacity(QUESTIONS.len());
    for question in QUESTIONS {
        let (back, finding) = ask(conn, question).await?;
        conn = back;
        findings.push(finding);
    }
    Ok(findings)
}

async fn ask(mut conn: Conn, question: &Question) -> Result<(Conn, Finding)> {
    let mut finding = Finding { invariant: question.invariant, rows: 0, broken: vec![] };
    let mut last = JobId::from_uuid(uuid::Uuid::nil());
    loop {
        let call = conn.call(Call::All(question.sql, args![last, RANGE]));
        let (back, done) = tokio::time::timeout(std::time::Duration::from_secs(30), call)
            .await
            .map_err(|_| Error::Down("no answer in 30 s".to_owned()))??;
        conn = back;
        for row in &done.rows {
            finding.rows += 1;
            last = row.id(0)?;
            if row.int(1)? != 0 && finding.broken.len() < 20 {
                finding.broken.push(last.uuid().to_string());
            }
        }
        if done.rows.len() < usize::try_from(RANGE).unwrap_or(usize::MAX) {
            return Ok((conn, finding));
        }
    }
}
