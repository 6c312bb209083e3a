//! API keys: list, create, revoke.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri, header};

use super::app::App;
use super::deliveries::OnlyPage;
use super::extract::{JsonBody, Key, NoQuery, PathId, Query, need, page_of, paged};
use super::jobs::page;
use super::problem::Problem;
use crate::store::KeyRecord;
use crate::types::api::{ApiKey as KeyView, NewApiKey, Page};
use crate::types::key::{ApiKey, Scopes, check_wish};
use crate::types::problem::ProblemCode;
use crate::types::{KeyId, TenantId, id};

/// List the tenant's keys without their secrets, newest first.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", operation_id = "listKeys",
    security(("apiKey" = ["admin"])),
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<KeyView>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<need::Admin>,
    Query(OnlyPage(asked)): Query<OnlyPage<id::Key>>,
    uri: Uri,
) -> Result<Response, Problem> {
    let rows = app.ask(app.store.keys(key.tenant(), page_of(&asked))).await?;
    let views = rows.iter().map(view).collect();
    Ok(page(paged(views, asked.limit, |k: &KeyView| k.key_id, &uri, app.store.urls())))
}

/// The key without its secret.
pub fn view(record: &KeyRecord) -> KeyView {
    KeyView {
        key_id: record.id,
        name: record.name.clone(),
        prefix: record.prefix.clone(),
        scopes: record.scopes.iter().collect(),
        queues: record.queues.clone(),
        accounts: record.accounts.clone(),
        created_at: record.created_at,
        expires_at: record.expires_at,
        key: None,
    }
}

/// Create a key; the answer shows its secret once. It never allows more than the key that asks.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", operation_id = "createKey",
    security(("apiKey" = ["admin"])), request_body = NewApiKey,
    responses((status = 201, body = KeyView)))]
pub async fn create(
    State(app): State<App>,
    key: Key<need::Admin>,
    _: Query<NoQuery>,
    body: JsonBody<NewApiKey>,
) -> Result<Response, Problem> {
    let scopes = check_wish(&body.value, app.now())?;
    within_own(&key.record, &body.value, scopes)?;
    make(&app, key.tenant(), body.value, scopes, "/v1/keys").await
}

/// Makes and shows a key of `tenant`, which is read below `list`; the wish was checked.
pub async fn make(
    app: &App,
    tenant: TenantId,
    wish: NewApiKey,
    scopes: Scopes,
    list: &str,
) -> Result<Response, Problem> {
    let secret = ApiKey::mint(app.dice.bytes());
    let record = KeyRecord {
        id: app.dice.id(app.now()),
        tenant,
        name: wish.name,
        prefix: secret.prefix().to_owned(),
        hash: secret.hash(),
        scopes,
        queues: wish.queues,
        accounts: wish.accounts,
        created_at: app.now(),
        expires_at: wish.expires_at,
    };
    app.ask(app.store.put_key(&record)).await?;
    let shown = KeyView { key: Some(secret.reveal().to_owned()), ..view(&record) };
    let at = app.store.urls().path(&format!("{list}/{}", record.id));
    let head = [(header::CACHE_CONTROL, "no-store".to_owned()), (header::LOCATION, at)];
    Ok((StatusCode::CREATED, head, Json(shown)).into_response())
}

/// Refuses a key that would be mightier than the one that asks.
fn within_own(asker: &KeyRecord, wish: &NewApiKey, scopes: Scopes) -> Result<(), Problem> {
    let beyond = |detail| Err(Problem::new(ProblemCode::Forbidden).detail(detail));
    if !asker.scopes.covers(scopes) {
        return beyond("a key cannot create a mightier one: a wished scope is not among its own");
    }
    if !narrows(asker, wish.queues.as_deref(), wish.accounts.as_deref()) {
        return beyond("the key is narrowed; the new one must be narrowed to a part of that");
    }
    within_time(asker, wish)
}

/// Refuses a key that would outlast the one that asks: it could put off its own end.
pub fn within_time(asker: &KeyRecord, wish: &NewApiKey) -> Result<(), Problem> {
    if asker.expires_at.is_some_and(|end| wish.expires_at.is_none_or(|at| at > end)) {
        return Err(Problem::new(ProblemCode::Forbidden)
            .detail("the key ends one day; the new one must have an expiresAt that is not later"));
    }
    Ok(())
}

/// Whether a key for these queues and accounts is for a part of those of the one that asks.
fn narrows(asker: &KeyRecord, queues: Option<&[String]>, accounts: Option<&[String]>) -> bool {
    within(asker.queues.as_deref(), queues) && within(asker.accounts.as_deref(), accounts)
}

