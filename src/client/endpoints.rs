//! The verbs of standing endpoints.

use http::Method;
use serde::Serialize;
use serde_with::skip_serializing_none;

use super::verbs::keyed;
use super::{Client, DEADLINE, PageQuery, Result, SubmitOptions, answer, with_json};
use crate::types::{EndpointId, api};

/// Which endpoints a list shows.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointQuery {
    /// Of this account.
    pub account: Option<String>,
    /// `enabled`, `paused` or `disabled`.
    pub state: Option<String>,
    /// Which part.
    #[serde(flatten)]
    pub page: PageQuery,
}

/// Standing endpoints.
impl Client {
    /// Endpoints, newest first.
    pub async fn endpoints(&self, query: &EndpointQuery) -> Result<api::Page<api::Endpoint>> {
        self.list(&["v1", "endpoints"], query).await
    }

    /// One endpoint without its secret.
    pub async fn endpoint(&self, id: EndpointId) -> Result<api::Endpoint> {
        self.get(&["v1", "endpoints", &id.to_string()]).await
    }

    /// A new endpoint; the answer is the only one that shows its secret.
    pub async fn create_endpoint(
        &self,
        endpoint: &api::NewEndpoint,
        options: SubmitOptions<'_>,
    ) -> Result<api::Endpoint> {
        let request = keyed(self.request(Method::POST, &["v1", "endpoints"]), &options);
        answer(with_json(request, endpoint)?).await?.json()
    }

    /// Changes what is given of an endpoint.
    pub async fn change_endpoint(
        &self,
        id: EndpointId,
        change: &api::ChangeEndpoint,
    ) -> Result<api::Endpoint> {
        let request = self.request(Method::PATCH, &["v1", "endpoints", &id.to_string()]);
        answer(with_json(request, change)?).await?.json()
    }

    /// Deletes an endpoint; what it is owed ends cancelled.
    pub async fn delete_endpoint(&self, id: EndpointId) -> Result<()> {
        answer(self.request(Method::DELETE, &["v1", "endpoints", &id.to_string()])).await?;
        Ok(())
    }

    /// A new secret for an endpoint; the one before signs beside it for a while.
    pub async fn rotate_endpoint_secret(
        &self,
        id: EndpointId,
        rotate: &api::RotateSecret,
    ) -> Result<api::WebhookSecret> {
        self.post(&["v1", "endpoints", &id.to_string(), "rotate-secret"], rotate).await
    }

    /// Sends an endpoint `webhook.test` now.
    pub async fn test_endpoint(&self, id: EndpointId) -> Result<api::EndpointProbe> {
        self.probe(id, "test").await
    }

    /// Asks an endpoint to echo a challenge.
    pub async fn verify_endpoint(&self, id: EndpointId) -> Result<api::EndpointProbe> {
        self.probe(id, "verify").await
    }

    /// The answer waits for the endpoint's, which may take as long as that may.
    async fn probe(&self, id: EndpointId, what: &str) -> Result<api::EndpointProbe> {
        let request = self.request(Method::POST, &["v1", "endpoints", &id.to_string(), what]);
        answer(request.timeout(2 * DEADLINE)).await?.json()
    }

    /// Parks what an endpoint is owed.
    pub async fn pause_endpoint(&self, id: EndpointId) -> Result<api::Endpoint> {
        self.poke(&["v1", "endpoints", &id.to_string(), "pause"]).await
    }

    /// Lets what was parked go.
    pub async fn resume_endpoint(&self, id: EndpointId) -> Result<api::Endpoint> {
        self.poke(&["v1", "endpoints", &id.to_string(), "resume"]).await
    }
}
