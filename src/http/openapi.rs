//! The OpenAPI 3.1 document: what the handlers say of themselves, and what is true of all of them.

mod answers;
mod examples;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::routes::Route;
use super::system::Description;
use crate::types::api::{Event, SocketMessage, SocketRequest, Urls};
use crate::types::job::JobEvent;
use crate::types::problem::{ProblemBody, ProblemCode};

/// The frame that the handlers' descriptions are put into.
pub fn skeleton() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(
        info(title = "Ringback", description = "Submit a job, get 202, receive the signed reply."),
        components(schemas(ProblemBody, Event, SocketRequest, SocketMessage))
    )]
    struct Skeleton;
    Skeleton::openapi()
}

/// Completes the document and draws its page.
pub fn describe(document: &utoipa::openapi::OpenApi, routes: &[Route], urls: &Urls) -> Description {
    let mut doc = serde_json::to_value(document).unwrap_or_default();
    doc["servers"] = json!([{ "url": urls.base() }]);
    doc["components"]["securitySchemes"] = json!({
        "apiKey": { "type": "http", "scheme": "bearer", "description": "`rbk_...`, with scopes" },
        "accessToken": { "type": "http", "scheme": "bearer", "description": "`rbj_...`: reads one job" },
        "accessTokenQuery": { "type": "apiKey", "in": "query", "name": "access_token",
            "description": "The same for browsers, whose EventSource sets no headers" },
        "leaseToken": { "type": "apiKey", "in": "header", "name": "Lease-Token",
            "description": "`rbl_...`: reports on its job; stands in the body as `leaseToken` where that is JSON" },
    });
    doc["components"]["schemas"]["SubmitJob"]["examples"] = json!([examples::short()]);
    for code in ProblemCode::ALL {
        doc["components"]["examples"][code.slug()] =
            json!({ "summary": code.title(), "value": answers::problem(*code, None) });
    }
    for (path, method, operation) in operations(&mut doc) {
        parameters(operation);
        complete(&path, &method, operation);
    }
    alias_all(&mut doc, routes);
    replies(&mut doc);
    let json = serde_json::to_vec(&doc).unwrap_or_default().into();
    Description { json, html: page(&mut doc) }
}

/// Every operation with its path and method.
fn operations(doc: &mut Value) -> Vec<(String, String, &mut Value)> {
    let Some(paths) = doc["paths"].as_object_mut() else { return Vec::new() };
    let mut all = Vec::new();
    for (path, item) in paths.iter_mut() {
        let methods = item.as_object_mut().into_iter().flatten();
        all.extend(methods.map(|(method, operation)| (path.clone(), method.clone(), operation)));
    }
    all
}

/// `null` has no spelling in a query or a head, and raw bytes are no array: both are habits of the generator.
fn parameters(operation: &mut Value) {
    let named = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for schema in named.into_iter().flatten().map(|parameter| &mut parameter["schema"]) {
        let null = |one: &Value| one == "null" || one["type"] == "null";
        let sole = ["type", "oneOf"].iter().find_map(|member| {
            let list = schema[*member].as_array()?;
            let mut real = list.iter().filter(|one| !null(one));
            real.next().map(|one| (*member, one.clone()))
        });
        match sole {
            Some(("type", word)) => schema["type"] = word,
            Some((_, of)) => *schema = of,
            None => {}
        }
    }
    let content = operation.pointer_mut("/requestBody/content").and_then(Value::as_object_mut);
    if let Some(content) = content.filter(|types| types.contains_key("application/octet-stream")) {
        content.remove("application/octet-stream");
        content.insert("*/*".to_owned(), json!({ "schema": { "type": "string", "format": "binary" } }));
    }
}

