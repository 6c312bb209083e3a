//! The receiver of the demo: verifies every signature, and fails on purpose where it is told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::story::Story;
use crate::types::JobId;
use crate::types::signature::{self, BadSignature, Secret, TOLERANCE_SECONDS};

/// One request that the receiver saw.
#[derive(Debug, Clone)]
pub struct Post {
    /// The last segment of its path.
    pub act: String,
    /// `webhook-id`.
    pub id: String,
    /// `webhook-attempt`.
    pub attempt: String,
    /// As it came.
    pub body: Bytes,
    /// What it was answered.
    pub status: u16,
    /// Whether the signature is good.
    pub verdict: Result<(), BadSignature>,
}

/// What a webhook's body says; more than this the demo does not look at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The event.
    #[serde(rename = "type")]
    pub kind: String,
    /// The job.
    pub data: About,
}

/// Which job a webhook speaks of.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The job.
    pub job_id: JobId,
}

impl Post {
    /// What the body says.
    pub fn envelope(&self) -> anyhow::Result<Envelope> {
        serde_json::from_slice(&self.body).context("the webhook's body cannot be read")
    }
}

/// A receiver on loopback.
pub struct Receiver {
    base: String,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

struct Shared {
    usual: Secret,
    story: Arc<Story>,
    acts: Mutex<HashMap<String, Behaviour>>,
    posts: watch::Sender<Vec<Post>>,
}

#[derive(Default)]
struct Behaviour {
    secret: Option<Secret>,
    /// Answers still to be given, in this order; then 200.
    script: Vec<u16>,
    /// Answers everything else while it stands.
    broken: Option<u16>,
}

/// The longest wait for a request.
const WAIT: Duration = Duration::from_secs(60);

impl Receiver {
    /// Starts one; `usual` is the secret that signs where a callback brings none.
    pub async fn start(usual: Secret, story: Arc<Story>) -> anyhow::Result<Receiver> {
        let listener =
            tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no port for the receiver")?;
        let base = format!("http://{}", listener.local_addr()?);
        let posts = watch::Sender::new(Vec::new());
        let shared = Arc::new(Shared { usual, story, acts: Mutex::default(), posts });
        let router = Router::new().route("/hooks/{act}", post(take)).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            // Ends with the demo; until then axum goes on after every error.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Receiver { base, shared, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Where it listens.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The callback URL of an act.
    pub fn url(&self, act: &str) -> String {
        format!("{}/hooks/{act}", self.base)
    }

    /// The next answers to an act, before the 200s.
    pub fn script(&self, act: &str, statuses: &[u16]) {
        self.shared.with(act, |behaviour| behaviour.script = statuses.to_vec());
    }

    /// The secret that signs an act's callbacks.
    pub fn expect(&self, act: &str, secret: Secret) {
        self.shared.with(act, |behaviour| behaviour.secret = Some(secret));
    }

    /// Answers `status` to an act from now on; None repairs it.
    pub fn break_with(&self, act: &str, status: Option<u16>) {
        self.shared.with(act, |behaviour| behaviour.broken = status);
    }

    /// Every request so far, oldest first.
    pub fn posts(&self) -> Vec<Post> {
        self.shared.posts.borrow().clone()
    }

    /// An act's requests, once there are at least `count`.
    pub async fn wait(&self, act: &str, count: usize) -> anyhow::Result<Vec<Post>> {
        let of_act = |posts: &Vec<Post>| -> Vec<Post> {
            posts.iter().filter(|post| post.act == act).cloned().collect()
        };
        let mut changes = self.shared.posts.subscribe();
        let enough = changes.wait_for(|posts| of_act(posts).len() >= count);
        let posts = tokio::time::timeout(WAIT, enough).await;
        let posts =
            posts.with_context(|| format!("POST #{count} did not come within {} s", WAIT.as_secs()))??;
        Ok(of_act(&posts))
    }
}

impl Shared {
    fn with<T>(&self, act: &str, change: impl FnOnce(&mut Behaviour) -> T) -> T {
        let mut acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
        change(acts.entry(act.to_owned()).or_default())
    }

    /// What this request is answered, and the secret it must be signed with.
    fn next(&self, act: &str) -> (u16, Secret) {
        self.with(act, |behaviour| {
            let scripted = (!behaviour.script.is_empty()).then(|| behaviour.script.remove(0));
            let status = scripted.or(behaviour.broken).unwrap_or(200);
            (status, behaviour.secret.clone().unwrap_or_else(|| self.usual.clone()))
        })
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    Path(act): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scripted, secret) = shared.next(&act);
    let (id, timestamp, signed) =
        (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
    let now = shared.story.now().seconds();
    let verdict = signature::verify(&[secret], id, timestamp, signed, &body, now, TOLERANCE_SECONDS);
    // As a real receiver would: what is not signed well is refused.
    let status = if verdict.is_ok() { scripted } else { 401 };
    let in_words = match &verdict {
        Ok(()) => "signature ok".to_owned(),
        Err(why) => format!("bad signature: {why}"),
    };
    let post =
        Post { id: id.to_owned(), attempt: header("webhook-attempt").to_owned(), act, body, status, verdict };
    let detail = format!("POST #{} -> {status}, {in_words}", post.attempt);
    shared.story.tell(&post.act, "post", &detail);
    shared.posts.send_modify(|posts| posts.push(post));
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
