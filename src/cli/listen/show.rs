//! One webhook as people and programs see it.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::super::print::{self, Out};
use super::millis;
use crate::types::Millis;
use crate::types::signature::BadSignature;

/// Of a body so many bytes are shown.
const SHOWN_MAX: usize = 16 * 1024;

/// What is known of a signature.
#[derive(Debug, Clone, Copy)]
pub enum Signature {
    Good,
    Bad(BadSignature),
    /// No secret was given to check it with.
    Unchecked,
}

/// One webhook and what became of it.
pub struct Shown<'a> {
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    pub signature: Signature,
    pub status: StatusCode,
    pub took: Duration,
}

impl Shown<'_> {
    /// A line and the body, or one JSON document.
    pub fn print(&self, out: Out, now: Millis) -> anyhow::Result<()> {
        if out.json { out.value(&self.document(now)) } else { Ok(print::raw(&self.text(now))?) }
    }

    fn text(&self, now: Millis) -> String {
        let body = match serde_json::from_slice::<Value>(self.body) {
            Ok(value) if self.body.len() <= SHOWN_MAX => {
                serde_json::to_string_pretty(&value).unwrap_or_default()
            }
            Ok(_) | Err(_) => self.cut(),
        };
        let signature = match self.signature {
            Signature::Good => "signature good".to_owned(),
            Signature::Bad(why) => format!("SIGNATURE NOT GOOD: {why}"),
            Signature::Unchecked => "signature not checked (no --secret)".to_owned(),
        };
        let line = format!(
            "{} {} {} attempt {} -> {} in {} ms, {signature}",
            print::time(now),
            self.kind(),
            self.header("webhook-id"),
            self.header("webhook-attempt"),
            self.status.as_u16(),
            millis(self.took),
        );
        print::clean(&format!("{line}\n{body}\n\n"))
    }

    fn document(&self, now: Millis) -> Value {
        let (signature, why) = match self.signature {
            Signature::Good => ("good", None),
            Signature::Bad(why) => ("bad", Some(why.to_string())),
            Signature::Unchecked => ("unchecked", None),
        };
        json!({
            "at": now, "type": self.kind(), "webhookId": self.header("webhook-id"),
            "attempt": self.header("webhook-attempt").parse::<u32>().ok(), "signature": signature, "why": why,
            "status": self.status.as_u16(), "durationMs": millis(self.took), "body": self.cut(),
        })
    }

    /// What the body says, or the CloudEvents header.
    fn kind(&self) -> String {
        let told = serde_json::from_slice::<Value>(self.body).ok();
        let told = told.as_ref().and_then(|body| body["type"].as_str()).map(str::to_owned);
        let cloud = self.header("ce-type");
        if cloud.is_empty() { told.unwrap_or_else(|| "(no type)".to_owned()) } else { cloud.to_owned() }
    }

    fn cut(&self) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(SHOWN_MAX)]).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