/// Adds what holds for every operation: scope, problems, the request's name.
fn complete(path: &str, method: &str, operation: &mut Value) {
    let scopes = scopes(operation);
    let closed = operation.get("security").is_some();
    let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
    if !scopes.is_empty() {
        let text = operation["description"].as_str().unwrap_or_default().trim().to_owned();
        let told = format!("{text}\n\nScope: `{}`.", scopes.join("` or `"));
        operation["description"] = Value::from(told.trim());
    }
    for (name, summary, value) in examples::of(&id) {
        operation["requestBody"]["content"]["application/json"]["examples"][name] =
            json!({ "summary": summary, "value": value });
    }
    // A POST that wants no body reads it all the same: a member that it does not know is refused.
    let body = operation.get("requestBody").is_some() || method == "post";
    let by_token = operation["security"].to_string().contains("accessToken");
    let mut problems = vec![431, 500, 503];
    if closed {
        problems.extend([400, 401, 403]);
    }
    if path.contains('{') {
        problems.push(404);
    }
    if body {
        problems.extend([400, 408, 413, 415, 422]);
    }
    // One job can be polled too often.
    if by_token && path.contains('{') {
        problems.push(429);
    }
    if ["{jobId}", "{file}", "{deliveryId}"].iter().any(|id| path.contains(id)) {
        problems.push(410);
    }
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for status in problems {
        responses.entry(status.to_string()).or_insert_with(|| json!({ "description": words(status) }));
    }
    for (status, response) in responses {
        answer(status, response);
        show(&id, status, response);
        for field in fields(&id, status) {
            response["headers"][field] = json!({ "schema": { "type": kind(field) } });
        }
    }
}

/// Adds the examples of an answer's body; of a problem, each code that its description names.
fn show(id: &str, status: &str, response: &mut Value) {
    for (name, summary, value) in answers::of(id, status) {
        response["content"]["application/json"]["examples"][name] =
            json!({ "summary": summary, "value": value });
    }
    let named = response["description"].as_str().unwrap_or_default().to_owned();
    let codes = named.split(", ").filter(|slug| ProblemCode::ALL.iter().any(|code| code.slug() == *slug));
    for slug in codes {
        response["content"]["application/problem+json"]["examples"][slug] =
            json!({ "$ref": format!("#/components/examples/{slug}") });
    }
}

/// The fields of the head that an answer may have, beside those of every answer.
fn fields(id: &str, status: &str) -> &'static [&'static str] {
    match (id, status) {
        ("submitJob" | "submitOperation", "202") => {
            &["Location", "Retry-After", "Preference-Applied", "Idempotent-Replayed", "Vary"]
        }
        ("submitJob" | "submitOperation", "200") => {
            &["ETag", "Preference-Applied", "Idempotent-Replayed", "Vary"]
        }
        ("submitBatch", "202") => &["Idempotent-Replayed"],
        ("getJob", "200" | "304") => &["ETag", "Retry-After", "Preference-Applied"],
        ("getJob", "303") => &["Location", "ETag"],
        ("getResult" | "getResultFile", status) => of_result(status),
        ("listJobEvents", "200") => &["Link", "Preference-Applied", "Vary", "Cache-Control"],
        ("retryJob", "202") => &["Location", "ETag", "Retry-After"],
        ("cancelJob" | "deleteJob" | "completeJob" | "failJob" | "releaseJob", "200" | "202") => {
            &["ETag", "Retry-After"]
        }
        ("replayDeadLetters" | "replayDeliveries", "202") | (_, "201") => &["Location"],
        (id, "200") if id.starts_with("list") => &["Link"],
        _ => &[],
    }
}

/// The same for a result.
fn of_result(status: &str) -> &'static [&'static str] {
    match status {
        "200" => &[
            "ETag",
            "Repr-Digest",
            "Content-Digest",
            "Content-Disposition",
            "Accept-Ranges",
            "X-Content-Type-Options",
            "Content-Security-Policy",
            "Cache-Control",
            "Vary",
            "Preference-Applied",
        ],
        "206" => &[
            "ETag",
            "Repr-Digest",
            "Content-Digest",
            "Content-Range",
            "Content-Disposition",
            "Accept-Ranges",
            "X-Content-Type-Options",
            "Content-Security-Policy",
            "Cache-Control",
            "Vary",
            "Preference-Applied",
        ],
        "303" => &[
            "Location",
            "X-Content-Type-Options",
            "Content-Security-Policy",
            "Cache-Control",
            "Vary",
            "Preference-Applied",
        ],
        "304" => &["ETag", "Cache-Control", "Vary", "Preference-Applied"],
        "409" => &["Retry-After", "Preference-Applied", "Vary"],
        "416" => &["Content-Range"],
        _ => &[],
    }
}

