//! How many transactions a store has seen.

use std::io::{Read, Seek, SeekFrom};

use crate::store::db::Target;
use crate::store::error::{Error, Result};
use crate::store::server_counts;

/// Where the head of SQLite's index of the write-ahead log counts transactions that wrote; in the byte order of the machine.
const COUNTER_AT: u64 = 8;

/// Transactions so far: all of this database on PostgreSQL, those that wrote on SQLite, whose count wraps around.
pub async fn transactions(url: &str) -> Result<u64> {
    if let Some(counts) = server_counts(url).await? {
        return Ok(counts.transactions.unsigned_abs());
    }
    let Target::Sqlite(path) = Target::parse(url)? else { return Err(Error::NotFound) };
    let mut path = path.as_os_str().to_owned();
    path.push("-shm");
    let read = || {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(COUNTER_AT))?;
        let mut counter = [0; 4];
        file.read_exact(&mut counter)?;
        Ok(u32::from_ne_bytes(counter).into())
    };
    read().map_err(|e: std::io::Error| Error::Down(format!("the index of the write-ahead log: {e}")))
}
