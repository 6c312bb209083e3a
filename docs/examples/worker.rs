//! A worker with two handlers. Against a development node:
//!
//! ```sh
//! ringback dev --api-key rbk_walkthrough_0123456789abcdef0123456789 &
//! export RINGBACK_API_KEY=rbk_walkthrough_0123456789abcdef0123456789
//! cargo run --example worker &
//! ringback submit --type report.generate --input '{"year": 2025, "chapters": 4}' --wait
//! ```

use std::time::Duration;

use ringback::client::{Client, Error};
use ringback::worker::{CancellationToken, Failure, Options, Reply, Task, Worker};

#[derive(serde::Deserialize)]
struct Report {
    year: u16,
    chapters: u8,
}

/// Slow work in steps: tells how far it is, and ends early when nobody wants it any more.
async fn generate(task: Task) -> Result<Reply, Failure> {
    let report: Report = task.input()?;
    if report.year > 2100 {
        // No other attempt can do it: the job fails, and its client hears why.
        return Err(Failure::fatal("no figures for that year").with_code("data_not_found"));
    }
    for chapter in 1..=report.chapters {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            () = task.stop.cancelled() => return Err(Failure::new("stopped half-way")),
        }
        let percent = u32::from(chapter) * 100 / u32::from(report.chapters);
        task.progress.report(u8::try_from(percent).unwrap_or(100), Some(&format!("chapter {chapter}")));
    }
    Reply::json(&serde_json::json!({"year": report.year, "chapters": report.chapters}))
}

/// Quick work with a result that is not JSON.
async fn greet(task: Task) -> Result<Reply, Failure> {
    let name: String = task.input()?;
    Ok(Reply::text(format!("hello, {name}\n")))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("RINGBACK_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
    let key = std::env::var("RINGBACK_API_KEY").ok();
    let client = Client::new(&url, key.as_deref())?;

    // Ctrl-C lets the jobs under way end, and gives back what does not end within the grace.
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });

    eprintln!("working for {url}");
    Worker::new(client, Options { concurrency: 4, ..Options::new("default") })
        .on("report.generate", generate)
        .on("greet", greet)
        .run(shutdown)
        .await
}
