//! Which scope a route needs: one table, held against the document and against the node.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{SCOPES, key};
use crate::support::app::{Site, TestApp, both_engines};
use crate::support::ask::Ask;

both_engines! {
    the_document_names_the_scope_of_every_route,
    a_key_without_the_scope_is_forbidden_and_told_which,
    a_key_with_the_scope_alone_is_let_in,
    admin_opens_everything_and_operator_nothing_of_the_tenant,
}

/// Every closed route of a production node.
const ROUTES: [(&str, &str, &str); 71] = [
    ("POST", "/v1/jobs", "jobs:write"),
    ("POST", "/api/jobs", "jobs:write"),
    ("POST", "/v1/jobs/batch", "jobs:write"),
    ("POST", "/v1/operations/{type}", "jobs:write"),
    ("POST", "/v1/jobs/{jobId}/cancel", "jobs:write"),
    ("POST", "/v1/jobs/{jobId}/retry", "jobs:write"),
    ("DELETE", "/v1/jobs/{jobId}", "jobs:write"),
    ("DELETE", "/api/jobs/{jobId}", "jobs:write"),
    ("GET", "/v1/jobs", "jobs:read"),
    ("GET", "/api/jobs", "jobs:read"),
    ("GET", "/v1/jobs/{jobId}", "jobs:read"),
    ("GET", "/api/jobs/{jobId}", "jobs:read"),
    ("GET", "/v1/jobs/{jobId}/result", "jobs:read"),
    ("GET", "/results/{file}", "jobs:read"),
    ("GET", "/v1/jobs/{jobId}/events", "jobs:read"),
    ("GET", "/v1/queues", "jobs:read"),
    ("GET", "/v1/queues/{queue}", "jobs:read"),
    ("PATCH", "/v1/queues/{queue}", "admin"),
    ("POST", "/v1/queues/{queue}/pause", "admin"),
    ("POST", "/v1/queues/{queue}/resume", "admin"),
    ("GET", "/v1/ws", "jobs:read"),
    ("POST", "/v1/queues/{queue}/claim", "work"),
    ("POST", "/v1/leases/ack", "work"),
    // Where no lease token is shown, the key must have it.
    ("POST", "/v1/jobs/{jobId}/heartbeat", "work"),
    ("POST", "/v1/jobs/{jobId}/complete", "work"),
    ("POST", "/v1/jobs/{jobId}/fail", "work"),
    ("POST", "/v1/jobs/{jobId}/release", "work"),
    ("GET", "/v1/jobs/{jobId}/deliveries", "deliveries:read"),
    ("GET", "/v1/deliveries", "deliveries:read"),
    ("GET", "/v1/deliveries/{deliveryId}", "deliveries:read"),
    ("GET", "/v1/deliveries/{deliveryId}/explain", "deliveries:read"),
    ("GET", "/v1/lanes", "deliveries:read"),
    ("POST", "/v1/lanes/{laneId}/pause", "endpoints:write"),
    ("POST", "/v1/lanes/{laneId}/resume", "endpoints:write"),
    ("GET", "/v1/dead-letters", "deliveries:read"),
    ("GET", "/v1/dead-letters/{deliveryId}", "deliveries:read"),
    ("GET", "/v1/redrives", "deliveries:read"),
    ("GET", "/v1/redrives/{redriveId}", "deliveries:read"),
    ("POST", "/v1/deliveries/{deliveryId}/retry", "deadletters:replay"),
    ("POST", "/v1/deliveries/{deliveryId}/cancel", "deadletters:replay"),
    ("DELETE", "/v1/dead-letters/{deliveryId}", "deadletters:replay"),
    ("GET", "/v1/dead-letters/outages", "deliveries:read"),
    ("POST", "/v1/dead-letters/replay", "deadletters:replay"),
    ("POST", "/v1/deliveries/replay", "deadletters:replay"),
    ("DELETE", "/v1/redrives/{redriveId}", "deadletters:replay"),
    ("POST", "/v1/events", "events:write"),
    ("POST", "/v1/events/batch", "events:write"),
    ("GET", "/v1/events", "deliveries:read"),
    ("GET", "/v1/endpoints", "endpoints:read"),
    ("POST", "/v1/endpoints", "endpoints:write"),
    ("GET", "/v1/endpoints/{endpointId}", "endpoints:read"),
    ("PATCH", "/v1/endpoints/{endpointId}", "endpoints:write"),
    ("DELETE", "/v1/endpoints/{endpointId}", "endpoints:write"),
    ("POST", "/v1/endpoints/{endpointId}/rotate-secret", "endpoints:write"),
    ("POST", "/v1/endpoints/{endpointId}/pause", "endpoints:write"),
    ("POST", "/v1/endpoints/{endpointId}/resume", "endpoints:write"),
    ("POST", "/v1/endpoints/{endpointId}/test", "endpoints:write"),
    ("POST", "/v1/endpoints/{endpointId}/verify", "endpoints:write"),
    ("GET", "/metrics", "metrics:read"),
    ("GET", "/v1/keys", "admin"),
    ("POST", "/v1/keys", "admin"),
    ("DELETE", "/v1/keys/{keyId}", "admin"),
    ("GET", "/v1/keys/{keyId}", "admin"),
    ("GET", "/v1/tenants/self/webhook-secret", "admin"),
    ("GET", "/v1/tenants", "operator"),
    ("POST", "/v1/tenants", "operator"),
    ("GET", "/v1/tenants/{tenantId}", "operator"),
    ("GET", "/v1/tenants/{tenantId}/keys", "operator"),
    ("POST", "/v1/tenants/{tenantId}/keys", "operator"),
    ("GET", "/v1/tenants/{tenantId}/keys/{keyId}", "operator"),
    ("DELETE", "/v1/tenants/{tenantId}/keys/{keyId}", "operator"),
];

