//! Bad input gets a problem that points at the fault, and nothing is stored.

use serde_json::{Value, json};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::{Site, TestApp, both_engines};

both_engines! {
    members_that_break_a_rule_are_pointed_at,
    callbacks_that_break_a_rule_are_pointed_at,
    bodies_that_cannot_be_read_are_refused,
    who_sends_first_and_reads_then_gets_the_refusal,
    production_names_the_rule_that_blocks_a_url,
    bad_queries_and_ids_are_refused,
    operations_point_at_their_headers,
    options_of_operations_are_refused_where_the_body_has_them,
    a_body_that_is_not_wanted_is_read,
}

async fn refuse(app: &TestApp, body: Value, code: &str, pointer: &str) -> Value {
    app.post("/v1/jobs", &body).await.refused(422, code, pointer)
}

async fn members_that_break_a_rule_are_pointed_at(site: &Site) {
    let app = site.start().await;
    let note = "x".repeat(17 * 1024);
    for (body, pointer) in [
        (json!({}), "/type"),
        (json!([]), ""),
        (json!({"type": 7}), "/type"),
        (json!({"type": "a b"}), "/type"),
        (json!({"type": "x".repeat(129)}), "/type"),
        (json!({"type": "t", "calbackUrl": "x"}), "/calbackUrl"),
        (json!({"type": "t", "queue": "-"}), "/queue"),
        (json!({"type": "t", "ref": "x".repeat(256)}), "/ref"),
        (json!({"type": "t", "ref": "\u{1}"}), "/ref"),
        (json!({"type": "t", "priority": 3}), "/priority"),
        (json!({"type": "t", "priority": 0.5}), "/priority"),
        (json!({"type": "t", "runAt": "tomorrow"}), "/runAt"),
        (json!({"type": "t", "runAt": "2199-01-01T00:00:00Z"}), "/runAt"),
        (json!({"type": "t", "deadlineAt": "2001-01-01T00:00:00Z"}), "/deadlineAt"),
        (json!({"type": "t", "timeoutSeconds": 0}), "/timeoutSeconds"),
        (json!({"type": "t", "timeoutSeconds": -1}), "/timeoutSeconds"),
        (json!({"type": "t", "maxAttempts": 101}), "/maxAttempts"),
        (json!({"type": "t", "metadata": "x"}), "/metadata"),
        (json!({"type": "t", "metadata": {"x": note}}), "/metadata"),
        (json!({"type": "t", "retainSeconds": 1}), "/retainSeconds"),
        (json!({"type": "t", "worker": "push"}), "/worker"),
        (json!({"type": "t", "leaseSeconds": 5}), "/leaseSeconds"),
        (json!({"type": "t", "worker": "external", "leaseSeconds": 86_401}), "/leaseSeconds"),
    ] {
        refuse(&app, body, "validation-failed", pointer).await;
    }
    let typo =
        refuse(&app, json!({"type": "t", "calbackUrl": "x"}), "validation-failed", "/calbackUrl").await;
    assert!(typo["detail"].as_str().unwrap().contains("did you mean `callbackUrl`?"), "{typo}");
    app.holds_no_job().await;
}

