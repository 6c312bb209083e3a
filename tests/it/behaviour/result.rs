//! What a worker made, as its client reads it.

use serde_json::json;

use crate::support::app::{Site, TestApp, both_engines, id};

both_engines! {
    json_comes_back_byte_for_byte,
    bytes_keep_their_type_and_never_run_in_a_browser,
    one_range_is_honoured,
    digests_tell_of_the_whole_and_of_what_came,
    pictures_and_documents_keep_their_type_and_ending,
    head_tells_all_and_carries_nothing,
    no_result_yet_says_when_to_come_back,
    a_failed_job_has_none,
    a_result_kept_elsewhere_is_pointed_to,
    a_result_that_is_too_large_is_refused,
    reading_waits_for_the_end,
}

/// A job completed with these bytes.
async fn with_bytes(app: &TestApp, content_type: &str, bytes: &[u8]) -> String {
    let job = app.submit_id(json!({"type": "t"})).await;
    let token = id(&app.claim_one().await["leaseToken"]);
    let complete = app.ask("POST", &format!("/v1/jobs/{job}/complete")).text(content_type, bytes.to_vec());
    complete.header("lease-token", &token).await.ok(200);
    job
}

async fn json_comes_back_byte_for_byte(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let token = id(&app.claim_one().await["leaseToken"]);
    let body = format!("{{\"leaseToken\":\"{token}\",\"result\":{{\"b\" : 1.0, \"a\":[1e2]}}}}");
    let complete = app.ask("POST", &format!("/v1/jobs/{job}/complete"));
    let done = complete.text("application/json", body).await.ok(200);

    assert_eq!(done["resultUrl"], format!("{}/results/{job}.json", app.url));
    for path in [format!("/v1/jobs/{job}/result"), format!("/results/{job}"), format!("/results/{job}.json")]
    {
        let result = app.get(&path).await;
        assert_eq!((result.status, &result.body[..]), (200, &b"{\"b\" : 1.0, \"a\":[1e2]}"[..]));
        assert_eq!(result.header("content-type"), "application/json");
    }

    let nothing = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    app.report(&claimed, "complete", json!({})).await.ok(200);
    assert_eq!(app.get(&format!("/v1/jobs/{nothing}/result")).await.body, "null");
}

async fn bytes_keep_their_type_and_never_run_in_a_browser(site: &Site) {
    let app = site.start().await;
    let page = b"<script>alert(1)</script>\xff\x00";
    let job = with_bytes(&app, "text/html; charset=utf-8", page).await;

    let result = app.get(&format!("/results/{job}.html")).await;

    assert_eq!((result.status, &result.body[..]), (200, &page[..]));
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox"),
        ("accept-ranges", "bytes"),
        ("content-length", "27"),
    ] {
        assert_eq!(result.header(name), value, "{name}");
    }
    assert_eq!(result.header("content-disposition"), format!("attachment; filename=\"{job}.html\""));
    let known = app.get(&format!("/results/{job}")).header("if-none-match", result.header("etag")).await;
    known.ok(304);
    let abc = with_bytes(&app, "application/octet-stream", b"abc").await;
    let abc = app.get(&format!("/v1/jobs/{abc}/result")).await;
    assert_eq!(abc.header("repr-digest"), "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:");
    let empty = with_bytes(&app, "text/plain", b"").await;
    let empty = app.get(&format!("/v1/jobs/{empty}/result")).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
}

async fn one_range_is_honoured(site: &Site) {
    let app = site.start().await;
    let job = with_bytes(&app, "text/plain", b"0123456789").await;
    let ask = |range: &str| app.get(&format!("/v1/jobs/{job}/result")).header("range", range);

    for (range, shown, body) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-1", "bytes 9-9/10", "9"),
    ] {
        let part = ask(range).await;
        assert_eq!(
            (part.status, part.header("content-range"), &part.body[..]),
            (206, shown, body.as_bytes())
        );
        assert!(part.header("repr-digest").starts_with("sha-256=:"));
        assert_eq!(part.header("x-content-type-options"), "nosniff");
    }
    let outside = ask("bytes=10-").await;
    outside.refused(416, "range-not-satisfiable", "Range");
    assert_eq!(outside.header("content-range"), "bytes */10");
    assert_eq!(ask("lines=1-2").await.status, 200);
    assert_eq!(ask("bytes=0-1").header("if-range", "\"old\"").await.status, 200);
}

async fn digests_tell_of_the_whole_and_of_what_came(site: &Site) {
    let app = site.start().await;
    let job = with_bytes(&app, "application/pdf", b"xabcx").await;
    let ask = || app.get(&format!("/results/{job}.pdf"));
    let abc = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";

    let whole = ask().header("want-repr-digest", "sha-512=10").header("want-content-digest", "md5=1").await;
    let part = ask().header("range", "bytes=1-3").await;

    assert_eq!((whole.status, part.status, &part.body[..]), (200, 206, &b"abc"[..]));
    assert!(whole.header("repr-digest").starts_with("sha-256=:"), "a wish, and not an order");
    assert_eq!(whole.header("content-digest"), whole.header("repr-digest"));
    assert_eq!(part.header("content-digest"), abc);
    assert_eq!(part.header("repr-digest"), whole.header("repr-digest"));
}

