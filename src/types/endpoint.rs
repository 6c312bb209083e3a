//! A standing endpoint: what it subscribes to, how it is spoken to, and every rule of its settings.

mod pattern;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::api::{ChangeEndpoint, Format, NewEndpoint, Payload};
use super::lane::Limits;
use super::problem::Invalid;
use super::retry::RetryPolicy;
pub use super::signature::schemes::Scheme;
use super::submit as rules;
use super::target::UrlPolicy;
use super::{EndpointId, LaneId, Millis, TenantId};
pub use pattern::{BadPattern, Pattern, any_matches};

/// How long one attempt may take, seconds, where the endpoint does not say.
pub const TIMEOUT_SECONDS: u32 = 15;
/// A parked delivery's `due_at` is its own and this many milliseconds more, far behind every date there is: no look
/// at what is due ever meets it, and its order and its schedule are not lost.
pub const PARKED: i64 = 1 << 52;
/// What answers show in place of a header's value.
pub const HIDDEN: &str = "redacted";
/// The most patterns of one endpoint.
const PATTERNS_MAX: usize = 100;
/// The most characters of an account's name.
const ACCOUNT_MAX: usize = 255;

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// It is sent what it subscribes to.
    Enabled,
    /// Someone paused it: its deliveries are made and parked.
    Paused,
    /// The service disabled it: its deliveries are made and parked.
    Disabled,
}

impl EndpointState {
    /// Every state.
    pub const ALL: [EndpointState; 3] =
        [EndpointState::Enabled, EndpointState::Paused, EndpointState::Disabled];

    /// The text form, as stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndpointState::Enabled => "enabled",
            EndpointState::Paused => "paused",
            EndpointState::Disabled => "disabled",
        }
    }

    /// Reads the text form.
    pub fn from_word(word: &str) -> Option<EndpointState> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// What an endpoint's lane is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneLimits {
    /// The most requests a second; no limit when None.
    pub rate_per_second: Option<u32>,
    /// The most requests under way at once; what the lane itself allows when None.
    pub max_in_flight: Option<u32>,
    /// How long one attempt may take, 1..30 seconds.
    pub timeout_seconds: u32,
    /// One after the other, in the order of the events.
    pub ordered: bool,
}

impl LaneLimits {
    /// What the owner of its lane goes by.
    pub fn of_lane(&self) -> Limits {
        let LaneLimits { max_in_flight, rate_per_second, ordered, timeout_seconds: _ } = *self;
        Limits { max_in_flight, rate_per_second, ordered }
    }
}

/// What its owner sets of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where it is; checked.
    pub url: String,
    /// Only this account's events, or only those of none.
    pub account: Option<String>,
    /// Which events it is sent; none: only what names it.
    pub patterns: Vec<Pattern>,
    /// For people.
    pub description: Option<String>,
    /// Headers to add.
    pub headers: Vec<(String, String)>,
    /// How fast.
    pub limits: LaneLimits,
    /// When a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// Full or thin.
    pub payload: Payload,
    /// Standard or CloudEvents.
    pub format: Format,
    /// Which signatures; `v1` is always among them.
    pub schemes: Vec<Scheme>,
}

/// An endpoint as it stands in the store.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Names it.
    pub id: EndpointId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What is set, without the headers.
    pub settings: Settings,
    /// The host of its URL.
    pub host: String,
    /// The headers, sealed; they may be credentials.
    pub sealed: Option<Vec<u8>>,
    /// Where it stands.
    pub state: EndpointState,
    /// Why it is not enabled: `requested`, `failing` or `gone`.
    pub reason: Option<String>,
    /// Since when it stands so.
    pub since: Millis,
    /// When it last echoed a challenge from its present URL.
    pub verified_at: Option<Millis>,
    /// The first failed attempt since the last success.
    pub failing_since: Option<Millis>,
    /// Deliveries that have failed since then.
    pub failed: u32,
    /// When it was made.
    pub created_at: Millis,
    /// When something was last set.
    pub updated_at: Millis,
    /// Whether all of it could be read; where not, the usual is believed of it, and none of its deliveries is handed over.
    pub readable: bool,
}

impl Endpoint {
    /// Its lane. Ids of ad-hoc lanes are hashes, so the two cannot meet.
    pub fn lane(&self) -> LaneId {
        lane_of(self.id)
    }
}

/// The lane of an endpoint.
pub fn lane_of(id: EndpointId) -> LaneId {
    LaneId::from_uuid(id.uuid())
}

type Checked<T> = Result<T, Invalid>;

