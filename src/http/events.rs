//! Publishing events.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};

use super::app::App;
use super::batch::Keys;
use super::endpoints::for_account;
use super::extract::{BareHead, Head, JsonBody, Key, NoQuery, Query, Waiting, need::EventsWrite, sizes};
use super::json;
use super::problem::Problem;
use super::submit::REPLAYED;
use crate::store::{NewEvent, Publication, Published, Reused};
use crate::types::api::{EventAccepted, Items, OrProblem, PublishBatch, PublishEvent};
use crate::types::event::check;
use crate::types::problem::{Invalid, ProblemCode};

/// Events in one request.
const BATCH_MAX: usize = 1_000;

/// Publish an event to the endpoints of its account, or to those of none.
///
/// Answers 202 once the event and its deliveries are stored. The same `id` within 24 hours is the same event: it is
/// answered as before and nothing is sent again.
#[utoipa::path(post, path = "/v1/events", tag = "events", operation_id = "publishEvent",
    security(("apiKey" = ["events:write"])),
    params(("Idempotency-Key" = Option<String>, Header, max_length = 257),
        ("traceparent" = Option<String>, Header)),
    request_body = PublishEvent,
    responses((status = 202, body = EventAccepted), (status = 409, description = "idempotency-in-flight")))]
pub async fn publish(
    State(app): State<App>,
    key: Key<EventsWrite>,
    _: Query<NoQuery>,
    BareHead(head): BareHead,
    body: JsonBody<PublishEvent>,
) -> Result<Response, Problem> {
    let idempotency = head.idempotency("POST /v1/events", &body.raw);
    let event = NewEvent { idempotency, ..checked(&app, &key, body.value, &head)? };
    let answers = store(&app, Publication { events: vec![event], atomic: false }).await?;
    let [Ok(published)] = answers[..] else { return Err(reused()) };
    Ok(accepted(Json(view(published)), published.replayed))
}

/// Publish many events, all or none (`atomic`) or each for itself.
#[utoipa::path(post, path = "/v1/events/batch", tag = "events", operation_id = "publishEvents",
    security(("apiKey" = ["events:write"])),
    params(("Idempotency-Key" = Option<String>, Header, max_length = 257),
        ("traceparent" = Option<String>, Header)),
    request_body = PublishBatch,
    responses((status = 202, body = Items<OrProblem<EventAccepted>>),
        (status = 409, description = "idempotency-in-flight")))]
pub async fn batch(
    State(app): State<App>,
    key: Key<EventsWrite>,
    _: Query<NoQuery>,
    BareHead(head): BareHead,
    waiting: Waiting,
    body: JsonBody<PublishBatch, sizes::Batch>,
) -> Result<Response, Problem> {
    let whole = head.idempotency("POST /v1/events/batch", &body.raw);
    let PublishBatch { atomic, events } = body.value;
    if events.is_empty() || events.len() > BATCH_MAX {
        return Err(Invalid::member("/events", format!("must have 1 to {BATCH_MAX} entries")).into());
    }
    let read = |raw: &crate::types::api::Json| {
        let wish = json::read_object::<PublishEvent>(raw.get())?;
        checked(&app, &key, wish, &head)
    };
    let mut entries: Vec<_> = events.iter().map(read).collect();
    if let Some(whole) = &whole {
        let keys = Keys::of(&app, key.tenant(), whole, &entries).await?;
        let sound = entries.iter_mut().enumerate().filter_map(|(i, one)| Some((i, one.as_mut().ok()?)));
        sound.for_each(|(i, event)| event.idempotency = Some(keys.nth(i)));
    }
    let entries = entries.into_iter().enumerate();
    let entries = entries.map(|(i, one)| one.map_err(|problem| problem.below(&format!("/events/{i}"))));
    store_batch(&app, &waiting, entries.collect(), atomic).await
}

fn checked(app: &App, key: &Key<EventsWrite>, wish: PublishEvent, head: &Head) -> Result<NewEvent, Problem> {
    let draft = check(wish)?;
    for_account(key, draft.account.as_deref())?;
    Ok(NewEvent {
        id: app.store.mint_event_id(app.now()),
        tenant: key.tenant(),
        draft,
        traceparent: head.traceparent.clone(),
        idempotency: None,
    })
}

async fn store(app: &App, publication: Publication) -> Result<Vec<Result<Published, Reused>>, Problem> {
    let answers = app.ask(app.store.publish(publication, app.now())).await?;
    app.wake.deliveries.nudge();
    app.heads.nudge();
    Ok(answers)
}

async fn store_batch(
    app: &App,
    waiting: &Waiting,
    entries: Vec<Result<NewEvent, Problem>>,
    atomic: bool,
) -> Result<Response, Problem> {
    if atomic && let Some(refusal) = Problem::all(entries.iter().filter_map(|one| one.as_ref().err())) {
        return Err(refusal);
    }
    let events: Vec<NewEvent> = entries.iter().flatten().cloned().collect();
    let stored = match events.is_empty() {
        true => Vec::new(),
        false => store(app, Publication { events, atomic }).await?,
    };
    let mut stored = stored.into_iter();
    let answer = |(i, one): (usize, Result<NewEvent, Problem>)| {
        one?;
        let stored = stored.next().ok_or_else(|| Problem::new(ProblemCode::Internal))?;
        stored.map_err(|Reused| reused().below(&format!("/events/{i}")))
    };
    let answers: Vec<Result<Published, Problem>> = entries.into_iter().enumerate().map(answer).collect();
    let done = || answers.iter().flatten();
    let replayed = done().next().is_some() && done().all(|one| one.replayed);
    let items = answers
        .iter()
        .map(|answer| match answer {
            Ok(one) => OrProblem::Done(view(*one)),
            Err(problem) => OrProblem::Problem(problem.clone().body(waiting.request_id())),
        })
        .collect();
    Ok(accepted(Json(Items { items }), replayed))
}

fn reused() -> Problem {
    Problem::new(ProblemCode::IdempotencyKeyReused).at("/id", Reused::WHY)
}

fn view(published: Published) -> EventAccepted {
    EventAccepted { event_id: published.event_id, deliveries: published.deliveries }
}

fn accepted(body: impl IntoResponse, replayed: bool) -> Response {
    let mut response = (StatusCode::ACCEPTED, body).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
