//! Published events and the tenant's feed.

use std::collections::VecDeque;
use std::time::Duration;

use http::{Method, header};
use reqwest::{RequestBuilder, Response};
use serde::Serialize;
use serde_with::skip_serializing_none;

use super::verbs::{keyed, many};
use super::{
    Answer, Client, DEADLINE, Error, Result, SubmitOptions, answer, chain, pairs, refusal, unsent, with_json,
    within,
};
use crate::types::api;

/// The service tells every 15 s that it is there.
const SILENCE: Duration = Duration::from_secs(45);
/// How long one stream is read; whoever follows opens the next one where this one ended.
const FOLLOWED: Duration = Duration::from_secs(24 * 3600);
/// The largest event of a stream, bytes.
const EVENT_MAX: usize = 8 << 20;

/// Which events are read of the feed.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FeedQuery {
    /// Types and patterns, separated by commas.
    pub types: Option<String>,
    /// Of this account.
    pub account: Option<String>,
    /// The cursor to go on behind, or `now`; the oldest event where None.
    pub after: Option<String>,
    /// 1..200.
    pub limit: Option<u32>,
}

impl Client {
    /// Publishes an event.
    pub async fn publish(
        &self,
        event: &api::PublishEvent,
        options: SubmitOptions<'_>,
    ) -> Result<api::EventAccepted> {
        answer(with_json(keyed(self.request(Method::POST, &["v1", "events"]), &options), event)?)
            .await?
            .json()
    }

    /// Publishes many events; one answer per event, in order.
    pub async fn publish_batch(&self, batch: &api::PublishBatch) -> Result<Vec<Answer<api::EventAccepted>>> {
        many(&answer(with_json(self.request(Method::POST, &["v1", "events", "batch"]), batch)?).await?)
    }

    /// A page of the tenant's feed. At its end `nextCursor` is the cursor that was given.
    pub async fn feed(&self, query: &FeedQuery) -> Result<api::Page<api::FeedEvent>> {
        self.list(&["v1", "events"], query).await
    }

    /// The tenant's feed as it happens.
    pub async fn follow(&self, query: &FeedQuery) -> Result<Follow> {
        let request = self
            .request_with(Method::GET, &["v1", "events"], &pairs(query)?)
            .header(header::ACCEPT, "text/event-stream")
            .timeout(FOLLOWED);
        let response = open(request, DEADLINE).await?;
        Ok(Follow { response, text: Vec::new(), told: VecDeque::new() })
    }
}

/// Waits for a stream to begin, or for all of a refusal. The request's own deadline is that of the whole stream.
async fn open(request: RequestBuilder, patience: Duration) -> Result<Response> {
    let opened = async {
        let response = request.send().await.map_err(unsent)?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    };
    within(patience, opened).await
}

/// An open stream of the feed.
pub struct Follow {
    response: reqwest::Response,
    text: Vec<u8>,
    told: VecDeque<Told>,
}

/// What a stream tells.
#[derive(Debug)]
pub struct Told {
    /// Where to go on.
    pub cursor: String,
    /// The event; None where the stream only says how far it is.
    pub event: Option<api::FeedEvent>,
}

impl Follow {
    /// What comes next; None when the service ended the stream.
    pub async fn next(&mut self) -> Result<Option<Told>> {
        loop {
            if let Some(told) = self.told.pop_front() {
                return Ok(Some(told));
            }
            let chunk = tokio::time::timeout(SILENCE, self.response.chunk()).await;
            let silent = || Error::Unreachable(format!("nothing came for {} s", SILENCE.as_secs()));
            let Some(chunk) = chunk.map_err(|_| silent())?.map_err(|e| Error::Unreachable(chain(&e)))? else {
                return Ok(None);
            };
            if self.text.len() + chunk.len() > EVENT_MAX {
                return Err(Error::TooLarge(EVENT_MAX));
            }
            self.text.extend_from_slice(&chunk);
            self.read()?;
        }
    }

    /// Takes the whole blocks out of what has come.
    fn read(&mut self) -> Result<()> {
        while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            let block = String::from_utf8(block).map_err(|e| Error::BadReply(e.to_string()))?;
            self.told.extend(told(&block)?);
        }
        Ok(())
    }
}

/// One block of a stream (WHATWG HTML, 9.2.6), as far as the service uses them.
fn told(block: &str) -> Result<Option<Told>> {
    let field = |name: &str| -> Vec<&str> {
        block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
    };
    let Some(cursor) = field("id").last().map(|id| (*id).to_owned()) else { return Ok(None) };
    let data = field("data").join("\n");
    let event = match data.is_empty() {
        true => None,
        false => Some(serde_json::from_str(&data).map_err(|e| Error::BadReply(e.to_string()))?),
    };
    Ok(Some(Told { cursor, event }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_an_event_or_a_place_or_nothing() {
        assert!(told("retry: 2000\n\n").unwrap().is_none());
        assert!(told(": alive\n\n").unwrap().is_none());
        let place = told(": alive\nid: AB\n\n").unwrap().unwrap();
        assert_eq!((place.cursor.as_str(), place.event.is_none()), ("AB", true));
        let event = "id: C\nevent: a\ndata: {\"type\":\"a\",\"timestamp\":\"2026-01-01T00:00:00.000Z\",\ndata: \"eventId\":\"evt_01H455VB4PEX5VSKNK084SN02Q\",\"data\":[1]}\n\n";
        let event = told(event).unwrap().unwrap();
        assert_eq!((event.cursor.as_str(), event.event.unwrap().data.get()), ("C", "[1]"));
        assert!(told("id: C\ndata: {\n\n").is_err());
    }

    #[tokio::test]
    async fn a_service_that_takes_a_connection_and_says_nothing_is_not_waited_for_as_long_as_a_stream() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::new(&format!("http://{}", silent.local_addr().unwrap()), None).unwrap();
        let request = client.request(Method::GET, &["v1", "events"]).timeout(FOLLOWED);
        let opened = tokio::time::timeout(DEADLINE, open(request, Duration::from_millis(50))).await;
        let error = opened.expect("it is given up").unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)), "{error}");
    }
}
