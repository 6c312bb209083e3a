//! Handlers by type.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use super::{CancellationToken, Failure, Options, Reply, Task, run};
use crate::client::{Client, Error};

type Handling = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;
type Handlers = BTreeMap<String, Box<dyn Fn(Task) -> Handling + Send + Sync>>;

/// A worker with one handler for each type of job that it can do.
///
/// Types without a handler are left to other workers.
pub struct Worker {
    client: Client,
    options: Options,
    handlers: Handlers,
}

impl Worker {
    /// A worker that can do nothing yet. `options.types` does not count: the handlers say the types.
    pub fn new(client: Client, options: Options) -> Worker {
        Worker { client, options, handlers: Handlers::new() }
    }

    /// Does jobs of type `kind` with `handler`; a second one for the same type takes the place of the first.
    pub fn on<H, F>(mut self, kind: impl Into<String>, handler: H) -> Worker
    where
        H: Fn(Task) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply, Failure>> + Send + 'static,
    {
        self.handlers.insert(kind.into(), Box::new(move |task| Box::pin(handler(task))));
        self
    }

    /// The types that it claims. The service takes at most 50 in one claim.
    pub fn types(&self) -> Vec<String> {
        self.handlers.keys().cloned().collect()
    }

    /// Works as [`run`] does. Without a handler it only waits for `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let types = self.types();
        if types.is_empty() {
            // To the service no types are all types.
            tracing::warn!("a worker without handlers claims nothing");
            shutdown.cancelled().await;
            return Ok(());
        }
        let handlers = Arc::new(self.handlers);
        let dispatch = move |task| dispatch(Arc::clone(&handlers), task);
        run(self.client, Options { types, ..self.options }, dispatch, shutdown).await
    }
}

async fn dispatch(handlers: Arc<Handlers>, task: Task) -> Result<Reply, Failure> {
    match handlers.get(&task.job.kind) {
        Some(handler) => handler(task).await,
        // Only a service that does not keep to the claim gets here; another worker may know the type.
        None => Err(Failure::new(format!("no handler for type {}", task.job.kind)).with_code("no-handler")),
    }
}