async fn callbacks_that_break_a_rule_are_pointed_at(site: &Site) {
    let app = site.start().await;
    let with = |name: &str, value: Value| json!({"url": "https://a.example.com/", name: value});
    for (callback, pointer) in [
        (json!({}), "/callback/url"),
        (json!("https://a.example.com/"), "/callback"),
        (with("uri", json!("x")), "/callback/uri"),
        (with("secret", json!("hunter2")), "/callback/secret"),
        (with("events", json!([])), "/callback/events"),
        (with("events", json!(["job.completed", "job.done"])), "/callback/events/1"),
        (with("headers", json!({"Host": "x"})), "/callback/headers/Host"),
        (with("headers", json!({"webhook-id": "x"})), "/callback/headers/webhook-id"),
        (with("headers", json!({"a/b": "x"})), "/callback/headers/a~1b"),
        (with("headers", json!({"x": "a\r\nb: c"})), "/callback/headers/x"),
        (with("payload", json!("fat")), "/callback/payload"),
        (with("format", json!("xml")), "/callback/format"),
        (with("context", json!("x".repeat(17 * 1024))), "/callback/context"),
        (with("expiresAt", json!("2001-01-01T00:00:00Z")), "/callback/expiresAt"),
        (with("retry", json!({"maxAttempts": 0})), "/callback/retry/maxAttempts"),
        (with("retry", json!({"factor": 0.5})), "/callback/retry/factor"),
        (with("retry", json!({"tries": 1})), "/callback/retry/tries"),
    ] {
        refuse(&app, json!({"type": "t", "callback": callback}), "validation-failed", pointer).await;
    }
    let both = json!({"type": "t", "callbackUrl": "https://a.example.com/", "callback": with("payload", json!("thin"))});
    refuse(&app, both, "validation-failed", "/callback").await;
    let failure = json!({"type": "t", "callback": with("failureUrl", json!("http://10.0.0.1/"))});
    refuse(&app, failure, "callback-url-blocked", "/callback/failureUrl").await;
    app.holds_no_job().await;
}

async fn bodies_that_cannot_be_read_are_refused(site: &Site) {
    let app = site.start().await;
    let deep = |n: usize| format!("{{\"type\":\"t\",\"input\":{}1{}}}", "[".repeat(n), "]".repeat(n));
    let malformed: [&[u8]; 8] = [
        b"",
        b"{",
        b"{\"type\":\"t\"",
        b"{\"type\":\"t\"} {}",
        b"{'type':'t'}",
        b"{\"type\":\"t\",\"type\":\"u\"}",
        b"{\"type\":\"t\",\"ref\":\"\xff\xfe\"}",
        b"\xef\xbb\xbf{\"type\":\"t\"}",
    ];
    for body in malformed {
        let reply = app.ask("POST", "/v1/jobs").text("application/json", body.to_vec()).await;
        let problem = reply.refused(400, "invalid-request", "");
        assert!(problem["detail"].is_string(), "{problem}");
    }
    let too_deep = app.ask("POST", "/v1/jobs").text("application/json", deep(64)).await;
    too_deep.refused(400, "invalid-request", "");
    let bare = app.ask("POST", "/v1/operations/t").text("application/json", "[".repeat(65) + &"]".repeat(65));
    bare.await.refused(400, "invalid-request", "");
    for content_type in
        ["text/plain", "application/json; charset=latin1", "application/x-www-form-urlencoded"]
    {
        let reply = app.ask("POST", "/v1/jobs").text(content_type, "{\"type\":\"t\"}").await;
        reply.refused(415, "unsupported-media-type", "");
    }
    app.post("/v1/jobs", &json!({"type": "t", "input": "x".repeat(256 * 1024)})).await.refused(
        413,
        "payload-too-large",
        "",
    );
    let jobs = json!({"jobs": [{"type": "t", "input": "x".repeat(4 * 1024 * 1024)}]});
    app.post("/v1/jobs/batch", &jobs).await.refused(413, "payload-too-large", "");
    app.holds_no_job().await;

    let deepest = app.ask("POST", "/v1/jobs").text("application/json", deep(63)).await;
    deepest.ok(202);
}

