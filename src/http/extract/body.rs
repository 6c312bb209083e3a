//! Request bodies: type, size and time are limited before a byte is understood.
//!
//! Who sends slowly takes no place of those who are served meanwhile; what of such bodies has come is bounded in all.

use std::marker::PhantomData;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use crate::http::app::{App, Options};
use crate::http::json;
use crate::http::layers::Ctx;
use crate::http::problem::Problem;
use crate::types::problem::ProblemCode;

/// How large a body may be on a route.
pub trait Size: 'static {
    /// What a larger one is called.
    const TOO_LARGE: ProblemCode = ProblemCode::PayloadTooLarge;

    /// The most bytes.
    fn limit(options: &Options) -> usize;
}

/// The three sizes of the house.
pub mod sizes {
    use super::{Options, ProblemCode, Size};

    /// One request.
    pub enum Usual {}
    /// Many in one.
    pub enum Batch {}
    /// A worker's result and what stands around it.
    pub enum Result {}

    impl Size for Usual {
        fn limit(options: &Options) -> usize {
            options.body_limit
        }
    }
    impl Size for Batch {
        fn limit(options: &Options) -> usize {
            options.batch_limit
        }
    }
    impl Size for Result {
        const TOO_LARGE: ProblemCode = ProblemCode::ResultTooLarge;
        fn limit(options: &Options) -> usize {
            options.result_limit + 8 * 1024
        }
    }
}

/// A body of the usual size, unread.
pub type Bytes256 = Raw<sizes::Usual>;

/// The bytes of a body and the head they came with.
pub struct Raw<S> {
    /// The head's fields.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Bytes,
    size: PhantomData<fn() -> S>,
}

impl<S: Size> FromRequest<App> for Raw<S> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        unencoded(&parts.headers)?;
        let ctx = Ctx::of(&parts);
        let bytes = read_body::<S>(&parts.headers, ctx, body, app).await?;
        Ok(Raw { headers: parts.headers, bytes, size: PhantomData })
    }
}

/// Reads a body of at most `S` within the body deadline, however slowly it drips.
async fn read_body<S: Size>(
    headers: &HeaderMap,
    ctx: Option<&Ctx>,
    body: Body,
    app: &App,
) -> Result<Bytes, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > S::limit(&app.options) as u64) {
        return Err(too_large::<S>(app));
    }
    let all = tokio::time::timeout(app.options.body_deadline, whole::<S>(ctx, body, app)).await;
    all.unwrap_or_else(|_| Err(Problem::new(ProblemCode::RequestTimeout)))
}

fn too_large<S: Size>(app: &App) -> Problem {
    Problem::new(S::TOO_LARGE).detail(format!("at most {} bytes", S::limit(&app.options)))
}

/// Reads the body. As soon as it has to be waited for, the request's place is another one's until it is here.
async fn whole<S: Size>(ctx: Option<&Ctx>, mut body: Body, app: &App) -> Result<Bytes, Problem> {
    let (mut first, mut more, mut length) = (Bytes::new(), BytesMut::new(), 0);
    let mut slow: Option<Slow> = None;
    loop {
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                if slow.is_none() {
                    slow = Some(Slow::begin(app, length)?);
                    ctx.inspect(|ctx| ctx.rest());
                }
                body.frame().await
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Problem::new(ProblemCode::InvalidRequest).detail("the body ended before its announced end")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > S::limit(&app.options) - length {
            return Err(too_large::<S>(app));
        }
        length += data.len();
        if first.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
        if let Some(slow) = &mut slow {
            slow.hold(app, length)?;
        }
    }
    if let (Some(_), Some(ctx)) = (slow, ctx) {
        ctx.take_place(app)?;
    }
    Ok(if more.is_empty() { first } else { more.freeze() })
}

/// What a body that is waited for holds of the memory that there is for such.
struct Slow(OwnedSemaphorePermit);

impl Slow {
    fn begin(app: &App, bytes: usize) -> Result<Slow, Problem> {
        let mut slow = Slow(permits(app, 0)?);
        slow.hold(app, bytes)?;
        Ok(slow)
    }

    /// That many bytes in all.
    fn hold(&mut self, app: &App, bytes: usize) -> Result<(), Problem> {
        self.0.merge(permits(app, bytes.div_ceil(1_024) - self.0.num_permits())?);
        Ok(())
    }
}

fn permits(app: &App, kibibytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let wanted = u32::try_from(kibibytes).ok();
    let permits = wanted.and_then(|wanted| app.unread.clone().try_acquire_many_owned(wanted).ok());
    permits.ok_or_else(|| Problem::new(ProblemCode::ServiceOverloaded))
}

/// Refuses a compressed body (RFC 9110, 8.4 and 15.5.16): it would be taken for the bytes it is not.
fn unencoded(headers: &HeaderMap) -> Result<(), Problem> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.all(|value| value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::UnsupportedMediaType)
        .at("Content-Encoding", "must be identity")
        .header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// Whether the content type is JSON: `application/json` or any `+json`, in UTF-8.
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(text) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return false };
    let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let utf8 = parts.filter_map(|p| p.strip_prefix("charset=").map(|c| c.trim_matches('"').to_owned()));
    let json = essence == "application/json" || (essence.contains('/') && essence.ends_with("+json"));
    json && utf8.into_iter().all(|charset| charset == "utf-8" || charset == "utf8")
}

fn want_json(headers: &HeaderMap) -> Result<(), Problem> {
    if is_json(headers) {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::UnsupportedMediaType)
        .detail("the body must be application/json in UTF-8")
        .header(header::ACCEPT, HeaderValue::from_static("application/json")))
}

/// A JSON object read as a `T`, and the bytes it was read from.
pub struct JsonBody<T, S = sizes::Usual> {
    /// What the body says.
    pub value: T,
    /// The body.
    pub raw: Bytes,
    size: PhantomData<fn() -> S>,
}

impl<T: DeserializeOwned, S: Size> FromRequest<App> for JsonBody<T, S> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        want_json(request.headers())?;
        let raw = Raw::<S>::from_request(request, app).await?;
        Ok(JsonBody { value: json::object(&raw.bytes)?, raw: raw.bytes, size: PhantomData })
    }
}

/// The same for a body that may be left out; its `T` is then the default.
pub struct MaybeJson<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<App> for MaybeJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let raw = Bytes256::from_request(request, app).await?;
        // `null` in a request means "not given", for a whole body too.
        if raw.bytes.is_empty() || raw.bytes.trim_ascii() == b"null" {
            return Ok(MaybeJson(T::default()));
        }
        want_json(&raw.headers)?;
        Ok(MaybeJson(json::object(&raw.bytes)?))
    }
}

/// For routes that take no member: nothing, `null` or `{}`.
pub struct NoBody;

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl FromRequest<App> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        MaybeJson::<Nothing>::from_request(request, app).await.map(|_| NoBody)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_from_other_types() {
        let is = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            is_json(&[(header::CONTENT_TYPE, value)].into_iter().collect())
        };
        for good in ["application/json", "Application/JSON; Charset=UTF-8", "application/vnd.x+json; a=b"] {
            assert!(is(good), "{good}");
        }
        for bad in ["text/json", "application/jsonx", "+json", "application/json; charset=latin1", "*/*", ""]
        {
            assert!(!is(bad), "{bad}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
