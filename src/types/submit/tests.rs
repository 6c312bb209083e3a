use super::*;

const NOW: Millis = Millis(1_767_225_600_000);

fn submit(body: serde_json::Value) -> Checked<NewJob> {
    let wish = serde_json::from_value(body).unwrap();
    let policy = UrlPolicy::default();
    let stamp = Stamp {
        id: JobId::mint(NOW, [1; 10]),
        tenant: TenantId::mint(NOW, [2; 10]),
        traceparent: None,
        estimated_seconds: 30,
        lease: LeaseToken { fence: 1, random: [3; 16] },
        idempotency: None,
    };
    let endpoints = BTreeMap::from([(endpoint(), "https://standing.example.com/in".to_owned())]);
    check(wish, &Rules { now: NOW, policy: &policy, endpoints: &endpoints }, stamp)
}

fn endpoint() -> EndpointId {
    EndpointId::mint(NOW, [4; 10])
}

#[test]
fn the_least_request_takes_every_default() {
    let job = submit(serde_json::json!({"type": "report.generate"})).unwrap();
    assert_eq!((job.queue.as_str(), job.priority, job.timeout_seconds), ("default", 0, 600));
    assert_eq!((job.max_attempts, job.retain_seconds, job.worker), (3, 604_800, WorkerKind::Pull));
    assert_eq!((job.input.as_str(), job.metadata.as_str()), ("null", "{}"));
    assert!(job.callback.is_none() && job.lease.is_none() && job.secrets.is_empty());
}

#[test]
fn a_short_longest_delay_alone_is_enough() {
    let callback = serde_json::json!({"url": "https://a.example.com/", "retry": {"maxSeconds": 3}});
    let job = submit(serde_json::json!({"type": "a", "callback": callback})).unwrap();
    let retry = job.callback.unwrap().retry;
    assert_eq!((retry.initial_seconds, retry.max_seconds), (3, 3));
}

#[test]
fn an_external_job_brings_its_first_lease() {
    let job = submit(serde_json::json!({"type": "ci", "worker": "external"})).unwrap();
    assert_eq!(job.lease_seconds, 3_600);
    assert!(job.lease.is_some());
}

