//! Time as the store keeps it: whole milliseconds since the Unix epoch.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds since 1970-01-01T00:00:00Z.
///
/// In JSON it is RFC 3339 in UTC with exactly three decimals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub i64);

impl Millis {
    /// The latest instant the wire format can show (9999-12-30).
    pub const MAX: Millis = Millis(253_402_207_200_000);

    /// This instant plus `d`, held at [`Millis::MAX`].
    #[must_use]
    pub fn plus(self, d: Duration) -> Millis {
        let ms = i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        Millis(self.0.saturating_add(ms)).min(Self::MAX)
    }

    /// This instant minus `d`.
    #[must_use]
    pub fn minus(self, d: Duration) -> Millis {
        let ms = i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        Millis(self.0.saturating_sub(ms))
    }

    /// The time from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// The text of an instant on the stack: answers and events have a dozen of them for each job.
#[derive(Default)]
struct Text {
    bytes: [u8; 32],
    len: usize,
}

impl Text {
    fn of(at: Millis) -> Text {
        static PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        let t = jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let mut text = Text::default();
        // No instant takes more room: the longest year has a sign and six digits.
        let _ = PRINTER.print_timestamp(&t, &mut text);
        text
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl jiff::fmt::Write for Text {
    fn write_str(&mut self, piece: &str) -> Result<(), jiff::Error> {
        let end = self.len + piece.len();
        let room = self.bytes.get_mut(self.len..end);
        room.ok_or_else(|| jiff::Error::from_args(format_args!("no room")))?
            .copy_from_slice(piece.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Text::of(*self).as_str())
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an RFC 3339 instant between the years 1970 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 instant such as 2026-01-01T00:00:00.000Z")]
pub struct BadTime;

impl FromStr for Millis {
    type Err = BadTime;

    fn from_str(s: &str) -> Result<Self, BadTime> {
        let ms = s.parse::<jiff::Timestamp>().map_err(|_| BadTime)?.as_millisecond();
        (0..=Self::MAX.0).contains(&ms).then_some(Millis(ms)).ok_or(BadTime)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(Text::of(*self).as_str())
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_three_decimals_in_utc_and_reads_any_offset() {
        assert_eq!(Millis(1_767_225_600_000).to_string(), "2026-01-01T00:00:00.000Z");
        assert_eq!(Millis(1_767_225_600_120).to_string(), "2026-01-01T00:00:00.120Z");
        assert_eq!(Millis::MAX.to_string(), "9999-12-30T22:00:00.000Z");
        assert_eq!(Millis(-377_705_023_201_000).to_string(), "-009999-01-02T01:59:59.000Z", "the longest");
        assert_eq!(Millis(i64::MAX).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            serde_json::to_string(&Millis(1_767_225_600_120)).unwrap(),
            r#""2026-01-01T00:00:00.120Z""#
        );
        assert_eq!("2026-01-01T01:00:00+01:00".parse(), Ok(Millis(1_767_225_600_000)));
        assert_eq!("1969-12-31T23:59:59Z".parse::<Millis>(), Err(BadTime));
        assert_eq!("tomorrow".parse::<Millis>(), Err(BadTime));
    }
}
