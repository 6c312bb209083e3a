//! The show of the asynchronous face: ten lines of Python behind a push queue, driven from curl.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::app::{LIMIT, until};
use crate::support::process::{KEY, Node, free_port};
use crate::support::receiver::Receiver;

/// Killed when dropped.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the example of the documents and waits until it listens.
async fn example(port: u16) -> Python {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/push_worker.py");
    let child = Command::new("python3")
        .arg(script)
        .arg(port.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 is on the machine");
    let python = Python(child);
    until("the endpoint listens", async || TcpStream::connect(("127.0.0.1", port))).await;
    python
}

/// What curl prints: the status and the body.
async fn curl(args: &[&str]) -> (u16, Value) {
    let mut command = tokio::process::Command::new("curl");
    command.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}"]).args(args).kill_on_drop(true);
    let ran = command.output().await.expect("curl is on the machine");
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_server_of_ten_lines_becomes_asynchronous_by_configuration_alone() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let port = free_port();
    let _python = example(port).await;
    let toml = format!(
        "[[routes]]\npath = \"/api/reports/generate\"\ntype = \"report.generate\"\nqueue = \"reports\"\n\
         [queues.reports.worker]\nurl = \"http://127.0.0.1:{port}/generate\"\n"
    );
    std::fs::write(dir.path().join("ringback.toml"), toml).unwrap();
    let node = Node::dev_with("sqlite://push.db", free_port(), dir.path(), &["--config", "ringback.toml"]);

    let job = json!({
        "type": "report.generate", "queue": "reports", "input": {"reportType": "annual", "year": 2025},
        "callbackUrl": receiver.url("/hooks/reports"),
    });
    let key = format!("Authorization: Bearer {KEY}");
    let url = format!("{}/v1/jobs", node.url);
    let (status, accepted) =
        curl(&[&url, "-H", &key, "-H", "Content-Type: application/json", "-d", &job.to_string()]).await;

    assert_eq!((status, &accepted["status"]), (202, &json!("queued")));
    let told = receiver.wait("/hooks/reports", 1, LIMIT).await.remove(0);
    told.verify(&node.secret);
    let event = told.json();
    assert_eq!((&event["type"], &event["data"]["jobId"]), (&json!("job.completed"), &accepted["jobId"]));
    assert_eq!(event["data"]["result"], json!({"report": "annual", "pages": 12}));
    let (status, seen) = curl(&[accepted["statusUrl"].as_str().unwrap(), "-H", &key]).await;
    assert_eq!((status, &seen["status"]), (200, &json!("complete")));

    // The endpoint's own request, sent to the configured path: its caller changes nothing but the address.
    let same = |path: &str, more: &[&str]| {
        let url = format!("{}{path}", node.url);
        let base = [&url, "-H", &key, "-H", "Content-Type: application/json", "-H", "Prefer: wait=20"];
        let args: Vec<String> = base.iter().chain(more).map(|arg| (*arg).to_string()).collect();
        async move { curl(&args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let input = r#"{"reportType": "annual", "year": 2025}"#;
    let (status, done) = same("/api/reports/generate", &["-d", input]).await;
    assert_eq!((status, &done["status"], &done["queue"]), (200, &json!("complete"), &json!("reports")));
    let (status, done) = same("/v1/operations/report.generate", &["-H", "Queue: reports", "-d", input]).await;
    assert_eq!((status, &done["status"]), (200, &json!("complete")));
    let (status, refusal) = same("/api/reports/generate", &["-H", "Queue: other", "-d", input]).await;
    assert_eq!((status, &refusal["errors"][0]["pointer"]), (422, &json!("Queue")));
}
