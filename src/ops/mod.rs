//! What an operator sees: health, progress and metrics over HTTP, and log lines. It reads the `Track`s and writes nothing
//! but its own baselines; no thread of the data path ever waits for anything in here. Services, of which it knows no
//! more than their endpoints, are reached by the same door.

pub mod api;
mod body;
mod calls;
mod conn;
pub mod directory;
mod front;
pub mod gate;
mod health;
pub mod http;
mod inner;
pub mod log;
pub mod metrics;
mod origin;
pub mod otlp;
mod process;
pub mod service;
mod stats;
mod target;
pub mod tracking;
mod wire;

use std::time::{SystemTime, UNIX_EPOCH};

pub use api::{Answer, Api, Sent, TestData};
pub use health::SinkFacts;
pub use http::Server;
pub use service::Service;
pub use stats::Stats;

/// A moment as `2025-03-01T12:00:00.123Z`. Moments before 1970 show as 1970.
fn rfc3339(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    // Days to a date of the Gregorian calendar, counted in eras of 400 years that begin on the first of March,
    // so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_are_written_as_dates() {
        let at = |millis| rfc3339(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
        assert_eq!(at(1_735_689_599_001), "2024-12-31T23:59:59.001Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    }
}
