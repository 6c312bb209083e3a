//! The server, the receivers, and the endpoints that stand in it.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Method;
use tokio::sync::watch;

use super::super::figures::{Spread, micros, moment, verdicts};
use super::super::load::{Driven, Load, Posts, Until};
use super::super::node::Node;
use super::super::part::Part;
use super::super::receiver::{self, Ready};
use super::super::wire::Wire;
use super::crowd::Crowd;
use crate::cli::place::Place;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::store::db::Engine;
use crate::types::EndpointId;
use crate::types::api::{self, NewEndpoint};
use crate::types::key::ApiKey;

/// The longest that a healthy delivery may take beyond the end of its phase; then it is lost.
const LOST: Duration = Duration::from_secs(60);
/// The longest until nothing is owed to bad endpoints that were deleted.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// How often is asked.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Connections over which endpoints are made and deleted.
const AT_ONCE: usize = 8;

/// A server with healthy endpoints, and their receiver.
pub struct Stage {
    server: Node,
    receiver: Part,
    hooks: String,
    key: String,
    crowd: Crowd,
    /// The store's.
    pub engine: Engine,
    place: Place,
}

/// Bad endpoints, and the process that receives them.
pub struct Neighbours {
    receiver: Part,
    endpoints: Vec<EndpointId>,
}

/// What one phase came to for the healthy.
pub struct Seen {
    pub deliveries: u64,
    pub repeats: usize,
    /// From the first event to the last delivery.
    pub took: Duration,
    /// From the publication to the receiver.
    pub times: Option<Spread>,
    pub failed_attempts: f64,
}

impl Stage {
    /// Starts them and makes the healthy endpoints.
    pub async fn set(store: Option<String>, crowd: Crowd) -> anyhow::Result<Stage> {
        let place = Place::make("bench")?;
        let store = store.unwrap_or_else(|| place.store());
        let key = ApiKey::mint(Dice::Os.bytes()).reveal().to_owned();
        let engine = Engine::of(&store)?;
        let server = Node::start(&store, &key, place.path()).await?;
        let (receiver, Ready { listening: hooks }) = receiver(&place).await?;
        let stage = Stage { server, receiver, hooks, key, crowd, engine, place };
        stage.endpoints(&[(format!("{}/hook", stage.hooks), crowd.healthy)]).await?;
        Ok(stage)
    }

    /// Bad endpoints move in beside the healthy ones.
    pub async fn neighbours(&self) -> anyhow::Result<Neighbours> {
        let (receiver, Ready { listening }) = receiver(&self.place).await?;
        let kinds = self.crowd.neighbours().map(|(path, many)| (format!("{listening}{path}"), many));
        Ok(Neighbours { receiver, endpoints: self.endpoints(&kinds).await? })
    }

    /// They move out again, and what they were owed is forgotten.
    pub async fn part_from(&self, neighbours: Neighbours) -> anyhow::Result<()> {
        // Ends the requests that hang there.
        neighbours.receiver.stop().await?;
        let each = neighbours.endpoints.iter().map(|id| (format!("/v1/endpoints/{id}"), String::new()));
        self.ask(Method::DELETE, each.collect()).await?;
        let clock = Clock::system();
        let gone = async {
            loop {
                // Figures of the fleet would leave out what lies behind an open breaker.
                let longest = "/v1/lanes?sort=oldestDue&limit=1";
                let lanes: api::Page<api::Lane> =
                    serde_json::from_slice(&self.wire().await?.must(Method::GET, longest, "").await?)?;
                let oldest = lanes.items.first().and_then(|lane| lane.oldest_due);
                if oldest.is_none_or(|due| clock.now().since(due) <= Duration::from_secs(1)) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(ASK_EVERY * 10).await;
            }
        };
        tokio::time::timeout(FORGOTTEN, gone).await?
    }