/// Sends all of a request, as plain clients do, and only then reads the status line.
async fn sent_first(app: &TestApp, key: &str, body: usize) -> String {
    let mut stream = tokio::net::TcpStream::connect(app.addr).await.unwrap();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{key}Content-Length: {body}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..body / 65_536 {
        stream.write_all(&[b' '; 65_536]).await.expect("the connection is not cut while a client sends");
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer and then the end");
    String::from_utf8(answer).unwrap()
}

async fn who_sends_first_and_reads_then_gets_the_refusal(site: &Site) {
    let app = site.start().await;
    let key = format!("Authorization: Bearer {}\r\n", app.key);
    for (key, status) in [(key.as_str(), "HTTP/1.1 413"), ("", "HTTP/1.1 401")] {
        let answer = sent_first(&app, key, 5 << 20).await;
        assert!(answer.starts_with(status), "{answer}");
    }
    let coded = app.post("/v1/jobs", &json!({"type": "t"})).header("content-encoding", "gzip").await;
    coded.refused(415, "unsupported-media-type", "Content-Encoding");
    app.post("/v1/jobs", &json!({"type": "t"})).header("content-encoding", "Identity").await.ok(202);
}

async fn production_names_the_rule_that_blocks_a_url(site: &Site) {
    let app = site.start_serving().await;
    for (url, code, rule) in [
        ("https://10.0.0.1/", "blocked", "address: private"),
        ("https://127.0.0.1/", "blocked", "address: loopback"),
        ("https://[::1]/", "blocked", "address: loopback"),
        ("https://[::ffff:10.0.0.1]/", "blocked", "address:"),
        ("https://169.254.169.254/latest/meta-data/", "blocked", "address:"),
        ("https://2130706433/", "blocked", "address: loopback"),
        ("https://0x7f.1/", "blocked", "address: loopback"),
        ("http://hooks.example.com/", "blocked", "http:"),
        ("https://hooks.example.com:22/", "blocked", "port: port 22"),
        ("https://localhost/", "blocked", "special-name"),
        ("https://metadata.google.internal/", "blocked", "special-name"),
        ("https://hooks/", "blocked", "single-label"),
        ("https://user:pw@hooks.example.com/", "invalid", "credentials"),
        ("https://hooks.example.com/#x", "invalid", "fragment"),
        ("https://%31%32%37.0.0.1/", "invalid", "encoded-host"),
        ("https://hooks.example.com\\@10.0.0.1/", "invalid", "character"),
        ("ftp://hooks.example.com/", "invalid", "scheme"),
        ("hooks.example.com", "invalid", "scheme"),
        ("https:///x", "invalid", "host"),
        (&format!("https://hooks.example.com/{}", "x".repeat(2_048)), "invalid", "too-long"),
    ] {
        let code = format!("callback-url-{code}");
        let problem = refuse(&app, json!({"type": "t", "callbackUrl": url}), &code, "/callbackUrl").await;
        let told = problem["errors"][0]["detail"].as_str().unwrap();
        assert!(told.starts_with(rule), "{url}: {told}");
        refuse(&app, json!({"type": "t", "callback": {"url": url}}), &code, "/callback/url").await;
    }
    app.holds_no_job().await;
    app.submit(json!({"type": "t", "callbackUrl": "https://hooks.example.com:8443/x?y=1"})).await;
}

async fn bad_queries_and_ids_are_refused(site: &Site) {
    let app = site.start().await;
    for (query, pointer) in [
        ("limit=0", "?limit"),
        ("limit=201", "?limit"),
        ("limit=x", "?limit"),
        ("cursor=zzz", "?cursor"),
        ("cursor=am9iX3g", "?cursor"),
        ("state=done", "?state"),
        ("status=cancelled", "?status"),
        ("createdAfter=monday", "?createdAfter"),
        ("stat=queued", "?stat"),
        ("limit=1&limit=2", "?limit"),
        ("type=%ff", "?type"),
    ] {
        app.get(&format!("/v1/jobs?{query}")).await.refused(400, "invalid-request", pointer);
    }
    app.get("/v1/deliveries?jobId=dlv_x").await.refused(400, "invalid-request", "?jobId");
    app.post("/v1/jobs?x=1", &json!({"type": "t"})).await.refused(400, "invalid-request", "?x");
    for (path, code) in [
        ("/v1/jobs/job_x", "job-not-found"),
        ("/v1/jobs/job_01H455VB4PEX5VSKNK084SN02Q", "job-not-found"),
        ("/v1/jobs/dlv_01H455VB4PEX5VSKNK084SN02Q", "job-not-found"),
        ("/v1/jobs/%00", "job-not-found"),
        ("/v1/jobs/%ff%fe/result", "job-not-found"),
        ("/results/x.pdf", "job-not-found"),
        ("/v1/deliveries/dlv_x", "not-found"),
        ("/v1/dead-letters/1", "not-found"),
        ("/v1/redrives/1", "not-found"),
        ("/v1/nothing", "not-found"),
    ] {
        app.get(path).await.refused(404, code, "");
    }
    app.post("/v1/queues/a%20b/claim", &json!({})).await.refused(404, "not-found", "");
    app.post("/v1/operations/a%20b", &json!({})).await.refused(404, "not-found", "");
    app.holds_no_job().await;
}

async fn operations_point_at_their_headers(site: &Site) {
    let app = site.start().await;
    let ask = || app.post("/v1/operations/t", &json!({}));
    let blocked = ask().header("callback-url", "http://10.0.0.1/").await;
    blocked.refused(422, "callback-url-blocked", "Callback-Url");
    let events =
        ask().header("callback-url", "https://a.example.com/").header("callback-events", "job.done").await;
    events.refused(422, "validation-failed", "Callback-Events");
    let alone = ask().header("callback-events", "job.completed").await;
    alone.refused(422, "validation-failed", "Callback-Url");
    let misspelt = ask().header("callback-uri", "https://a.example.com/").await;
    misspelt.refused(400, "invalid-request", "Callback-Uri");
    let twice = ask().header("callback-url", "https://a.example.com/").header("callback-url", "x").await;
    twice.refused(400, "invalid-request", "Callback-Url");
    ask().header("queue", "a b").await.refused(422, "validation-failed", "Queue");
    let form = app.ask("POST", "/v1/operations/t").text("text/plain", "x").await;
    form.refused(415, "unsupported-media-type", "");
    app.holds_no_job().await;
}

async fn options_of_operations_are_refused_where_the_body_has_them(site: &Site) {
    let app = site.start().await;
    let event = json!({"type": "a.b", "data": 1});
    let requests = [
        ("/v1/jobs", json!({"type": "t"})),
        ("/api/jobs", json!({"type": "t"})),
        ("/v1/jobs/batch", json!({"jobs": [{"type": "t"}]})),
        ("/v1/events", event.clone()),
        ("/v1/events/batch", json!({"events": [event]})),
        ("/v1/endpoints", json!({"url": "https://a.example.com/"})),
    ];
    for (path, body) in &requests {
        for (field, value, member) in [
            ("Callback-Url", "https://a.example.com/", "`callbackUrl`"),
            ("Callback-Events", "job.completed", "`callback.events`"),
            ("Queue", "reports", "`queue`"),
        ] {
            let reply = app.post(path, body).header(field, value).await;
            let problem = reply.refused(400, "invalid-request", field);
            assert!(problem["detail"].as_str().unwrap().contains(member), "{path}: {problem}");
        }
        let misspelt = app.post(path, body).header("callback-uri", "https://a.example.com/").await;
        misspelt.refused(400, "invalid-request", "Callback-Uri");
    }
    app.holds_no_job().await;
}

async fn a_body_that_is_not_wanted_is_read(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    for path in [format!("/v1/jobs/{job}/retry"), "/v1/queues/default/resume".to_owned()] {
        app.post(&path, &json!({"force": true})).await.refused(422, "validation-failed", "/force");
        app.ask("POST", &path).text("application/json", "{").await.refused(400, "invalid-request", "");
    }
    app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.ok(200);
    app.post(&format!("/v1/jobs/{job}/retry"), &json!({})).await.ok(202);
}
