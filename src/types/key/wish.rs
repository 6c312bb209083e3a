//! The rules of a new key, whether it is made through the service or in the store.

use super::Scopes;
use crate::types::Millis;
use crate::types::api::NewApiKey;
use crate::types::problem::Invalid;
use crate::types::submit as rules;

const NAMES_MAX: usize = 50;

/// The wished scopes, if the wish is sound.
pub fn check(wish: &NewApiKey, now: Millis) -> Result<Scopes, Invalid> {
    rules::optional_text("/name", wish.name.as_deref(), 255)?;
    names("/queues", wish.queues.as_deref(), |at, queue| rules::name(at, queue, 64))?;
    names("/accounts", wish.accounts.as_deref(), |at, account| rules::text(at, account, 255))?;
    if wish.expires_at.is_some_and(|at| at <= now) {
        return Err(Invalid::member("/expiresAt", "lies in the past"));
    }
    let scopes: Scopes = wish.scopes.iter().copied().collect();
    if scopes.is_empty() {
        return Err(Invalid::member("/scopes", "must name at least one scope"));
    }
    Ok(scopes)
}

fn names(
    pointer: &str,
    given: Option<&[String]>,
    rule: impl Fn(&str, &str) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    let given = given.unwrap_or_default();
    if given.len() > NAMES_MAX {
        return Err(Invalid::member(pointer, format!("must have at most {NAMES_MAX} entries")));
    }
    given.iter().enumerate().try_for_each(|(i, name)| rule(&format!("{pointer}/{i}"), name))
}