#[test]
fn the_long_form_is_kept_whole() {
    let job = submit(serde_json::json!({"type": "a", "callback": {
        "url": "https://Hooks.Example.com/x", "events": ["job.completed", "job.progress"],
        "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "headers": {"X-Env": "prod"},
        "payload": "thin", "format": "cloudevents", "context": {"orderId": "o-1"},
        "failureUrl": "https://hooks.example.com/dead", "retry": {"maxAttempts": 5}}}))
    .unwrap();
    let callback = job.callback.unwrap();
    assert_eq!(callback.url, "https://hooks.example.com/x");
    assert_eq!(callback.wants, JobEvent::Completed.bit() | JobEvent::Progress.bit());
    assert_eq!(callback.retry.max_attempts, 5);
    assert_eq!(callback.context.unwrap().get(), r#"{"orderId":"o-1"}"#);
    assert_eq!(job.secrets.headers, [("x-env".to_owned(), "prod".to_owned())]);
    assert!(job.secrets.secret.unwrap().starts_with("whsec_"));
}

#[test]
fn of_a_callback_only_what_it_says_is_stored() {
    let stored = |callback: serde_json::Value| {
        let callback =
            submit(serde_json::json!({"type": "a", "callback": callback})).unwrap().callback.unwrap();
        let text = serde_json::to_string(&callback).unwrap();
        let back: crate::types::job::Callback = serde_json::from_str(&text).unwrap();
        assert_eq!((back.wants, back.retry), (callback.wants, callback.retry));
        assert_eq!((back.payload, back.format), (callback.payload, callback.format));
        text
    };
    let url = "https://hooks.example.com/x";
    assert_eq!(stored(serde_json::json!({"url": url})), format!(r#"{{"url":"{url}"}}"#));
    let of_endpoint = format!(r#"{{"url":"https://standing.example.com/in","endpointId":"{}"}}"#, endpoint());
    assert_eq!(stored(serde_json::json!({"endpointId": endpoint()})), of_endpoint);
    let ends = serde_json::json!(["job.completed", "job.failed", "job.cancelled", "job.expired"]);
    assert_eq!(stored(serde_json::json!({"url": url, "events": ends})), format!(r#"{{"url":"{url}"}}"#));
    let queued = JobEvent::Queued.bit();
    assert_eq!(
        stored(serde_json::json!({"url": url, "events": ["job.queued"]})),
        format!(r#"{{"url":"{url}","wants":{queued}}}"#)
    );
    let retry = serde_json::json!({"maxAttempts": 13});
    assert_eq!(
        stored(serde_json::json!({"url": url, "payload": "full", "format": "standard", "retry": retry})),
        format!(
            r#"{{"url":"{url}","payload":"full","format":"standard","retry":{{"maxAttempts":13,"initialSeconds":5,"factor":4.0,"maxSeconds":43200}}}}"#
        )
    );
}

#[test]
fn an_endpoint_takes_the_place_of_url_secret_and_policy() {
    let with = |more: serde_json::Value| {
        let mut callback = serde_json::json!({"endpointId": endpoint()});
        callback.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        submit(serde_json::json!({"type": "a", "callback": callback}))
    };
    let callback = with(serde_json::json!({"payload": "thin"})).unwrap().callback.unwrap();
    assert_eq!(
        (callback.endpoint_id, callback.url.as_str()),
        (Some(endpoint()), "https://standing.example.com/in")
    );
    assert_eq!((callback.payload, callback.format), (Some(api::Payload::Thin), None), "the endpoint's own");
    let url = "https://hooks.example.com/x";
    for (member, value) in [
        ("url", serde_json::json!(url)),
        ("secret", serde_json::json!("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")),
        ("retry", serde_json::json!({})),
    ] {
        let refusal = with(serde_json::json!({ member: value })).err().unwrap();
        assert_eq!(refusal.errors[0].pointer, format!("/callback/{member}"));
    }
}

#[test]
fn every_broken_rule_is_named_by_its_pointer() {
    let long = "x".repeat(300);
    let big = "x".repeat(NOTE_MAX);
    let url = "https://hooks.example.com/x";
    for (more, pointer) in [
        (serde_json::json!({"type": ""}), "/type"),
        (serde_json::json!({"type": ".a"}), "/type"),
        (serde_json::json!({"type": "a b"}), "/type"),
        (serde_json::json!({"type": "x".repeat(129)}), "/type"),
        (serde_json::json!({"queue": "ä"}), "/queue"),
        (serde_json::json!({"queue": "x".repeat(65)}), "/queue"),
        (serde_json::json!({"ref": long}), "/ref"),
        (serde_json::json!({"ref": "a\u{0}b"}), "/ref"),
        (serde_json::json!({"priority": 3}), "/priority"),
        (serde_json::json!({"priority": -3}), "/priority"),
        (serde_json::json!({"timeoutSeconds": 0}), "/timeoutSeconds"),
        (serde_json::json!({"timeoutSeconds": 86_401}), "/timeoutSeconds"),
        (serde_json::json!({"maxAttempts": 0}), "/maxAttempts"),
        (serde_json::json!({"maxAttempts": 101}), "/maxAttempts"),
        (serde_json::json!({"retainSeconds": 59}), "/retainSeconds"),
        (serde_json::json!({"leaseSeconds": 30}), "/leaseSeconds"),
        (serde_json::json!({"worker": "external", "leaseSeconds": 0}), "/leaseSeconds"),
        (serde_json::json!({"runAt": "2026-02-01T00:00:00Z"}), "/runAt"),
        (serde_json::json!({"worker": "external", "runAt": "2026-01-02T00:00:00Z"}), "/runAt"),
        (serde_json::json!({"deadlineAt": "2025-12-31T00:00:00Z"}), "/deadlineAt"),
        (serde_json::json!({"deadlineAt": "2027-01-02T00:00:00Z"}), "/deadlineAt"),
        (
            serde_json::json!({"runAt": "2026-01-03T00:00:00Z", "deadlineAt": "2026-01-02T00:00:00Z"}),
            "/deadlineAt",
        ),
        (serde_json::json!({"metadata": {"a": big}}), "/metadata"),
        (serde_json::json!({"callbackUrl": url, "callback": {"url": url}}), "/callback"),
        (serde_json::json!({"callbackUrl": "https://127.0.0.1/"}), "/callbackUrl"),
        (serde_json::json!({"callbackUrl": "nonsense"}), "/callbackUrl"),
        (serde_json::json!({"callback": {}}), "/callback/url"),
        (serde_json::json!({"callback": {"url": "http://example.com/"}}), "/callback/url"),
        (
            serde_json::json!({"callback": {"endpointId": "ep_01H455VB4PEX5VSKNK084SN02Q"}}),
            "/callback/endpointId",
        ),
        (serde_json::json!({"callback": {"url": url, "secret": "whsec_AAAA"}}), "/callback/secret"),
        (serde_json::json!({"callback": {"url": url, "events": []}}), "/callback/events"),
        (
            serde_json::json!({"callback": {"url": url, "events": ["job.completed", "job.done"]}}),
            "/callback/events/1",
        ),
        (serde_json::json!({"callback": {"url": url, "headers": {"Host": "x"}}}), "/callback/headers/Host"),
        (
            serde_json::json!({"callback": {"url": url, "headers": {"webhook-id": "x"}}}),
            "/callback/headers/webhook-id",
        ),
        (serde_json::json!({"callback": {"url": url, "headers": {"a/b": "x"}}}), "/callback/headers/a~1b"),
        (serde_json::json!({"callback": {"url": url, "headers": {"x": "é"}}}), "/callback/headers/x"),
        (serde_json::json!({"callback": {"url": url, "context": big}}), "/callback/context"),
        (
            serde_json::json!({"callback": {"url": url, "expiresAt": "2025-01-01T00:00:00Z"}}),
            "/callback/expiresAt",
        ),
        (serde_json::json!({"callback": {"url": url, "failureUrl": "ftp://x.y/"}}), "/callback/failureUrl"),
        (serde_json::json!({"callback": {"url": url, "retry": {"factor": 11}}}), "/callback/retry/factor"),
    ] {
        let mut body = serde_json::json!({"type": "a"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let refusal = submit(body.clone()).err().unwrap_or_else(|| panic!("{body} was taken"));
        assert_eq!(refusal.errors[0].pointer, pointer, "{body}");
    }
}

#[test]
fn a_refused_url_says_whether_it_is_broken_or_closed() {
    let code = |url: &str| {
        submit(serde_json::json!({"type": "a", "callbackUrl": url})).err().map(|refusal| refusal.code)
    };
    assert_eq!(code("https://10.0.0.1/"), Some(ProblemCode::CallbackUrlBlocked));
    assert_eq!(code("https://u:p@example.com/"), Some(ProblemCode::CallbackUrlInvalid));
    assert_eq!(code("https://hooks.example.com/"), None);
}
