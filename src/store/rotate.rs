//! `rotate-keys`: seals anew, under the ring's active key, whatever another key sealed.
//!
//! Beside a running service, of which it asks nothing: it has connections of its own, takes rows in small bites,
//! skips those that someone holds, and changes nothing but the sealed bytes. What is current is passed over, so a
//! rotation that was killed is simply begun again.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::batch::{Col, Sql};
use super::db::{Row, Target, Value};
use super::error::Result;
use super::pool::Pool;
use super::seal::{Aad, KeyRing, sealed_by, sealed_head};
use super::{endpoints, migrate, secrets, submit};
use crate::args;
use crate::dice::Dice;

/// Rows that one look passes over.
const RANGE: u32 = 1_000;
/// The most values that one transaction seals anew.
const BITE: usize = 200;
/// Damaged values that are named.
const EXAMPLES: usize = 10;
/// How long a transaction waits for SQLite's one writer, or for a connection.
const WAIT: Duration = Duration::from_secs(5);

/// A column of sealed values.
struct Place {
    name: &'static str,
    /// The column that its values are sealed for; deliveries carry those of their job.
    column: &'static str,
    /// Gives `(id, head of the sealed value)` after `$1`, at most `$2`. The head holds the key's id.
    scan: &'static str,
    /// Gives `(id, tenant, row it is sealed for, sealed)` of a batch, without the rows that someone holds.
    hold: Sql,
    put: Sql,
}

const ID: &[(&str, Col)] = &[("id", Col::Uuid)];
const SEALED: &[(&str, Col)] = &[("id", Col::Uuid), ("sealed", Col::Bytes)];

macro_rules! place {
    ($table:literal, $row:literal, $column:expr) => {
        Place {
            name: concat!($table, ".sealed"),
            column: $column,
            scan: concat!(
                "SELECT id, ",
                sealed_head!("sealed"),
                " FROM ",
                $table,
                " WHERE id > $1 ORDER BY id LIMIT $2"
            ),
            hold: Sql::batch(
                concat!(
                    "SELECT q.id, q.tenant_id, q.",
                    $row,
                    ", q.sealed FROM ",
                    $table,
                    " q WHERE q.id IN (SELECT b.id FROM {b}) AND q.sealed IS NOT NULL ORDER BY q.id {lock}"
                ),
                0,
                ID,
            ),
            put: Sql::batch(
                concat!("UPDATE ", $table, " SET sealed = b.sealed FROM {b} WHERE ", $table, ".id = b.id"),
                0,
                SEALED,
            ),
        }
    };
}

// Jobs before deliveries: a delivery that is made copies what its job holds then.
static PLACES: [Place; 4] = [
    place!("secrets", "id", secrets::COLUMN),
    place!("endpoints", "id", endpoints::SEALED_COLUMN),
    place!("jobs", "id", submit::SEALED_COLUMN),
    place!("deliveries", "sealed_row", submit::SEALED_COLUMN),
];

/// What a bite, or a pass, came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows looked at.
    pub looked_at: u64,
    /// Values sealed anew.
    pub sealed_anew: u64,
    /// Values that someone held or that have just changed; the next pass takes them.
    pub passed_over: u64,
    /// Values whose key is not in the ring, by its id. They stay as they are.
    pub unknown: BTreeMap<String, u64>,
    /// Values that no key opens, whatever their head says. They stay as they are, and harm only what needs them.
    pub damaged: u64,
    /// The first of them: where each is, and the id of its row.
    pub examples: Vec<(&'static str, Uuid)>,
}

/// One pass over all that is sealed.
pub struct Rotation {
    readers: Pool,
    writers: Pool,
    ring: KeyRing,
    dice: Dice,
    /// The place, and the last id seen in it.
    at: (usize, Uuid),
}

impl Rotation {
    /// Begins a pass. Takes no lock; the schema must be this release's.
    pub async fn begin(url: &str, ring: KeyRing, dice: Dice) -> Result<Rotation> {
        let target = Target::parse(url)?;
        migrate::check(&target).await?;
        let readers = Pool::new(target.clone(), 1, true, WAIT);
        let writers = Pool::new(target, 1, false, WAIT);
        Ok(Rotation { readers, writers, ring, dice, at: (0, Uuid::nil()) })
    }

    /// Begins another pass.
    pub fn again(&mut self) {
        self.at = (0, Uuid::nil());
    }