async fn pictures_and_documents_keep_their_type_and_ending(site: &Site) {
    let app = site.start().await;
    for (content_type, ending, bytes) in [
        ("application/pdf", "pdf", &b"%PDF-1.7\n\xe2\xe3\xcf\xd3"[..]),
        ("image/png", "png", b"\x89PNG\r\n\x1a\n\0"),
        ("image/jpeg", "jpg", b"\xff\xd8\xff\xe0"),
    ] {
        let job = with_bytes(&app, content_type, bytes).await;
        let place = format!("/results/{job}.{ending}");
        assert_eq!(app.job(&job).await["resultUrl"], format!("{}{place}", app.url));
        app.get(&format!("/results/{job}.exe")).await.refused(404, "not-found", "");
        assert_eq!(app.get(&format!("/results/{job}")).await.status, 200);
        let result = app.get(&place).await;
        assert_eq!((result.header("content-type"), &result.body[..]), (content_type, bytes));
    }
}

async fn head_tells_all_and_carries_nothing(site: &Site) {
    let app = site.start().await;
    let job = with_bytes(&app, "image/png", b"0123456789").await;
    let path = format!("/v1/jobs/{job}/result");
    let got = app.get(&path).await;

    let head = app.ask("HEAD", &path).header("range", "bytes=0-1").await;

    assert_eq!((head.status, head.body.len()), (200, 0), "no range is asked of HEAD");
    for name in
        ["content-type", "content-length", "etag", "repr-digest", "content-disposition", "accept-ranges"]
    {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
    assert_eq!(
        head.header("content-digest"),
        "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
        "of nothing"
    );
}

async fn no_result_yet_says_when_to_come_back(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let path = format!("/v1/jobs/{job}/result");
    for _ in 0..2 {
        let early = app.get(&path).await;
        assert_eq!(early.status, 409);
        assert_eq!(early.json()["code"], "result-not-ready");
        assert!((1..=30).contains(&early.header("retry-after").parse::<u32>().unwrap()));
        app.claim(1).await;
    }
    let waited = app.get(&path).header("prefer", "wait=1").await;
    assert_eq!((waited.status, waited.header("preference-applied")), (409, "wait=1"));
    let events = app.get(&format!("/v1/jobs/{job}/events?after=1")).header("prefer", "wait=1").await;
    assert_eq!((events.status, events.header("preference-applied")), (200, "wait=1"));
}

async fn a_failed_job_has_none(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    app.report(&claimed, "fail", json!({"error": "no such year", "retryable": false})).await.ok(200);

    let problem = app.get(&format!("/v1/jobs/{job}/result")).await.refused(409, "job-failed", "");

    assert_eq!(problem["detail"], "no such year");
}

async fn a_result_kept_elsewhere_is_pointed_to(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    let both = json!({"result": 1, "resultUrl": "https://files.example.com/a"});
    app.report(&claimed, "complete", both).await.refused(422, "validation-failed", "/resultUrl");
    let script = json!({"resultUrl": "javascript:alert(1)"});
    app.report(&claimed, "complete", script).await.refused(422, "validation-failed", "/resultUrl");

    for bad in ["http://10.0.0.1/a b", "https://u:p@10.0.0.1/", "https:///", "http://10.0.0.1/\\"] {
        let wish = json!({"resultUrl": bad});
        app.report(&claimed, "complete", wish).await.refused(422, "validation-failed", "/resultUrl");
    }

    let url = "http://10.0.0.1/a?sig=x#page=2";
    let given = json!({"resultUrl": "HTTP://10.0.0.1:80/b/../a?sig=x#page=2"});
    let done = app.report(&claimed, "complete", given).await.ok(200);

    assert_eq!(done["resultUrl"], url);
    let result = app.get(&format!("/v1/jobs/{job}/result")).await;
    assert_eq!((result.status, result.header("location")), (303, url));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox"),
        ("cache-control", "private, no-cache"),
        ("vary", "Authorization, Prefer"),
    ] {
        assert_eq!(result.header(name), value, "{name}");
    }
}

async fn a_result_that_is_too_large_is_refused(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    let token = id(&claimed["leaseToken"]);
    let raw = |n: usize| {
        let ask = app.ask("POST", &format!("/v1/jobs/{job}/complete")).header("lease-token", &token);
        ask.text("text/plain", vec![b'x'; n])
    };
    raw(1024 * 1024 + 1).await.refused(413, "result-too-large", "");
    let large = json!({"result": "x".repeat(1024 * 1024)});
    app.report(&claimed, "complete", large).await.refused(413, "result-too-large", "");
    assert_eq!(app.job(&job).await["status"], "processing", "it may still send a smaller one");
    raw(1024 * 1024).await.ok(200);
    assert_eq!(app.get(&format!("/results/{job}.txt")).await.body.len(), 1024 * 1024);
}

async fn reading_waits_for_the_end(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let read = app.get(&format!("/v1/jobs/{job}/result")).header("prefer", "wait=20");
    let (result, _) = tokio::join!(read.into_future(), app.complete(&job));
    assert_eq!((result.status, &result.body[..]), (200, &b"{\"ok\":true}"[..]));
    assert_eq!(result.header("preference-applied"), "wait=20");
}
