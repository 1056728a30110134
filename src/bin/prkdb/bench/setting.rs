//! `--set NAME=VALUE`: what the logs under test are set to instead of the defaults.

use prkdb_core::{SyncMethod, WalConfig};

/// Puts a value where it belongs; none if it is no such value.
type Put = fn(&mut WalConfig, &str) -> Option<()>;

/// What can be set: what acts on how fast a log is, and not on how large.
const ALL: [(&str, Put); 7] = [
    ("depth", |config, value| put(&mut config.depth, value)),
    ("num_segments", |config, value| put(&mut config.num_segments, value)),
    ("spin_us", |config, value| put(&mut config.spin_us, value)),
    ("max_buffer_bytes", |config, value| put(&mut config.batch_config.max_buffer_bytes, value)),
    ("max_batch_size", |config, value| put(&mut config.batch_config.max_batch_size, value)),
    ("linger_ms", |config, value| put(&mut config.batch_config.linger_ms, value)),
    ("sync_method", |config, value| {
        config.sync_method = match value {
            "auto" => SyncMethod::Auto,
            "dsync" => SyncMethod::Dsync,
            "fdatasync" => SyncMethod::Fdatasync,
            _ => return None,
        };
        Some(())
    }),
];

fn put<T: std::str::FromStr>(field: &mut T, value: &str) -> Option<()> {
    *field = value.parse().ok()?;
    Some(())
}

/// One option and its value, known to be in range.
#[derive(Clone, Debug)]
pub struct Setting {
    text: String,
    value: String,
    put: Put,
}

impl Setting {
    /// What `text`, as `depth=32`, sets.
    pub fn parse(text: &str) -> Result<Setting, String> {
        let known = text.split_once('=').and_then(|(name, value)| {
            ALL.iter().find(|(known, _)| *known == name).map(|(_, put)| (*put, value))
        });
        let Some((put, value)) = known else {
            let names = ALL.map(|(name, _)| name).join(", ");
            return Err(format!("must be NAME=VALUE, NAME one of {names}"));
        };
        let mut config = WalConfig::default();
        put(&mut config, value).ok_or("no such value")?;
        config.validate().map_err(|e| e.to_string())?;
        Ok(Setting { text: text.into(), value: value.into(), put })
    }

    pub fn apply(&self, config: &mut WalConfig) {
        (self.put)(config, &self.value).expect("it was tried");
    }
}

/// All of them, for people; empty if there is none.
pub fn told(settings: &[Setting]) -> String {
    settings.iter().map(|setting| setting.text.as_str()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sets_what_it_names_and_nothing_else() {
        let texts = [
            ("depth=32", "depth: 32"),
            ("num_segments=4", "num_segments: 4"),
            ("spin_us=0", "spin_us: 0"),
            ("max_buffer_bytes=123456", "max_buffer_bytes: 123456"),
            ("max_batch_size=77", "max_batch_size: 77"),
            ("linger_ms=3", "linger_ms: 3"),
            ("sync_method=fdatasync", "sync_method: Fdatasync"),
        ];
        let before = format!("{:#?}", WalConfig::default());
        for (text, shown) in texts {
            let mut config = WalConfig::default();
            Setting::parse(text).unwrap().apply(&mut config);
            let after = format!("{config:#?}");
            let pairs = before.lines().zip(after.lines());
            let changed: Vec<_> = pairs.filter(|(before, after)| before != after).collect();
            assert_eq!(changed.len(), 1, "{text}: {changed:?}");
            assert_eq!(changed[0].1.trim().trim_end_matches(','), shown);
        }
        assert_eq!(texts.len(), ALL.len());
    }

    #[test]
    fn what_can_not_be_set_is_refused() {
        for text in ["depth", "depth=0", "depth=33", "depth=x", "log_dir=/", "sync_method=never"] {
            assert!(Setting::parse(text).is_err(), "{text}");
        }
    }
}
