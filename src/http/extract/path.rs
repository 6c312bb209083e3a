//! The ids in a path. One that has not the right shape names nothing: 404, never 400.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use crate::http::app::App;
use crate::http::problem::Problem;
use crate::types::id::{self, Kind};
use crate::types::problem::ProblemCode;

/// What an absent one of its kind is called.
pub trait Subject: Kind {
    /// The code of its 404.
    const MISSING: ProblemCode = ProblemCode::NotFound;
}

impl Subject for id::Job {
    const MISSING: ProblemCode = ProblemCode::JobNotFound;
}
impl Subject for id::Delivery {}
impl Subject for id::Endpoint {}
impl Subject for id::Redrive {}
impl Subject for id::Key {}
impl Subject for id::Lane {}
impl Subject for id::Tenant {}

/// The path's first parameter as text.
pub struct First(pub String);

impl FromRequestParts<App> for First {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let missing = || Problem::new(ProblemCode::NotFound);
        let params = RawPathParams::from_request_parts(parts, app).await.map_err(|_| missing())?;
        params.iter().next().map(|(_, text)| First(text.to_owned())).ok_or_else(missing)
    }
}

/// The id that is the path's first parameter.
pub struct PathId<K>(pub crate::types::Id<K>);

impl<K: Subject> FromRequestParts<App> for PathId<K> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let missing = |_| Problem::new(K::MISSING);
        let First(text) =
            First::from_request_parts(parts, app).await.map_err(|_| Problem::new(K::MISSING))?;
        text.parse().map(PathId).map_err(missing)
    }
}

/// The ids that are the path's first two parameters.
pub struct PathIds<A, B>(pub crate::types::Id<A>, pub crate::types::Id<B>);

impl<A: Subject, B: Subject> FromRequestParts<App> for PathIds<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let PathId(first) = PathId::<A>::from_request_parts(parts, app).await?;
        let missing = || Problem::new(B::MISSING);
        let params = RawPathParams::from_request_parts(parts, app).await.map_err(|_| missing())?;
        let second = params.iter().nth(1).and_then(|(_, text)| text.parse().ok());
        second.map(|second| PathIds(first, second)).ok_or_else(missing)
    }
}
