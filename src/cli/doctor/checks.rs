//! The questions: the way to the receiver, then what it answers to good and bad events.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::event::{Event, Kind};
use super::report::{Report, Verdict};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::egress::look::{Certificate, Look};
use crate::egress::{Answer, BootTime, Drip, Limits, Sender};
use crate::types::Millis;
use crate::types::delivery::{Exchange, Outcome};
use crate::types::signature::schemes::{Scheme, SigningKey};
use crate::types::target::CallbackUrl;

/// The service waits this long for the whole answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// An answer that takes longer leaves little for a bad day.
const SLOW: Duration = Duration::from_secs(5);
/// A certificate that ends earlier than this is told of.
const DAYS_LEFT: i64 = 21;
/// A body in about five pieces, over a second.
const DRIP: Drip = Drip { piece: 40, pause: Duration::from_millis(250) };
const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// The way there. Gives whether a request can be sent.
pub fn way(report: &mut Report, url: &CallbackUrl, look: &Look, now: Millis) -> bool {
    report.pass("url", format!("{url}"));
    let addresses = match &look.addresses {
        Ok(addresses) => addresses,
        Err(fault) => {
            report.fail("dns", format!("{}: {fault}", url.host()));
            return false;
        }
    };
    let list: Vec<String> = addresses.iter().map(|(ip, _)| ip.to_string()).collect();
    match look.dns {
        Some(took) => report.pass("dns", format!("{} in {} ms", list.join(", "), took.as_millis())),
        None => report.pass("dns", format!("{}, without a look-up", list.join(", "))),
    }
    let refused: Vec<String> =
        addresses.iter().filter_map(|(ip, verdict)| Some(format!("{ip} is {}", verdict.err()?))).collect();
    if !refused.is_empty() {
        report.fail("address", format!("the service sends nothing there: {}", refused.join(", ")));
        return false;
    }
    report.pass("address", "every address may be reached");
    match &look.tcp {
        Some(Ok(took)) => report.pass("tcp", format!("connected in {} ms", took.as_millis())),
        Some(Err(fault)) => report.fail("tcp", fault.to_string()),
        None => report.fail("tcp", "no address to connect to"),
    }
    match &look.tls {
        None if url.uri().scheme_str() == Some("https") => {
            report.add("tls", Verdict::Skipped, "no connection")
        }
        None => report.warn("tls", "http: whoever is on the way reads and changes what is sent"),
        Some(Err(fault)) => report.fail("tls", fault.to_string()),
        Some(Ok(certificate)) => tls(report, certificate, now),
    }
    matches!(look.tcp, Some(Ok(_))) && !matches!(look.tls, Some(Err(_)))
}

fn tls(report: &mut Report, certificate: &Certificate, now: Millis) {
    let days = (certificate.not_after.0 - now.0) / DAY_MS;
    let names = certificate.names.join(", ");
    let detail = format!("valid for {days} more days, for {names}, issued by {}", certificate.issuer);
    let verdict = if days < DAYS_LEFT { Verdict::Warn } else { Verdict::Pass };
    report.add("tls", verdict, detail);
}

/// Everything that a test event needs.
pub struct Probe {
    pub url: CallbackUrl,
    pub sender: Sender,
    pub clock: Clock,
    pub dice: Dice,
    /// What the receiver verifies with.
    pub key: Option<SigningKey>,
    /// How it is signed beside `v1`.
    pub schemes: Vec<Scheme>,
    /// What the endpoint adds.
    pub headers: HeaderMap,
}

/// The questions after the first event: name, what is sent, what it shows.
const MUST_REFUSE: [(&str, Kind, &str); 4] = [
    ("foreign secret", Kind::Foreign, "whoever finds the URL can send it events"),
    ("altered body", Kind::Altered, "it verifies something else than the body it acts on"),
    ("unsigned", Kind::Unsigned, "whoever finds the URL can send it events"),
    ("old timestamp", Kind::Stale, "a webhook that someone recorded can be sent again for ever"),
];

impl Probe {
    /// Sends one event after the other and judges the answers.
    pub async fn run(&self, report: &mut Report) {
        // Unknown to everyone: what it signs must be refused.
        let Ok(foreign) = SigningKey::from_random(self.dice.bytes(), self.dice.bytes()) else { return };
        let reached = match &self.key {
            Some(key) => self.must_take(report, key).await,
            None => {
                for name in ["signed event", "answer", "duplicate", "slow body"] {
                    report.add(name, Verdict::Skipped, "needs --secret");
                }
                false
            }
        };
        for (name, kind, harm) in MUST_REFUSE {
            // Without the receiver's secret these differ from a foreign one in nothing.
            if self.key.is_none() && matches!(kind, Kind::Altered | Kind::Stale) {
                report.add(name, Verdict::Skipped, "needs --secret");
                continue;
            }
            if kind == Kind::Stale && self.schemes.contains(&Scheme::Github) {
                report.add(name, Verdict::Skipped, "GitHub's signature does not cover the time");
                continue;
            }
            let key = self.key.as_ref().filter(|_| kind != Kind::Foreign).unwrap_or(&foreign);
            let seen = self.post(&self.event(), kind, key).await;
            must_refuse(report, name, &seen, (harm, reached));
        }
    }

