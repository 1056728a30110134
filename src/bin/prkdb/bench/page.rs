//! The frame of a page with charts: one file that needs no network and no script.
//!
//! Invariants: text is escaped; nothing refers to anything outside the file; the file appears whole
//! or not at all.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::NamedTempFile;

use crate::outcome::Stop;

const STYLE: &str = include_str!("page.css");

/// Finds out whether `path` can be written before minutes are spent on what goes into it. It is
/// replaced by a rename, so only a regular file may be there: no device, no link.
pub fn check(path: &Path) -> Result<(), Stop> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(Stop::Failed(format!("{} is no regular file", path.display())));
        }
        _ => {}
    }
    temporary(path).map(drop)
}

/// Writes the page to `path`.
pub fn write(path: &Path, page: &str) -> Result<(), Stop> {
    let failed = |e: &dyn std::fmt::Display| Stop::Failed(format!("{}: {e}", path.display()));
    let mut file = temporary(path)?;
    file.write_all(page.as_bytes()).map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e.error))?;
    Ok(())
}

fn temporary(path: &Path) -> Result<NamedTempFile, Stop> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    let builder = builder.permissions(Permissions::from_mode(0o666)).prefix(".prkdb-bench-");
    let made = builder.tempfile_in(parent.unwrap_or(Path::new(".")));
    made.map_err(|e| Stop::Failed(format!("{} can't be written: {e}", path.display())))
}

/// A whole page: `body` under its title, with `style` behind the common style sheet.
pub fn framed(title: &str, style: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// A chart under its heading, with key and caption; without a chart the caption says why.
pub fn figure(title: &str, svg: Option<&str>, names: &[&str], caption: &str) -> String {
    let (title, caption) = (escaped(title), escaped(caption));
    let Some(svg) = svg else {
        return format!("<h2>{title}</h2>\n<p class=\"soft\">{caption}</p>\n");
    };
    let described = format!("<svg role=\"img\" aria-label=\"{title}\" ");
    let svg = svg.replacen("<svg ", &described, 1);
    let key: String = names.iter().map(|name| key(name)).collect();
    format!(
        "<h2>{title}</h2>\n<figure>\n<ul class=\"key\">{key}</ul>\n{svg}\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    )
}

fn key(name: &str) -> String {
    let name = escaped(name);
    format!("<li><i class=\"{name}\"></i>{name}</li>")
}

/// `text` as it may stand in a page, between tags or in quotes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// Day and minute in UTC. After Howard Hinnant, "chrono-compatible low-level date algorithms".
pub fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, minutes) = (seconds / 86_400 + 719_468, seconds % 86_400 / 60);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * shifted + 2) / 5 + 1, (shifted + 2) % 12 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn text_can_not_become_markup() {
        let text = escaped("<b a=\"1\" c='2'>&</b>");
        assert_eq!(text, "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;&lt;/b&gt;");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_798_761_599), "2026-12-31 23:59 UTC");
    }

    #[test]
    fn a_heading_and_a_caption_can_not_become_markup() {
        let drawn = figure("a < b", None, &[], "\"c\" & d");
        assert!(drawn.contains("a &lt; b") && drawn.contains("&quot;c&quot; &amp; d"), "{drawn}");
    }
}
