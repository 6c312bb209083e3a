//! Every relative link leads somewhere.

use std::path::Path;

use super::pages;

/// The targets of the links of a page, those in code left out.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        found.extend(targets.map(str::to_owned));
    }
    found
}

/// The anchor that a heading gets: small letters, no punctuation, dashes for spaces.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_';
    let slug = |line: &str| -> String {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        text.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

fn leads_somewhere(page: &Path, link: &str) -> Result<(), String> {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
    if !target.exists() {
        return Err("no such file".to_owned());
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&target).map_err(|e| e.to_string())?;
    let known = anchors(&text);
    if known.iter().any(|one| one == anchor) { Ok(()) } else { Err(format!("no heading of {known:?}")) }
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let (mut tried, mut broken) = (0, Vec::new());
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        let outside = |link: &String| link.contains("://") || link.starts_with("mailto:");
        for link in links(&text).into_iter().filter(|link| !outside(link)) {
            tried += 1;
            if let Err(why) = leads_somewhere(&page, &link) {
                broken.push(format!("{}: {link}: {why}", page.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    assert!(tried >= 30, "only {tried} links were found");
}
