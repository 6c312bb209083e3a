//! Push workers as the configuration names them.

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Node, supervise};
use crate::config::{File, PushBody, PushWorker};
use crate::egress::{self, Sender};
use crate::push::{self, Push, Tools};
use crate::types::target::{CallbackUrl, UrlPolicy, UrlRefusal};

/// One worker and the profile that is its own: it opens nothing for callbacks, and theirs nothing for it.
pub(super) struct Profile {
    options: push::Options,
    policy: UrlPolicy,
}

/// Checks every worker of the file, whatever the roles of the node. `dev` opens `http` and loopback, as it does
/// for callbacks.
pub(super) fn profiles(file: &File, dev: bool) -> anyhow::Result<Vec<Profile>> {
    let workers = file.queues.iter().filter_map(|(name, queue)| Some((name, queue.worker.as_ref()?)));
    workers.map(|(name, worker)| profile(name, worker, dev)).collect()
}

fn profile(queue: &str, worker: &PushWorker, dev: bool) -> anyhow::Result<Profile> {
    let policy = UrlPolicy {
        allow_http: worker.allow_http,
        allow_cidrs: worker.allow_cidrs.clone(),
        allow_hosts: worker.allow_hosts.clone(),
        dev,
        ..UrlPolicy::default()
    };
    let url = CallbackUrl::check(&worker.url, &policy)
        .map_err(|refusal| anyhow::anyhow!("queues.{queue}.worker.url: {}", remedy(refusal)))?;
    let body = match worker.body {
        PushBody::Input => push::Body::Input,
        PushBody::Job => push::Body::Job,
    };
    let max_in_flight = usize::try_from(worker.in_flight()).unwrap_or(usize::MAX);
    Ok(Profile { options: push::Options { queue: queue.to_owned(), url, body, max_in_flight }, policy })
}

/// Why the URL is refused, and which member would allow it.
fn remedy(refusal: UrlRefusal) -> String {
    match refusal {
        UrlRefusal::HttpNotAllowed => "plain http needs `allow_http = true`".to_owned(),
        UrlRefusal::Port(port) => {
            format!("port {port} needs the host in `allow_hosts`, or its address in `allow_cidrs`")
        }
        UrlRefusal::SpecialName | UrlRefusal::SingleLabel => {
            "an inner host name must stand in `allow_hosts`".to_owned()
        }
        UrlRefusal::Address(class) => {
            format!("a {class} address must lie in `allow_cidrs` or stand in `allow_hosts`")
        }
        UrlRefusal::Credentials => "no user name or password may stand in it".to_owned(),
        other => other.to_string(),
    }
}

/// Starts a loop for each worker.
pub(super) fn start(
    node: &Node<'_>,
    profiles: Vec<Profile>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    for Profile { options, policy } in profiles {
        let sender = Sender::new(egress::Options { policy, ..egress::Options::default() })
            .with_context(|| format!("cannot set up the sender of queue {}", options.queue))?;
        let tools = Tools {
            store: node.store.clone(),
            clock: node.clock.clone(),
            wake: node.wake.clone(),
            metrics: node.metrics.clone(),
        };
        tracing::info!(queue = %options.queue, max_in_flight = options.max_in_flight, "a push worker serves this queue");
        let (push, token) = (Push::new(tools, sender, options), stop.clone());
        supervise(tasks, stop, "push", move || {
            let (push, token) = (push.clone(), token.clone());
            async move { push.run(token).await }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, dev: bool) -> Option<String> {
        let file = File::parse(&format!("[queues.q.worker]\n{text}")).unwrap();
        profiles(&file, dev).err().map(|e| e.to_string())
    }

    #[test]
    fn what_a_worker_needs_opened_is_named_by_its_member() {
        for (text, named) in [
            ("url = 'http://w.example.org/'", "allow_http"),
            ("url = 'http://reports:8080/'\nallow_http = true", "allow_hosts"),
            ("url = 'https://x.org:9000/'", "port 9000"),
            ("url = 'https://10.0.0.1/'", "allow_cidrs"),
            ("url = 'https://u:p@x.org/'", "password"),
            ("url = 'https://x.org/#a'", "fragment"),
        ] {
            let why = refused(text, false).unwrap();
            assert!(why.starts_with("queues.q.worker.url: ") && why.contains(named), "{text}: {why}");
        }
        for text in [
            "url = 'https://w.example.org/a'",
            "url = 'http://reports:9/'\nallow_http = true\nallow_hosts = ['reports']",
            "url = 'http://10.0.0.1:9/'\nallow_http = true\nallow_cidrs = ['10.0.0.0/8']",
        ] {
            assert_eq!(refused(text, false), None, "{text}");
        }
        assert_eq!(refused("url = 'http://127.0.0.1:9/'", true), None, "dev opens loopback and http");
    }
}
