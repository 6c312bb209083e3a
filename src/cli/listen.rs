//! `ringback listen`: a receiver on a developer's machine that shows each webhook, says whether its signature is good,
//! and passes it on.

mod forward;
mod show;
mod standing;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::exit::Exit;
use super::print::{self, Out};
use super::sign::{SecretText, Seen, Verifiers};
use super::stop;
use crate::clock::Clock;
use forward::Forward;
use show::{Shown, Signature};
use standing::{Standing, Wanted};

/// The largest webhook that is taken, in bytes.
const BODY_MAX: usize = 8 << 20;
/// As long as the service waits for an answer.
const BODY_WITHIN: Duration = Duration::from_secs(15);
/// Webhooks at a time; more are told to come again.
const AT_ONCE: usize = 64;

/// Receive webhooks on this machine: show each one, check its signature, pass it on.
#[derive(Debug, clap::Args)]
pub struct ListenArgs {
    /// Where it listens; loopback only, port 0 picks one.
    #[arg(long, env = "RINGBACK_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Pass every webhook on to this URL, good signature or not, and answer what it answers.
    #[arg(long, env = "RINGBACK_FORWARD_TO", value_name = "URL", value_parser = super::service_url)]
    forward_to: Option<String>,
    /// Signing secret, `whsec_...`, or for v1a `whpk_...`; repeatable, any of them may have signed.
    #[arg(long = "secret", env = "RINGBACK_SECRET", hide_env_values = true, value_delimiter = ',')]
    secrets: Vec<SecretText>,
    #[command(flatten)]
    wanted: Wanted,
}

/// What every request needs.
struct Desk {
    verifiers: Verifiers,
    forward: Option<Forward>,
    clock: Clock,
    places: Semaphore,
    out: Out,
}

/// Runs `ringback listen` until it is told to stop.
pub async fn run(args: ListenArgs, out: Out) -> anyhow::Result<ExitCode> {
    super::check_loopback(args.listen, "listen takes webhooks of this machine only")?;
    let forward = args.forward_to.as_deref().map(Forward::to).transpose()?;
    // Before anything is asked of a service: what cannot be read is wrong usage.
    Verifiers::parse(&args.secrets)?;
    let stop = stop::on_signal_or_hangup()?;
    let listener = TcpListener::bind(args.listen).await;
    // In the environment it may be meant for a service, whose port is taken then.
    let listener = listener.with_context(|| {
        format!("cannot listen on {}, as --listen (or RINGBACK_LISTEN) says", args.listen)
    })?;
    let here = format!("http://{}", listener.local_addr()?);
    let standing = args.wanted.stand(&here).await?;
    let own = standing.as_ref().and_then(|standing| standing.secret.parse().ok());
    let secrets: Vec<SecretText> = args.secrets.into_iter().chain(own).collect();
    let desk = Desk {
        verifiers: Verifiers::parse(&secrets)?,
        forward,
        clock: Clock::system(),
        places: Semaphore::new(AT_ONCE),
        out,
    };
    let served = async {
        announce(&here, standing.as_ref(), out)?;
        let router = Router::new().fallback(receive).with_state(Arc::new(desk));
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            served = async { axum::serve(listener, router).await } => Ok(served?),
        }
    };
    // Whatever ends it: an endpoint that nobody listens to would go on to be told.
    let served: anyhow::Result<()> = served.await;
    if let Some(standing) = standing {
        standing.delete().await?;
    }
    served?;
    Ok(Exit::Done.into())
}

fn announce(url: &str, standing: Option<&Standing>, out: Out) -> anyhow::Result<()> {
    let endpoint = standing.map(|standing| standing.id);
    if out.json {
        let mut told = serde_json::json!({"listening": url});
        if let Some(id) = endpoint {
            told["endpointId"] = id.to_string().into();
        }
        return out.value(&told);
    }
    let endpoint = endpoint.map_or_else(String::new, |id| format!(", as endpoint {id} until it ends"));
    Ok(print::raw(&format!("listening on {url}{endpoint}\n"))?)
}

async fn receive(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    // Before its body is read: the places bound the memory too.
    let Ok(_place) = desk.places.try_acquire() else { return plain(503, "busy") };
    let (Parts { method, headers, .. }, body) = request.into_parts();
    if method != Method::POST {
        return plain(405, "webhooks are POSTed");
    }
    let body = match timeout(BODY_WITHIN, axum::body::to_bytes(body, BODY_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return plain(413, "the webhook is too large, or was broken off"),
        Err(_) => return plain(408, "the webhook did not come in time"),
    };
    let began = Instant::now();
    let signature = desk.judge(&headers, &body);
    let answer = match (&desk.forward, &signature) {
        (Some(forward), _) => forward.pass_on(&headers, body.clone(), desk.clock.now()).await,
        (None, Signature::Bad(_)) => plain(401, "the signature is not good"),
        (None, Signature::Good | Signature::Unchecked) => plain(204, ""),
    };
    let took = began.elapsed();
    let shown = Shown { headers: &headers, body: &body, signature, status: answer.status(), took };
    // Only a reader that has gone makes this fail, and then nobody misses it.
    let _ = shown.print(desk.out, desk.clock.now());
    answer
}

impl Desk {
    fn judge(&self, headers: &HeaderMap, body: &[u8]) -> Signature {
        if self.verifiers.is_empty() {
            return Signature::Unchecked;
        }
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let seen = Seen {
            id: text("webhook-id"),
            timestamp: text("webhook-timestamp"),
            signature: text("webhook-signature"),
            body,
        };
        match self.verifiers.check(&seen, self.clock.now().seconds()) {
            Ok(()) => Signature::Good,
            Err(why) => Signature::Bad(why),
        }
    }
}

fn plain(status: u16, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// How long it took, for people.
fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
