//! What `submit` and `run` say of a job in the same words.

use super::exit::Usage;
use super::sign::SecretText;
use crate::types::api;

/// Where the reply goes.
#[derive(Debug, clap::Args)]
pub struct CallbackArgs {
    /// Where the reply is POSTed.
    #[arg(long, env = "RINGBACK_CALLBACK_URL", value_name = "URL")]
    callback_url: Option<String>,
    /// What signs the reply, `whsec_...`; the tenant's default secret otherwise.
    #[arg(long, env = "RINGBACK_CALLBACK_SECRET", hide_env_values = true)]
    callback_secret: Option<SecretText>,
    /// Which events are POSTed; the four that end a job by default.
    #[arg(long, env = "RINGBACK_CALLBACK_EVENTS", value_delimiter = ',')]
    callback_events: Option<Vec<String>>,
}

impl CallbackArgs {
    /// A submission with this callback and nothing else.
    pub fn job(&self) -> api::SubmitJob {
        if self.callback_url.is_none() {
            return api::SubmitJob::default();
        }
        let plain = self.callback_secret.is_none() && self.callback_events.is_none();
        let callback = (!plain).then(|| api::Callback {
            url: self.callback_url.clone(),
            secret: self.callback_secret.as_ref().map(|secret| secret.reveal().to_owned()),
            events: self.callback_events.clone(),
            ..api::Callback::default()
        });
        api::SubmitJob {
            callback_url: self.callback_url.clone().filter(|_| plain),
            callback,
            ..api::SubmitJob::default()
        }
    }
}

/// Reads `--metadata`.
pub fn metadata(text: Option<&str>) -> Result<Option<api::Json>, Usage> {
    let bad = |why: String| Usage(format!("--metadata is not a JSON object{why}"));
    let Some(text) = text else { return Ok(None) };
    let json: api::Json = serde_json::from_str(text).map_err(|e| bad(format!(": {e}")))?;
    if json.get().starts_with('{') { Ok(Some(json)) } else { Err(bad(String::new())) }
}