    /// So many endpoints of each URL, over all accounts.
    async fn endpoints(&self, kinds: &[(String, u32)]) -> anyhow::Result<Vec<EndpointId>> {
        let accounts = self.crowd.accounts();
        let all = kinds.iter().flat_map(|(url, many)| (0..*many).map(move |n| (url, n)));
        let new = |(url, n): (&String, u32)| {
            let account = Some(format!("a{}", n % accounts));
            let new = NewEndpoint { url: format!("{url}/{n}"), account, ..NewEndpoint::default() };
            Ok(("/v1/endpoints".to_owned(), serde_json::to_string(&new)?))
        };
        let made = self.ask(Method::POST, all.map(new).collect::<anyhow::Result<_>>()?).await?;
        let id = |made: &Bytes| Ok(serde_json::from_slice::<api::Endpoint>(made)?.endpoint_id);
        made.iter().map(id).collect()
    }

    /// Asks the server all of this, paths with their bodies, over a few connections.
    async fn ask(&self, method: Method, all: Vec<(String, String)>) -> anyhow::Result<Vec<Bytes>> {
        let method = &method;
        let shares = all.chunks(all.len().div_ceil(AT_ONCE).max(1)).map(|share| async move {
            let (mut wire, mut answers) = (self.wire().await?, Vec::with_capacity(share.len()));
            for (path, body) in share {
                answers.push(wire.must(method.clone(), path, body.clone()).await?);
            }
            anyhow::Ok(answers)
        });
        Ok(try_join_all(shares).await?.concat())
    }

    /// Publishes under this load, and waits for what the healthy endpoints are owed.
    pub async fn phase(&self, load: Load, until: Until) -> anyhow::Result<Seen> {
        let mut receiver = Wire::open(&self.hooks, None).await?;
        receiver.must(Method::POST, "/reset", "").await?;
        let failed_before = verdicts(&self.metrics().await?, "retry");
        let begun = moment();
        let Driven { requests, .. } = load.drive(self.events(), until).await?;
        let owed = self.crowd.healthy_told(requests);
        let sent = moment();
        loop {
            let come: u64 = str::from_utf8(&receiver.must(Method::GET, "/count", "").await?)?.parse()?;
            if come >= owed {
                break;
            }
            let waited = moment().saturating_sub(sent);
            ensure!(waited < LOST, "{} of {owed} healthy deliveries are lost", owed - come);
            tokio::time::sleep(ASK_EVERY).await;
        }
        let took = moment().saturating_sub(begun);
        let seen: receiver::Seen =
            serde_json::from_slice(&receiver.must(Method::GET, "/figures", "").await?)?;
        ensure!(seen.deliveries as u64 == owed, "{} deliveries of {owed} came", seen.deliveries);
        let failed_attempts = verdicts(&self.metrics().await?, "retry") - failed_before;
        let times = seen.submitted_to_seen;
        Ok(Seen { deliveries: owed, repeats: seen.repeats, took, times, failed_attempts })
    }

    fn events(&self) -> Posts {
        let accounts = u64::from(self.crowd.accounts());
        // By its own id an event that is sent again after a 503 is known.
        let run = micros();
        Posts {
            urls: vec![self.server.url.clone()],
            key: self.key.clone(),
            path: "/v1/events",
            body: Box::new(move |n, due| {
                let account = n % accounts;
                format!(
                    r#"{{"type":"bench","id":"{run}-{n}","account":"a{account}","data":{{"submittedAtMicros":{due}}}}}"#
                )
            }),
            hooks: Some(self.hooks.clone()),
            callbacks: u64::from(self.crowd.healthy).div_ceil(accounts),
            accepted: watch::Sender::default(),
        }
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.wire().await?.must(Method::GET, "/metrics", "").await?.to_vec())?)
    }

    async fn wire(&self) -> anyhow::Result<Wire> {
        Wire::open(&self.server.url, Some(&self.key)).await
    }

    /// Stops all of it, the server first.
    pub async fn strike(self) -> anyhow::Result<()> {
        self.server.stop().await?;
        self.receiver.stop().await
    }
}

async fn receiver(place: &Place) -> anyhow::Result<(Part, Ready)> {
    // Each endpoint signs with a secret of its own; `bench lifecycle` verifies.
    Part::start("receiver", &["bench", "receiver"], &[], place.path()).await
}