    /// The next bite: one look, and at most `most` values. Nothing once the pass is over.
    ///
    /// After an error the same bite may be asked for again.
    pub async fn step(&mut self, most: usize) -> Result<Tally> {
        let (index, after) = self.at;
        let Some(place) = PLACES.get(index) else { return Ok(Tally::default()) };
        let rows = self.readers.get().await?.all(place.scan, args![after, RANGE]).await?;
        let mut found = Tally::default();
        let mut stale = Vec::new();
        let mut last = None;
        for row in &rows {
            if stale.len() == most.clamp(1, BITE) {
                break;
            }
            last = Some(row.uuid(0)?);
            found.looked_at += 1;
            match self.standing(row)? {
                Standing::Current => {}
                Standing::Stale => stale.push(args![row.uuid(0)?]),
                Standing::Unknown(key) => *found.unknown.entry(key).or_default() += 1,
                Standing::Damaged => found.damaged_at(place, row.uuid(0)?),
            }
        }
        let wanted = stale.len() as u64;
        found.passed_over = wanted - self.seal_anew(place, stale, &mut found).await?;
        self.at = last.map_or((index + 1, Uuid::nil()), |id| (index, id));
        Ok(found)
    }

    /// The column that the pass is in, for people; None once it is over.
    pub fn place(&self) -> Option<&'static str> {
        PLACES.get(self.at.0).map(|place| place.name)
    }

    fn standing(&self, row: &Row) -> Result<Standing> {
        let Some(head) = row.bytes_opt(1)? else { return Ok(Standing::Current) };
        let Ok(key) = sealed_by(&head) else { return Ok(Standing::Damaged) };
        Ok(if key == self.ring.active_id() {
            Standing::Current
        } else if self.ring.holds(&key) {
            Standing::Stale
        } else {
            Standing::Unknown(key)
        })
    }

    /// Gives how many of them nobody held.
    async fn seal_anew(&self, place: &'static Place, ids: Vec<Vec<Value>>, found: &mut Tally) -> Result<u64> {
        if ids.is_empty() {
            return Ok(0);
        }
        let mut tx = self.writers.begin().await?;
        let held = tx.batch(&place.hold, vec![], ids).await?;
        let mut fresh = Vec::with_capacity(held.len());
        for row in &held {
            match self.fresh(place, row)? {
                Some(sealed) => fresh.push(sealed),
                None => found.damaged_at(place, row.uuid(0)?),
            }
        }
        found.sealed_anew = fresh.len() as u64;
        tx.batch(&place.put, vec![], fresh).await?;
        tx.commit().await?;
        Ok(held.len() as u64)
    }

    /// None where the value does not open.
    fn fresh(&self, place: &Place, row: &Row) -> Result<Option<Vec<Value>>> {
        let aad = Aad { tenant: row.uuid(1)?, row: row.uuid(2)?, column: place.column };
        let Ok(plain) = self.ring.open(&aad, &row.bytes(3)?) else { return Ok(None) };
        Ok(Some(args![row.uuid(0)?, self.ring.seal(self.dice.bytes(), &aad, &plain)]))
    }
}

impl Tally {
    fn damaged_at(&mut self, place: &Place, id: Uuid) {
        self.damaged += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push((place.name, id));
        }
    }

    /// Adds what another bite came to.
    pub fn add(&mut self, more: Tally) {
        self.looked_at += more.looked_at;
        self.sealed_anew += more.sealed_anew;
        self.passed_over += more.passed_over;
        for (key, count) in more.unknown {
            *self.unknown.entry(key).or_default() += count;
        }
        self.damaged += more.damaged;
        self.examples.extend(more.examples.into_iter().take(EXAMPLES - self.examples.len()));
    }

    /// Whether all that was found is sealed by the active key.
    pub fn is_done(&self) -> bool {
        self.passed_over == 0 && self.unknown.is_empty() && self.damaged == 0
    }

    /// Whether the pass found nothing to do.
    pub fn is_clean(&self) -> bool {
        self.sealed_anew == 0 && self.passed_over == 0
    }
}

enum Standing {
    Current,
    Stale,
    Unknown(String),
    Damaged,
}

/// How many values each key has sealed, by its id, but for those that do not even tell. Reads only, beside a running
/// service or after it.
pub async fn census(url: &str) -> Result<BTreeMap<String, u64>> {
    let target = Target::parse(url)?;
    migrate::check(&target).await?;
    let readers = Pool::new(target, 1, true, WAIT);
    let mut count = BTreeMap::new();
    for place in &PLACES {
        let mut after = Some(Uuid::nil());
        while let Some(id) = after {
            let rows = readers.get().await?.all(place.scan, args![id, RANGE]).await?;
            for row in &rows {
                if let Some(key) = row.bytes_opt(1)?.and_then(|head| sealed_by(&head).ok()) {
                    *count.entry(key).or_default() += 1;
                }
            }
            after = rows.last().map(|row| row.uuid(0)).transpose()?;
        }
    }
    Ok(count)
}
