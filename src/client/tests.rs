use axum::Router;
use axum::routing::get;

use super::*;
use crate::types::api;

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{addr}")
}

#[tokio::test]
async fn a_refusal_says_what_the_service_said() {
    let body = r#"{"type":"/problems/job-not-found","title":"There is no such job","status":404,"code":"job-not-found","requestId":"r"}"#;
    let base = serve(
        Router::new().route("/below/v1/jobs/{id}", get(move || async move { (StatusCode::NOT_FOUND, body) })),
    )
    .await;
    let client = Client::new(&format!("{base}/below/"), Some("rbk_x")).unwrap();
    let id = "job_01H455VB4PEX5VSKNK084SN02Q".parse().unwrap();
    let error = client.job(id).await.unwrap_err();
    assert_eq!(error.to_string(), "There is no such job (job-not-found, 404)");
}

#[tokio::test]
async fn a_gateway_that_finds_nobody_is_not_the_service() {
    let answer = async |status: u16| {
        let status = StatusCode::from_u16(status).unwrap();
        let base = serve(Router::new().fallback(move || async move { (status, "<html>") })).await;
        Client::new(&base, None).unwrap().health().await.unwrap_err()
    };
    for passing in [408, 429, 500, 502, 503, 504, 520, 524] {
        let error = answer(passing).await;
        assert!(matches!(error, Error::Unreachable(_)), "{passing}: {error}");
    }
    for lasting in [400, 403, 404, 413] {
        let error = answer(lasting).await;
        assert!(matches!(error, Error::Foreign(status) if status == lasting), "{lasting}: {error}");
    }
    let nobody = Client::new("http://127.0.0.1:9", None).unwrap().health().await.unwrap_err();
    assert!(matches!(&nobody, Error::Unreachable(why) if why.contains("refused")), "{nobody}");
    assert!(matches!(Client::new("ftp://x", None), Err(Error::Unreachable(_))));
}

#[tokio::test]
async fn a_batch_may_hold_jobs_with_raw_json_and_problems() {
    let body = r#"{"items":[
        {"jobId":"job_01H455VB4PEX5VSKNK084SN02Q","status":"complete","createdAt":"2026-01-01T00:00:00.000Z","state":"complete",
         "type":"t","queue":"q","priority":0,"worker":"pull","attempt":1,"maxAttempts":3,"sequence":3,"metadata":{"a": 1}},
        {"type":"/problems/lease-lost","title":"The lease is lost","status":409,"code":"lease-lost"}]}"#;
    let read: api::Items<api::OrProblem<api::Job>> = serde_json::from_str(body).unwrap();
    assert!(matches!(&read.items[..], [api::OrProblem::Done(_), api::OrProblem::Problem(_)]), "{read:?}");
    let base =
        serve(Router::new().route("/v1/leases/ack", axum::routing::post(move || async move { body }))).await;
    let acks = api::Acks { items: Vec::new() };
    let answers = Client::new(&base, None).unwrap().ack(&acks).await.unwrap();
    assert_eq!(answers[0].as_ref().unwrap().metadata.get(), r#"{"a": 1}"#);
    assert_eq!(answers[1].as_ref().unwrap_err().status, 409);
}

#[test]
fn a_query_leaves_out_what_was_not_given() {
    let page = PageQuery { limit: Some(5), cursor: None };
    let query = JobQuery { kind: Some("a b".to_owned()), page, ..JobQuery::default() };
    let wanted = [("type", "a b"), ("limit", "5")];
    let mut found = pairs(&query).unwrap();
    found.sort_by_key(|(name, _)| name != "type");
    assert_eq!(found, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
}
