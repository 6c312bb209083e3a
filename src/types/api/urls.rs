//! The URLs that stand in answers and frozen bodies.

use crate::types::JobId;

/// Builds the URLs that stand in answers and frozen bodies, all below one base.
#[derive(Debug, Clone)]
pub struct Urls {
    base: String,
}

impl Urls {
    /// `base` is the `--public-url`, with or without a trailing slash.
    pub fn new(base: &str) -> Urls {
        Urls { base: base.trim_end_matches('/').to_owned() }
    }

    /// The base without a trailing slash.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where the job is polled: `path` with `{jobId}` filled in.
    pub fn status(&self, job: JobId, path: &str) -> String {
        format!("{}{}", self.base, path.replace("{jobId}", &job.to_string()))
    }

    /// The same without scheme and host, for `Location`: behind a proxy the client keeps the origin it used.
    pub fn status_path(&self, job: JobId, path: &str) -> String {
        self.path(&path.replace("{jobId}", &job.to_string()))
    }

    /// One of our paths without scheme and host.
    pub fn path(&self, path: &str) -> String {
        let prefix = self.base.split_once("://").map_or("", |(_, rest)| rest);
        let prefix = prefix.find('/').map_or("", |at| &prefix[at..]);
        format!("{prefix}{path}")
    }

    /// Where the result is read, its ending from the content type.
    pub fn result(&self, job: JobId, content_type: &str) -> String {
        let ending = ending(content_type).map(|e| format!(".{e}")).unwrap_or_default();
        format!("{}/results/{job}{ending}", self.base)
    }
}

/// The file ending that people expect of a content type (RFC 9110, 8.3); parameters are ignored.
pub fn ending(content_type: &str) -> Option<&'static str> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Some(match essence.as_str() {
        "application/json" => "json",
        "application/pdf" => "pdf",
        "application/zip" => "zip",
        "application/gzip" => "gz",
        "application/xml" | "text/xml" => "xml",
        "text/plain" => "txt",
        "text/csv" => "csv",
        "text/html" => "html",
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/svg+xml" => "svg",
        "image/webp" => "webp",
        "audio/mpeg" => "mp3",
        "video/mp4" => "mp4",
        s if s.ends_with("+json") => "json",
        _ => return None,
    })
}