fn within(asker: Option<&[String]>, wished: Option<&[String]>) -> bool {
    match (asker, wished) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(own), Some(wished)) => wished.iter().all(|name| own.contains(name)),
    }
}

/// Read a key without its secret.
#[utoipa::path(get, path = "/v1/keys/{keyId}", tag = "keys", operation_id = "getKey",
    security(("apiKey" = ["admin"])), params(("keyId" = KeyId, Path)),
    responses((status = 200, body = KeyView)))]
pub async fn get_key(
    State(app): State<App>,
    key: Key<need::Admin>,
    PathId(id): PathId<id::Key>,
    _: Query<NoQuery>,
) -> Result<Json<KeyView>, Problem> {
    app.ask(app.store.get_key(key.tenant(), id)).await.map(|record| Json(view(&record)))
}

/// Revoke a key; every node refuses it within a second. A narrowed key revokes none that is wider than itself.
#[utoipa::path(delete, path = "/v1/keys/{keyId}", tag = "keys", operation_id = "revokeKey",
    security(("apiKey" = ["admin"])), params(("keyId" = KeyId, Path)),
    responses((status = 204, description = "Revoked")))]
pub async fn revoke(
    State(app): State<App>,
    key: Key<need::Admin>,
    PathId(id): PathId<id::Key>,
    _: Query<NoQuery>,
) -> Result<StatusCode, Problem> {
    if key.whole().is_err() {
        let other = app.ask(app.store.get_key(key.tenant(), id)).await?;
        if !narrows(&key.record, other.queues.as_deref(), other.accounts.as_deref()) {
            return Err(Problem::new(ProblemCode::Forbidden)
                .detail("the key is narrowed; it revokes only keys that are narrowed to a part of that"));
        }
    }
    end(&app, key.tenant(), id).await
}

/// Ends a key; this node knows it at once.
pub async fn end(app: &App, tenant: TenantId, id: KeyId) -> Result<StatusCode, Problem> {
    app.ask(app.store.revoke_key(tenant, id, app.now())).await?;
    app.keys.clear();
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Millis;
    use crate::types::key::Scope;

    fn asker(scopes: &[Scope], queues: Option<&[&str]>) -> KeyRecord {
        KeyRecord {
            id: KeyId::mint(Millis(0), [0; 10]),
            tenant: TenantId::mint(Millis(0), [0; 10]),
            name: None,
            prefix: String::new(),
            hash: [0; 32],
            scopes: scopes.iter().copied().collect(),
            queues: queues.map(|q| q.iter().map(|s| (*s).to_owned()).collect()),
            accounts: None,
            created_at: Millis(0),
            expires_at: None,
        }
    }

    fn wish(scopes: &[Scope], queues: Option<&[&str]>) -> NewApiKey {
        NewApiKey {
            scopes: scopes.to_vec(),
            queues: queues.map(|q| q.iter().map(|s| (*s).to_owned()).collect()),
            ..NewApiKey::default()
        }
    }

    #[test]
    fn a_key_never_creates_a_mightier_one() {
        let admin = asker(&[Scope::Admin], None);
        let code = |asker: &KeyRecord, wish: NewApiKey| {
            let scopes = check_wish(&wish, Millis(1_000)).map_err(|refusal| refusal.code);
            scopes.and_then(|s| within_own(asker, &wish, s).map_err(|p| p.code())).err()
        };
        assert_eq!(code(&admin, wish(&[Scope::Work, Scope::Admin], None)), None);
        assert_eq!(code(&admin, wish(&[Scope::Operator], None)), Some(ProblemCode::Forbidden));
        assert_eq!(code(&admin, wish(&[], None)), Some(ProblemCode::ValidationFailed));
        let narrow = asker(&[Scope::Admin], Some(&["a", "b"]));
        assert_eq!(code(&narrow, wish(&[Scope::Work], Some(&["a"]))), None);
        assert_eq!(code(&narrow, wish(&[Scope::Work], Some(&["c"]))), Some(ProblemCode::Forbidden));
        assert_eq!(code(&narrow, wish(&[Scope::Work], None)), Some(ProblemCode::Forbidden));
        let ending = KeyRecord { expires_at: Some(Millis(9_000)), ..asker(&[Scope::Admin], None) };
        let until = |at| NewApiKey { expires_at: at, ..wish(&[Scope::Work], None) };
        assert_eq!(code(&ending, until(Some(Millis(9_000)))), None);
        assert_eq!(code(&ending, until(Some(Millis(9_001)))), Some(ProblemCode::Forbidden));
        assert_eq!(code(&ending, until(None)), Some(ProblemCode::Forbidden));
        assert_eq!(code(&admin, wish(&[Scope::Work], Some(&["a,b"]))), Some(ProblemCode::ValidationFailed));
    }
}
