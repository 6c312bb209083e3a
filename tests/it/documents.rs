//! The documents agree with the code.

mod commands;
mod links;
mod profile;
mod states;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ringback::types::problem::ProblemCode;

use crate::support::app::{LIMIT, Site, until};
use crate::support::receiver::Receiver;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands below a heading, up to the next one.
#[track_caller]
fn section(text: &str, heading: &str) -> String {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let found: Vec<&str> = lines.take_while(|line| !line.starts_with('#')).collect();
    assert!(!found.is_empty(), "no section {heading}");
    found.join("\n")
}

/// The rows of the first table below a heading, without its two head lines.
#[track_caller]
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let section = section(text, heading);
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows: Vec<Vec<String>> = lines.take_while(|line| line.starts_with('|')).skip(2).map(cells).collect();
    assert!(!rows.is_empty(), "no table below {heading}");
    rows
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|').split(" |").map(|cell| cell.trim().to_owned()).collect()
}

/// The text of a cell that is one code span.
#[track_caller]
fn code(cell: &str) -> &str {
    let inner = cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
    inner.filter(|text| !text.contains('`')).unwrap_or_else(|| panic!("not one code span: {cell}"))
}

/// Every code span of a text.
fn spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_problem_table_is_the_codes() {
    let told: Vec<(String, String, String)> = table(&read("docs/api.md"), "## Problem codes")
        .iter()
        .map(|row| (code(&row[0]).to_owned(), row[1].clone(), row[2].clone()))
        .collect();
    let codes: Vec<(String, String, String)> = ProblemCode::ALL
        .iter()
        .map(|code| (code.slug().to_owned(), code.status().to_string(), code.title().to_owned()))
        .collect();
    assert_eq!(told, codes);
}

#[tokio::test]
async fn the_metrics_table_is_what_is_shown() {
    let site = Site::sqlite();
    let receiver = Receiver::start().await;
    let toml = format!("[queues.q.worker]\nurl = \"{}\"\n", receiver.url("/work"));
    let app = site.start_configured(&toml).await;
    let pushed = app.submit_id(serde_json::json!({"type": "t", "queue": "q"})).await;
    app.get(&format!("/v1/jobs/{pushed}")).header("prefer", "wait=15").await.ok(200);
    let job = app.completed(serde_json::json!({"type": "t", "callbackUrl": receiver.url("/x")})).await;
    receiver.wait("/x", 1, LIMIT).await;
    app.delivery_in(&job, "delivered").await;

    let text = until("every figure has been counted", async || {
        let text = String::from_utf8(app.get("/metrics").await.body.to_vec()).unwrap();
        if text.contains("ringback_push_seconds_count") { Ok(text) } else { Err(text) }
    })
    .await;

    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let shown: BTreeSet<(String, String)> = families
        .map(|family| {
            let (name, kind) = family.split_once(' ').unwrap();
            let ending = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (format!("{name}{ending}"), kind.to_owned())
        })
        .collect();
    let rows = table(&read("docs/configuration.md"), "## Metrics");
    let told: BTreeSet<(String, String)> =
        rows.iter().map(|row| (code(&row[0]).to_owned(), row[1].clone())).collect();
    assert_eq!(told, shown);
    assert_eq!(told.len(), rows.len(), "no name stands there twice");
    site.finish().await;
}

#[tokio::test]
async fn every_route_of_the_api_page_is_in_the_openapi_document_and_the_reverse() {
    let site = Site::sqlite();
    let document = site.start().await.get("/openapi.json").await.ok(200);
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        described.extend(item.as_object().unwrap().keys().map(|m| format!("{} {path}", m.to_uppercase())));
    }
    let page = read("docs/api.md");
    let mut told = BTreeSet::new();
    for heading in ["## For clients", "## For workers", "## For operators"] {
        for row in table(&page, heading) {
            routes(&row[0], &mut told);
        }
    }
    assert_eq!(told, described);
    site.finish().await;
}

/// `GET /a` (`/b`), `POST /c`: a path alone has the method before it, a method alone the path after it.
fn routes(cell: &str, out: &mut BTreeSet<String>) {
    let (mut methods, mut used) = (Vec::new(), true);
    for span in spans(cell) {
        let words: Vec<&str> = span.split_whitespace().collect();
        for word in words {
            if let Some(path) = word.strip_prefix('/') {
                let path = path.split('?').next().unwrap();
                // One route serves both spellings of a result's name.
                let path = path.replace("results/{jobId}.{ext}", "results/{file}");
                let path = path.replace("results/{jobId}", "results/{file}");
                out.extend(methods.iter().map(|method| format!("{method} /{path}")));
                used = true;
            } else {
                if std::mem::take(&mut used) {
                    methods.clear();
                }
                methods.push(word.to_owned());
            }
        }
    }
}

#[test]
fn the_example_configuration_is_one() {
    let file = ringback::config::File::read(&root().join("config.example.toml")).unwrap();
    assert_eq!(file.routes[0].kind, "report.generate");
    assert_eq!(file.queues["reports"].worker.as_ref().unwrap().in_flight(), 20);
    assert_eq!(file.routes[0].status_path.as_deref(), Some("/api/reports/status/{jobId}"));
    let page = section(&read("docs/configuration.md"), "## The file");
    let sample = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(ringback::config::File::parse(sample).unwrap(), file, "the page shows the same");
}

/// Versions and names of a folder of migrations.
fn migrations(folder: &str) -> Vec<(i64, String)> {
    let files = std::fs::read_dir(root().join("migrations").join(folder)).unwrap();
    let mut found: Vec<(i64, String)> = files
        .map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            let (version, name) = name.strip_suffix(".sql").unwrap().split_once('_').unwrap();
            (version.parse().unwrap(), name.to_owned())
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn both_engines_have_the_same_migrations_and_all_are_embedded() {
    let versions = migrations("sqlite");
    assert_eq!(versions, migrations("postgres"));
    let embedded = read("src/store/migrate.rs");
    for folder in ["sqlite", "postgres"] {
        for (version, name) in &versions {
            let entry = format!(
                "({version}, \"{name}\", include_str!(\"../../migrations/{folder}/{version:04}_{name}.sql\"))"
            );
            assert!(embedded.contains(&entry), "{entry}");
        }
    }
    assert_eq!(embedded.matches("include_str!").count(), 2 * versions.len());
    let dir = tempfile::tempdir().unwrap();
    let newest = versions.last().unwrap().0;
    let sqlite = format!("sqlite://{}", dir.path().join("m.db").display());
    for store in [sqlite, crate::support::postgres::database().await] {
        let said = ringback::app::migrate(&store).await.unwrap();
        assert_eq!(said, format!("the store is at schema version {newest}"));
    }
}

/// Every Markdown file that people are sent to.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    found.extend(
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root().join(name)),
    );
    found.sort();
    found
}