fn kind(field: &str) -> &'static str {
    if field == "Retry-After" { "integer" } else { "string" }
}

/// The scopes that an operation's security names, any of which is enough.
fn scopes(operation: &Value) -> Vec<String> {
    let list = operation["security"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = list.iter().filter_map(|one| one["apiKey"].as_array()).flatten();
    named.filter_map(|scope| scope.as_str().map(str::to_owned)).collect()
}

/// The codes of one status.
fn words(status: u16) -> String {
    let codes = ProblemCode::ALL.iter().filter(|code| code.status() == status);
    codes.map(|code| code.slug()).collect::<Vec<_>>().join(", ")
}

fn answer(status: &str, response: &mut Value) {
    // OpenAPI 3.1 asks for a description of every response.
    if response["description"].as_str().is_none_or(str::is_empty) {
        let reason = status.parse().ok().and_then(|code: http::StatusCode| code.canonical_reason());
        response["description"] = Value::from(reason.unwrap_or("Answer"));
    }
    response["headers"]["Request-Id"] = json!({ "schema": { "type": "string" } });
    if matches!(status, "429" | "503") {
        response["headers"]["Retry-After"] = json!({ "schema": { "type": "integer" } });
    }
    if status.starts_with('4') || status.starts_with('5') {
        response["content"]["application/problem+json"] =
            json!({ "schema": { "$ref": "#/components/schemas/ProblemBody" } });
    }
}

/// The seed's paths and the operator's own describe the same handlers.
fn alias_all(doc: &mut Value, routes: &[Route]) {
    alias(doc, "/v1/jobs", "/api/jobs", "Seed");
    alias(doc, "/v1/jobs/{jobId}", "/api/jobs/{jobId}", "Seed");
    alias(doc, "/v1/tenants/self/rotate-secret", "/v1/tenants/self/webhook-secret/rotate-secret", "Below");
    for (n, route) in routes.iter().enumerate() {
        let name = format!("Route{n}");
        alias(doc, "/v1/operations/{type}", &route.path, &name);
        let operation = &mut doc["paths"][&route.path]["post"];
        operation["summary"] =
            Value::from(format!("Submit a job of type {}; the body is its input.", route.kind));
        if let Some(parameters) = operation["parameters"].as_array_mut() {
            parameters.retain(|one| one["in"] != "path");
        }
        if doc["paths"].get(route.polled_at()).is_none() {
            alias(doc, "/v1/jobs/{jobId}", route.polled_at(), &name);
            if let Some(item) = doc["paths"][route.polled_at()].as_object_mut() {
                item.retain(|method, _| method == "get");
            }
        }
    }
}

fn alias(doc: &mut Value, from: &str, to: &str, name: &str) {
    let mut item = doc["paths"][from].clone();
    for (_, operation) in item.as_object_mut().into_iter().flatten() {
        let id = operation["operationId"].as_str().unwrap_or_default();
        operation["operationId"] = Value::from(format!("{id}{name}"));
    }
    doc["paths"][to] = item;
}

/// The replies: `callbacks` on what submits, `webhooks` for standing endpoints.
fn replies(doc: &mut Value) {
    for (path, method, operation) in operations(doc) {
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        let expressions: &[&str] = match id.as_str() {
            _ if method != "post" => &[],
            id if id.starts_with("submitJob") => {
                &["{$request.body#/callbackUrl}", "{$request.body#/callback/url}"]
            }
            id if id.starts_with("submitOperation") => &["{$request.header.Callback-Url}"],
            _ => &[],
        };
        if id.starts_with("submitJob") || id.starts_with("submitOperation") {
            operation["responses"]["202"]["links"] = links();
        }
        if !expressions.is_empty() {
            let items: Map<String, Value> =
                expressions.iter().map(|e| ((*e).to_owned(), json!({ "post": reply(&path) }))).collect();
            operation["callbacks"] = json!({ "reply": items });
        }
        if id.starts_with("submitJob") {
            operation["callbacks"]["failure"] =
                json!({ "{$request.body#/callback/failureUrl}": { "post": dead(&path) } });
        }
    }
    let mut hooks: Map<String, Value> =
        JobEvent::ALL.iter().map(|e| (e.as_str().to_owned(), json!({ "post": reply(e.as_str()) }))).collect();
    hooks.insert(DEAD.to_owned(), json!({ "post": dead(DEAD) }));
    doc["webhooks"] = Value::Object(hooks);
}

/// The event that a `failureUrl` is told.
const DEAD: &str = "delivery.dead";

/// One signed POST that tells of a dead callback; it belongs to no job, so it has no `sequence`.
fn dead(of: &str) -> Value {
    let mut told = reply(of);
    let (text, instant) = (json!({ "type": "string" }), json!({ "type": "string", "format": "date-time" }));
    told["requestBody"]["content"]["application/json"]["schema"] = json!({
        "type": "object",
        "required": ["type", "timestamp", "eventId", "data"],
        "properties": {
            "type": { "const": DEAD }, "timestamp": instant, "eventId": text,
            "data": { "type": "object", "properties": {
                "deliveryId": text, "eventType": text, "jobId": text, "url": text, "reason": text,
                "attempts": { "type": "integer" }, "lastError": text } },
        },
    });
    told
}

/// Where the `jobId` of a 202 leads.
fn links() -> Value {
    let to = |id: &str| json!({ "operationId": id, "parameters": { "jobId": "$response.body#/jobId" } });
    json!({ "job": to("getJob"), "events": to("listJobEvents"), "result": to("getResult"),
        "cancel": to("cancelJob") })
}

/// One signed POST to a receiver (Standard Webhooks).
fn reply(of: &str) -> Value {
    let header = |name: &str, text: &str| {
        json!({ "name": name, "in": "header", "required": true, "description": text,
            "schema": { "type": "string" } })
    };
    json!({
        "summary": format!("The reply ({of})"),
        "parameters": [
            header("webhook-id", "Stable over retries: the receiver's idempotency key"),
            header("webhook-timestamp", "Seconds since 1970, of this attempt"),
            header("webhook-signature", "`v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`"),
            header("webhook-attempt", "From 1"),
        ],
        "requestBody": { "required": true, "content": {
            "application/json": { "schema": { "$ref": "#/components/schemas/Event" } } } },
        "responses": {
            "2XX": { "description": "Delivered" },
            "410": { "description": "Never send here again" },
            "default": { "description": "Sent again later; `Retry-After` is a floor" },
        },
    })
}

/// A page that lists the operations; everything on it is inline.
fn page(doc: &mut Value) -> String {
    let mut rows = String::new();
    for (path, method, operation) in operations(doc) {
        let text = operation["summary"].as_str().or(operation["description"].as_str()).unwrap_or_default();
        let statuses: Vec<&str> = operation["responses"]
            .as_object()
            .map(|all| all.keys().map(String::as_str).collect())
            .unwrap_or_default();
        rows.push_str(&format!(
            "<tr><td><code>{} {}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            method.to_uppercase(),
            escape(&path),
            escape(text),
            escape(&scopes(operation).join(", ")),
            statuses.join(" "),
        ));
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Ringback API</title>\
         <style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}}\
         td,th{{text-align:left;vertical-align:top;padding:.3rem .8rem;border-bottom:1px solid #8884}}\
         table{{border-collapse:collapse}}:root{{color-scheme:light dark}}</style>\
         <h1>Ringback API</h1><p>The whole description for programs: <a href=\"/openapi.json\">openapi.json</a>.</p>\
         <table><tr><th>Operation</th><th>What it does</th><th>Scope</th><th>Answers</th></tr>\n{rows}</table></html>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
