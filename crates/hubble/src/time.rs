//! Points in time, as Hubble writes them.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NS_PER_S: u64 = 1_000_000_000;
const S_PER_DAY: u64 = 86_400;
/// The last year that nanoseconds in 64 bits reach into.
const YEAR_MAX: u64 = 2554;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A point in time: nanoseconds since 1970 (UTC, without leap seconds).
///
/// It is written as RFC 3339 with nanoseconds in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// A time taken apart.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    ns: u64,
}

impl Time {
    /// Go's `StampMilli`, which `hubble observe` uses: `Nov 20 17:30:00.123`.
    pub fn stamp(self) -> String {
        let c = self.civil();
        let month = usize::try_from(c.month - 1)
            .ok()
            .and_then(|m| MONTHS.get(m))
            .unwrap_or(&"???");
        format!(
            "{month} {:>2} {:02}:{:02}:{:02}.{:03}",
            c.day,
            c.hour,
            c.minute,
            c.second,
            c.ns / 1_000_000
        )
    }

    /// Days to civil date after Howard Hinnant, "chrono-compatible low-level
    /// date algorithms", for dates from 1970 on.
    fn civil(self) -> Civil {
        let seconds = self.0 / NS_PER_S;
        let of_day = seconds % S_PER_DAY;
        let z = seconds / S_PER_DAY + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        Civil {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            ns: self.0 % NS_PER_S,
        }
    }

    /// Reads RFC 3339 in UTC (`2026-11-20T17:30:00.5Z`).
    pub fn parse(text: &str) -> Option<Self> {
        let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.splitn(3, '-').map(|n| n.parse::<u64>().ok());
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let mut clock = clock.splitn(3, ':').map(|n| n.parse::<u64>().ok());
        let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
        let sane = (1970..=YEAR_MAX).contains(&year)
            && (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60
            && fraction.bytes().all(|b| b.is_ascii_digit())
            && fraction.len() <= 9;
        if !sane {
            return None;
        }
        let ns = format!("{fraction:0<9}").parse::<u64>().ok()?;
        let year = year - u64::from(month <= 2);
        let shifted = if month > 2 { month - 3 } else { month + 9 };
        let year_of_era = year % 400;
        let day_of_year = (153 * shifted + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = (year / 400 * 146_097 + day_of_era).checked_sub(719_468)?;
        let seconds = days * S_PER_DAY + hour * 3600 + minute * 60 + second;
        seconds.checked_mul(NS_PER_S)?.checked_add(ns).map(Self)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.civil();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            c.year, c.month, c.day, c.hour, c.minute, c.second, c.ns
        )
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("time {text:?}; expected RFC 3339 in UTC")))
    }
}

#[cfg(test)]
mod tests {
    use super::{NS_PER_S, Time};
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        for (seconds, ns, text, stamp) in [
            (
                0,
                0,
                "1970-01-01T00:00:00.000000000Z",
                "Jan  1 00:00:00.000",
            ),
            (
                951_782_400,
                1,
                "2000-02-29T00:00:00.000000001Z",
                "Feb 29 00:00:00.000",
            ),
            (
                1_795_195_800,
                123_456_789,
                "2026-11-20T17:30:00.123456789Z",
                "Nov 20 17:30:00.123",
            ),
        ] {
            let time = Time(seconds * NS_PER_S + ns);
            assert_eq!(time.to_string(), text);
            assert_eq!(time.stamp(), stamp);
        }
        assert_eq!(
            Time::parse("1970-01-01T00:00:01.5Z"),
            Some(Time(1_500_000_000))
        );
        for text in [
            "",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "x-1-1T0:0:0Z",
            "1970-01-01T00:00:00",
            "2554-12-31T00:00:00Z",
            "18446744073709551615-01-01T00:00:00Z",
        ] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_and_read_alike(ns in any::<u64>()) {
            let time = Time(ns);
            prop_assert_eq!(Time::parse(&time.to_string()), Some(time));
        }
    }
}
