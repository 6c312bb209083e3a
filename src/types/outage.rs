//! Dead letters that belong together: those of one receiver that died close to each other.

use std::collections::BTreeMap;
use std::time::Duration;

use super::api::{ErrorCount, Outage, ReplayFilter};
use super::{EndpointId, Millis};

/// A receiver whose letters died further apart had two outages.
pub const APART: Duration = Duration::from_secs(30 * 60);

/// Some letters of one receiver with one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The standing endpoint they went to.
    pub endpoint_id: Option<EndpointId>,
    /// The account they belong to.
    pub account: Option<String>,
    /// The host they went to.
    pub host: String,
    /// What went wrong last.
    pub error: String,
    /// How many.
    pub letters: u64,
    /// When the first of them died, and the last.
    pub died: (Millis, Millis),
}

/// Puts spans together, the outage that ended last first.
pub fn outages(mut spans: Vec<Span>) -> Vec<Outage> {
    let whose = |span: &Span| (span.endpoint_id, span.account.clone(), span.host.clone());
    spans.sort_by_key(|span| (whose(span), span.died));
    let mut found: Vec<Vec<Span>> = Vec::new();
    let mut end = Millis(0);
    for span in spans {
        let with = found
            .last_mut()
            .filter(|group| whose(&group[0]) == whose(&span) && span.died.0.since(end) <= APART);
        end = if with.is_some() { end.max(span.died.1) } else { span.died.1 };
        match with {
            Some(group) => group.push(span),
            None => found.push(vec![span]),
        }
    }
    let mut outages: Vec<Outage> = found.iter().map(|group| outage(group)).collect();
    outages.sort_by_key(|outage| std::cmp::Reverse(outage.last_died_at));
    outages
}

fn outage(group: &[Span]) -> Outage {
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for span in group {
        *errors.entry(&span.error).or_default() += span.letters;
    }
    let mut errors: Vec<ErrorCount> =
        errors.into_iter().map(|(error, letters)| ErrorCount { error: error.to_owned(), letters }).collect();
    errors.sort_by_key(|e| std::cmp::Reverse(e.letters));
    let first = group.iter().map(|span| span.died.0).min().unwrap_or_default();
    let last = group.iter().map(|span| span.died.1).max().unwrap_or_default();
    let (endpoint_id, host) = (group[0].endpoint_id, group[0].host.clone());
    let filter = ReplayFilter {
        endpoint_id,
        // An endpoint at the same host has outages of its own.
        ad_hoc: endpoint_id.is_none().then_some(true),
        // A key that is narrowed to accounts may replay only what names one of them.
        account: group[0].account.clone(),
        host: Some(host.clone()),
        since: Some(first),
        until: Some(last.plus(Duration::from_millis(1))),
        ..ReplayFilter::default()
    };
    let letters = group.iter().map(|span| span.letters).sum();
    Outage { endpoint_id, host, letters, errors, first_died_at: first, last_died_at: last, filter }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(host: &str, error: &str, letters: u64, from: i64, to: i64) -> Span {
        let minute = |n: i64| Millis(n * 60_000);
        Span {
            endpoint_id: None,
            account: None,
            host: host.to_owned(),
            error: error.to_owned(),
            letters,
            died: (minute(from), minute(to)),
        }
    }

    #[test]
    fn letters_of_one_receiver_that_died_close_to_each_other_are_one_outage() {
        let found = outages(vec![
            span("b", "connect", 5, 40, 49),
            span("a", "timeout", 2, 0, 9),
            span("a", "timeout", 3, 39, 45),
            span("a", "dns", 9, 10, 11),
            // 31 minutes later.
            span("a", "dns", 1, 76, 76),
        ]);
        let told: Vec<_> = found.iter().map(|o| (o.host.as_str(), o.letters, o.errors.len())).collect();
        assert_eq!(told, [("a", 1, 1), ("b", 5, 1), ("a", 14, 2)]);
        let long = &found[2];
        assert_eq!((long.first_died_at, long.last_died_at), (Millis(0), Millis(45 * 60_000)));
        assert_eq!((long.errors[0].error.as_str(), long.errors[0].letters), ("dns", 9));
        assert_eq!(long.filter.host.as_deref(), Some("a"));
        assert_eq!(long.filter.since, Some(Millis(0)));
        assert_eq!(long.filter.until, Some(Millis(45 * 60_000 + 1)), "the last one too");
    }

    #[test]
    fn an_endpoint_has_its_own_outages() {
        let endpoint = Some(EndpointId::from_uuid(uuid::Uuid::from_u128(7)));
        let standing = Span { endpoint_id: endpoint, ..span("a", "connect", 1, 0, 0) };
        let found = outages(vec![standing, span("a", "connect", 1, 0, 0)]);
        assert_eq!(found.len(), 2);
        let filters: Vec<_> = found.iter().map(|o| (o.filter.endpoint_id, o.filter.ad_hoc)).collect();
        assert!(filters.contains(&(endpoint, None)) && filters.contains(&(None, Some(true))), "{filters:?}");
        assert_eq!(outages(vec![]).len(), 0);
    }
}