    /// What is signed well. Gives whether the first of them was taken.
    async fn must_take(&self, report: &mut Report, key: &SigningKey) -> bool {
        let event = self.event();
        let first = self.post(&event, Kind::Good, key).await;
        accepted(report, "signed event", &first, "a webhook signed with --secret");
        answer(report, &first);
        let again = self.post(&event, Kind::Again, key).await;
        accepted(report, "duplicate", &again, "the same webhook-id again, as after an answer that was lost");
        let (request, limits, now) = self.request(&self.event(), Kind::Good, key);
        let slow = self.sender.post_slowly(&self.url, request, DRIP, limits, now).await;
        accepted(report, "slow body", &slow, "a webhook whose body came in pieces, over a second");
        matches!(first.outcome, Outcome::Answered { status: 200..=299, .. })
    }

    /// A new event each time, or a receiver that remembers ids would answer from memory.
    fn event(&self) -> Event {
        let now = self.clock.now();
        Event { delivery: self.dice.id(now), event: self.dice.id(now), at: now }
    }

    async fn post(&self, event: &Event, kind: Kind, key: &SigningKey) -> Exchange {
        let ((headers, body), limits, now) = self.request(event, kind, key);
        self.sender.post(&self.url, headers, body, limits, now).await
    }

    fn request(&self, event: &Event, kind: Kind, key: &SigningKey) -> ((HeaderMap, Bytes), Limits, Millis) {
        let now = self.clock.now();
        let (mut headers, body) = event.request(kind, key, &self.schemes, now);
        headers.extend(self.headers.clone());
        let limits =
            Limits { deadline: DEADLINE, not_after: BootTime::now().plus(DEADLINE), answer: Answer::Glance };
        ((headers, body), limits, now)
    }
}

/// 2xx and nothing else.
fn accepted(report: &mut Report, name: &'static str, seen: &Exchange, what: &str) {
    match seen.outcome {
        Outcome::Answered { abort: true, .. } => {
            report.fail(name, "`webhook-delivery: abort` ends the delivery for good");
        }
        Outcome::Answered { status: status @ 200..=299, .. } => {
            report.pass(name, format!("{status} to {what}"))
        }
        Outcome::Answered { status: status @ 300..=399, .. } => {
            report.fail(name, format!("{status}: a redirect is not followed; register the URL it leads to"));
        }
        Outcome::Answered { status: 410, .. } => report.fail(name, "410 ends the delivery for good"),
        Outcome::Answered { status: status @ (401 | 403), .. } => {
            report.fail(name, format!("{status} to {what}: is it the right secret, over the raw body?"));
        }
        Outcome::Answered { status, .. } => {
            report.fail(name, format!("{status} to {what}: only 2xx counts, everything else is sent again"));
        }
        Outcome::Failed(fault) => report.fail(name, fault.to_string()),
    }
}

/// How fast the whole answer came, and how long it was.
fn answer(report: &mut Report, seen: &Exchange) {
    let whole = seen.duration;
    let first = seen.phases.first_byte_ms.unwrap_or_default();
    let detail = format!(
        "first byte after {first} ms, whole answer after {} ms; the deadline is {} s",
        whole.as_millis(),
        DEADLINE.as_secs()
    );
    match seen.outcome {
        Outcome::Failed(_) => report.add("answer", Verdict::Skipped, "there was none"),
        Outcome::Answered { .. } if whole > SLOW => {
            report.warn("answer", format!("{detail}: answer first, work after"));
        }
        Outcome::Answered { .. } => report.pass("answer", detail),
    }
}

/// A status that says no to the event. `reached`: a good one was taken, so that the URL is the right one.
fn must_refuse(report: &mut Report, name: &'static str, seen: &Exchange, (harm, reached): (&str, bool)) {
    match seen.outcome {
        Outcome::Answered { status: status @ (400 | 401 | 403 | 422), .. } => {
            report.pass(name, format!("refused with {status}"));
        }
        Outcome::Answered { status: 410, .. } => {
            report.warn(name, "refused with 410, which ends good deliveries too; 401 or 400 is meant");
        }
        // Nothing there refuses whatever comes, and takes nothing either.
        Outcome::Answered { status: status @ (404 | 405), .. } if !reached => {
            report.fail(
                name,
                format!("{status}: is it the right URL? To an event that it refuses 401 is meant"),
            );
        }
        Outcome::Answered { status: status @ 400..=499, .. } => {
            report.warn(name, format!("{status}, which says something else; 401 or 400 is meant"));
        }
        Outcome::Answered { status: status @ 200..=299, .. } => {
            report.fail(name, format!("taken with {status}: {harm}"));
        }
        Outcome::Answered { status, .. } => report.fail(name, format!("{status} instead of 401 or 400")),
        Outcome::Failed(fault) => report.fail(name, format!("no answer, instead of 401 or 400: {fault}")),
    }
}