/// What changes something whenever it is let in; its scope is tried with the others, its effect elsewhere.
const ROTATE: [&str; 2] = ["/v1/tenants/self/rotate-secret", "/v1/tenants/self/webhook-secret/rotate-secret"];

fn all_routes() -> Vec<(&'static str, &'static str, &'static str)> {
    ROUTES.into_iter().chain(ROTATE.map(|path| ("POST", path, "admin"))).collect()
}

/// The request of a route for what is not there, without a body.
fn ask(app: &TestApp, method: &str, path: &str) -> Ask {
    let ulid = "01H455VB4PEX5VSKNK084SN02Q";
    let filled = [
        ("{jobId}", format!("job_{ulid}")),
        ("{file}", format!("job_{ulid}.json")),
        ("{deliveryId}", format!("dlv_{ulid}")),
        ("{redriveId}", format!("rdr_{ulid}")),
        ("{keyId}", format!("key_{ulid}")),
        ("{endpointId}", format!("ep_{ulid}")),
        ("{laneId}", format!("lane_{ulid}")),
        ("{tenantId}", format!("ten_{ulid}")),
        ("{queue}", "default".to_owned()),
        ("{type}", "t".to_owned()),
    ];
    let path = filled.iter().fold(path.to_owned(), |path, (name, id)| path.replace(name, id));
    assert!(!path.contains('{'), "{path}");
    app.ask(method, &path)
}

async fn the_document_names_the_scope_of_every_route(site: &Site) {
    let app = site.start_serving().await;
    let document = app.get("/openapi.json").nobody().await.ok(200);
    let mut described = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let ways = operation["security"].as_array().cloned().unwrap_or_default();
            let scopes = ways.iter().filter_map(|way| way.get("apiKey")).cloned().collect::<Vec<Value>>();
            if let [scope, others @ ..] = &scopes[..] {
                described.insert((method.to_uppercase(), path.clone()), scope.clone());
                let figures = path == "/metrics";
                assert_eq!(others, if figures { vec![json!(["operator"])] } else { vec![] }, "{path}");
            }
        }
    }

    let table: BTreeMap<_, _> = all_routes()
        .into_iter()
        .map(|(m, p, scope)| ((m.to_owned(), p.to_owned()), json!([scope])))
        .collect();

    assert_eq!(described, table, "a new route needs a row");
}

async fn a_key_without_the_scope_is_forbidden_and_told_which(site: &Site) {
    let app = site.start_serving().await;
    for scope in SCOPES {
        // `admin` has all of the tenant's, so it is in no key that is to lack one.
        // And `operator` has the figures of the deployment.
        let opens =
            |one: &str| one == scope || one == "admin" || (scope == "metrics:read" && one == "operator");
        let others: Vec<_> = SCOPES.into_iter().filter(|one| !opens(one)).collect();
        let lacking = key(&app, json!({"scopes": others})).await;
        for (method, path, _) in all_routes().into_iter().filter(|(_, _, needed)| *needed == scope) {
            let problem = ask(&app, method, path).key(&lacking).await.refused(403, "forbidden", "");
            let told = problem["detail"].as_str().unwrap();
            assert!(told.contains(&format!("`{scope}`")), "{method} {path}: {told}");
        }
    }
    app.holds_no_job().await;
}

async fn a_key_with_the_scope_alone_is_let_in(site: &Site) {
    let app = site.start_serving().await;
    let mut let_in = 0;
    for scope in SCOPES {
        let alone = key(&app, json!({"scopes": [scope]})).await;
        for (method, path, _) in all_routes().into_iter().filter(|(_, _, needed)| *needed == scope) {
            let reply = ask(&app, method, path).key(&alone).await;
            // There is nothing of that id, and no body was sent: that is all that may be wrong.
            assert!(matches!(reply.status, 200 | 202 | 400 | 404 | 415 | 422), "{scope}: {reply:?}");
            let_in += 1;
        }
    }
    assert_eq!(let_in, all_routes().len());
}

async fn admin_opens_everything_and_operator_nothing_of_the_tenant(site: &Site) {
    let app = site.start_serving().await;
    let admin = key(&app, json!({"scopes": ["admin"]})).await;
    let operator = key(&app, json!({"scopes": ["operator"]})).await;
    for (method, path, scope) in all_routes() {
        let (opens, shut) = if scope == "operator" { (&operator, &admin) } else { (&admin, &operator) };
        let reply = ask(&app, method, path).key(opens).await;
        assert!(!matches!(reply.status, 401 | 403), "{reply:?}");
        let reply = ask(&app, method, path).key(shut).await;
        if path == "/metrics" {
            assert_eq!(reply.status, 200, "the figures are those of the deployment: {reply:?}");
            continue;
        }
        let problem = reply.refused(403, "forbidden", "");
        assert!(problem["detail"].as_str().unwrap().contains(scope), "{problem}");
    }
    for path in ["/livez", "/readyz", "/healthz", "/openapi.json", "/docs"] {
        assert_eq!(app.get(path).nobody().await.status, 200, "{path} needs no key");
    }
    app.get("/metrics").nobody().await.refused(401, "unauthorized", "");
}
