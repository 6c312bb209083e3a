use super::*;

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

#[test]
fn a_pattern_is_a_type_or_all_below_one() {
    for (text, kind, wanted) in [
        ("*", "invoice.paid", true),
        ("*", "x", true),
        ("invoice.*", "invoice.paid", true),
        ("invoice.*", "invoice.line.added", true),
        ("invoice.*", "invoice", false),
        ("invoice.*", "invoice.", false),
        ("invoice.*", "invoices.paid", false),
        ("invoice.line.*", "invoice.paid", false),
        ("invoice.paid", "invoice.paid", true),
        ("invoice.paid", "invoice.paid.late", false),
        ("invoice.paid", "Invoice.paid", false),
    ] {
        assert_eq!(pattern(text).matches(kind), wanted, "{text} {kind}");
    }
    assert!(!any_matches(&[], "invoice.paid"));
    assert!(any_matches(&[pattern("a"), pattern("job.*")], "job.failed"));
}

#[test]
fn what_is_no_pattern_is_refused() {
    let long = format!("{}.*", "x".repeat(129));
    for text in ["", "**", "*.paid", "in*", "invoice.*.x", ".*", ".x", "a b", "invoice*", "é", &long] {
        assert_eq!(text.parse::<Pattern>(), Err(BadPattern), "{text}");
    }
    assert!(format!("{}.*", "x".repeat(128)).parse::<Pattern>().is_ok());
}

fn wish(more: serde_json::Value) -> NewEndpoint {
    let mut all = serde_json::json!({"url": "https://hooks.example.com/in"});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn change(members: serde_json::Value) -> ChangeEndpoint {
    serde_json::from_value(members).unwrap()
}

#[test]
fn only_the_url_is_required() {
    let made = check(wish(serde_json::json!({})), &UrlPolicy::default()).unwrap();
    assert_eq!(made.patterns, [Pattern::every()]);
    assert_eq!(made.schemes, [Scheme::V1]);
    assert_eq!((made.limits.timeout_seconds, made.limits.ordered), (15, false));
    assert_eq!((made.limits.rate_per_second, made.limits.max_in_flight), (None, None));
    assert_eq!((made.account, made.retry), (None, RetryPolicy::default()));
}

#[test]
fn the_member_that_breaks_a_rule_is_named() {
    let many: Vec<String> = (0..101).map(|n| format!("t{n}")).collect();
    for (more, pointer) in [
        (serde_json::json!({"url": "http://hooks.example.com"}), "/url"),
        (serde_json::json!({"account": ""}), "/account"),
        (serde_json::json!({"account": "a\nb"}), "/account"),
        (serde_json::json!({"events": ["a", "*b"]}), "/events/1"),
        (serde_json::json!({"events": many}), "/events"),
        (serde_json::json!({"description": "x".repeat(1_001)}), "/description"),
        (serde_json::json!({"headers": {"Webhook-Id": "x"}}), "/headers/Webhook-Id"),
        (serde_json::json!({"rateLimitPerSecond": 0}), "/rateLimitPerSecond"),
        (serde_json::json!({"maxInFlight": 513}), "/maxInFlight"),
        (serde_json::json!({"timeoutSeconds": 31}), "/timeoutSeconds"),
        (serde_json::json!({"retry": {"maxAttempts": 0}}), "/retry/maxAttempts"),
        (serde_json::json!({"schemes": ["github", "github"]}), "/schemes/1"),
    ] {
        let refusal = check(wish(more.clone()), &UrlPolicy::default()).unwrap_err();
        assert_eq!(refusal.errors[0].pointer, pointer, "{more}");
    }
}

#[test]
fn a_change_touches_what_it_gives_and_null_resets() {
    let policy = UrlPolicy::default();
    let given = serde_json::json!({"account": "acme", "events": ["invoice.*"], "rateLimitPerSecond": 5,
        "timeoutSeconds": 30, "ordered": true, "schemes": ["github"], "payload": "thin",
        "headers": {"X-Env": "prod"}});
    let made = check(wish(given), &policy).unwrap();
    assert_eq!(made.clone().changed(change(serde_json::json!({})), &policy).unwrap(), made);
    let one = made.clone().changed(change(serde_json::json!({"ordered": false})), &policy).unwrap();
    assert_eq!(one, Settings { limits: LaneLimits { ordered: false, ..made.limits }, ..made.clone() });
    let nulls = serde_json::json!({"account": null, "events": null, "rateLimitPerSecond": null, "payload": null,
        "timeoutSeconds": null, "ordered": null, "schemes": null, "headers": null, "url": null});
    let reset = made.changed(change(nulls), &policy).unwrap();
    assert_eq!(reset, check(wish(serde_json::json!({})), &policy).unwrap());
}

#[test]
fn a_hidden_header_that_is_sent_back_stays_as_it_is() {
    let given = serde_json::json!({"headers": {"Authorization": "Bearer s3cret", "x-env": "a"}});
    let made = check(wish(given), &UrlPolicy::default()).unwrap();
    let edit = |headers| {
        made.clone().changed(change(serde_json::json!({"headers": headers})), &UrlPolicy::default())
    };
    let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());

    let kept = edit(serde_json::json!({"authorization": "redacted", "x-env": "b"})).unwrap();
    assert_eq!(kept.headers, [of("authorization", "Bearer s3cret"), of("x-env", "b")]);
    let kept = edit(serde_json::json!({"AUTHORIZATION": "redacted"})).unwrap();
    assert_eq!(kept.headers, [of("authorization", "Bearer s3cret")]);
    assert!(edit(serde_json::Value::Null).unwrap().headers.is_empty());

    let refused = edit(serde_json::json!({"X-New": "redacted"})).unwrap_err();
    assert_eq!(refused.errors[0].pointer, "/headers/X-New");
    let new = wish(serde_json::json!({"headers": {"x-new": "redacted"}}));
    assert_eq!(check(new, &UrlPolicy::default()).unwrap_err().errors[0].pointer, "/headers/x-new");
}
