//! The barest HTTP server: what a service would cost that does nothing.

use std::process::ExitCode;
use std::sync::LazyLock;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::super::exit::Exit;
use super::super::print::Out;
use super::super::stop;
use super::receiver::Ready;

/// A server on loopback that reads each request and answers `/N` with N bytes, until SIGTERM.
#[derive(Debug, clap::Args)]
pub struct StubArgs {}

/// The largest answer.
const MOST: usize = 4 << 20;
static FILLING: LazyLock<Bytes> = LazyLock::new(|| vec![b' '; MOST].into());

/// Runs `ringback bench stub`.
pub async fn run(_: StubArgs, out: Out) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signal()?;
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen")?;
    out.value(&Ready { listening: format!("http://{}", listener.local_addr()?) })?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            () = stop.cancelled() => return Ok(Exit::Done.into()),
        };
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let wanted = request.uri().path().trim_start_matches('/').parse().unwrap_or(0usize).min(MOST);
    request.into_body().collect().await?;
    Ok(Response::new(Full::new(FILLING.slice(..wanted))))
}