/// Checks a new endpoint.
///
/// The first broken rule is reported, with the JSON pointer of its member.
pub fn check(wish: NewEndpoint, policy: &UrlPolicy) -> Checked<Settings> {
    let url = rules::url("/url", &wish.url, policy)?;
    let fresh = Settings {
        url,
        account: None,
        patterns: vec![Pattern::every()],
        description: None,
        headers: Vec::new(),
        limits: LaneLimits {
            rate_per_second: None,
            max_in_flight: None,
            timeout_seconds: TIMEOUT_SECONDS,
            ordered: false,
        },
        retry: RetryPolicy::default(),
        payload: Payload::default(),
        format: Format::default(),
        schemes: vec![Scheme::V1],
    };
    fresh.changed(ChangeEndpoint { url: None, ..wish.into() }, policy)
}

impl Settings {
    /// These settings with what the change gives; `null` takes a member back to its default.
    pub fn changed(mut self, change: ChangeEndpoint, policy: &UrlPolicy) -> Checked<Settings> {
        self.limits = limits(self.limits, &change)?;
        if let Some(raw) = change.url {
            self.url = rules::url("/url", &raw, policy)?;
        }
        if let Some(account) = change.account {
            self.account = account.map(|name| named_account("/account", name)).transpose()?;
        }
        if let Some(events) = change.events {
            self.patterns = events.map_or(Ok(vec![Pattern::every()]), |names| patterns(&names))?;
        }
        if let Some(description) = change.description {
            rules::optional_text("/description", description.as_deref(), 1_000)?;
            self.description = description;
        }
        if let Some(headers) = change.headers {
            self.headers = rules::headers("/headers", unhidden(headers, &self.headers)?)?;
        }
        if let Some(retry) = change.retry {
            self.retry = retry.unwrap_or_default();
            let bad = |(member, rule)| Invalid::member(format!("/retry/{member}"), rule);
            self.retry.check().map_err(bad)?;
        }
        if let Some(schemes) = change.schemes {
            self.schemes = signatures(schemes.unwrap_or_default())?;
        }
        self.payload = change.payload.map_or(self.payload, Option::unwrap_or_default);
        self.format = change.format.map_or(self.format, Option::unwrap_or_default);
        Ok(self)
    }
}

/// Headers with the values that answers hide: who sends back what was shown keeps what was there.
fn unhidden(
    given: Option<BTreeMap<String, String>>,
    there: &[(String, String)],
) -> Checked<Option<BTreeMap<String, String>>> {
    let mut given = given.unwrap_or_default();
    for (name, value) in given.iter_mut().filter(|(_, value)| *value == HIDDEN) {
        let known = there.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, before) = known.ok_or_else(|| {
            let pointer = format!("/headers/{}", rules::escape(name));
            Invalid::member(pointer, format!("is new; `{HIDDEN}` stands for the value of one that is there"))
        })?;
        value.clone_from(before);
    }
    Ok(Some(given))
}

fn limits(now: LaneLimits, change: &ChangeEndpoint) -> Checked<LaneLimits> {
    let rate = change.rate_limit_per_second.unwrap_or(now.rate_per_second);
    let most = change.max_in_flight.unwrap_or(now.max_in_flight);
    let timeout = change.timeout_seconds.unwrap_or(Some(now.timeout_seconds));
    rules::range("/rateLimitPerSecond", rate, 1, 1..=10_000)?;
    rules::range("/maxInFlight", most, 1, 1..=512)?;
    Ok(LaneLimits {
        rate_per_second: rate,
        max_in_flight: most,
        timeout_seconds: rules::range("/timeoutSeconds", timeout, TIMEOUT_SECONDS, 1..=30)?,
        ordered: change.ordered.map_or(now.ordered, Option::unwrap_or_default),
    })
}

/// The name of an account: text without control characters, 1 to 255 of them.
pub fn named_account(pointer: &str, name: String) -> Checked<String> {
    rules::text(pointer, &name, ACCOUNT_MAX)?;
    if name.is_empty() || name.contains(char::is_control) {
        return Err(Invalid::member(pointer, "must have 1 to 255 characters and no control characters"));
    }
    Ok(name)
}

fn patterns(names: &[String]) -> Checked<Vec<Pattern>> {
    if names.len() > PATTERNS_MAX {
        return Err(Invalid::member("/events", format!("must have at most {PATTERNS_MAX} entries")));
    }
    let read = |(i, name): (usize, &String)| {
        name.parse::<Pattern>().map_err(|e| Invalid::member(format!("/events/{i}"), e.to_string()))
    };
    names.iter().enumerate().map(read).collect()
}

/// Each once, and `v1` always: whatever else a receiver checks, that one holds.
fn signatures(wished: Vec<Scheme>) -> Checked<Vec<Scheme>> {
    let mut schemes = vec![Scheme::V1];
    for (i, scheme) in wished.iter().enumerate() {
        if wished[..i].contains(scheme) {
            return Err(Invalid::member(format!("/schemes/{i}"), "is given twice"));
        }
        if *scheme != Scheme::V1 {
            schemes.push(*scheme);
        }
    }
    Ok(schemes)
}
