//! Points in time: as text, and as `SOURCE_DATE_EPOCH` fixes them.

use cowback::Timespec;

use crate::failure::{Failure, Outcome};

const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// The moment that `SOURCE_DATE_EPOCH` names, if it is set.
pub(crate) fn source_date_epoch() -> Outcome<Option<Timespec>> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let sec = value.to_str().and_then(|text| text.trim().parse::<i64>().ok());
    match sec {
        Some(sec) if sec >= 0 => Ok(Some(Timespec { sec, nsec: 0 })),
        _ => {
            let why = format!("`{}` is not a number of seconds since 1970", value.display());
            Err(Failure::new(VARIABLE, why))
        }
    }
}

/// `sec` seconds since 1970 as `YYYY-MM-DD hh:mm:ss`, UTC.
pub(crate) fn utc(sec: i64) -> String {
    let (days, time) = (sec.div_euclid(86_400), sec.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Year, month and day of the day `days` after 1970-01-01, in the Gregorian calendar. Years are counted from March, so that leap days
/// come last.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_400: i64 = 146_097;
    let since_0000_03_01 = days + 719_468;
    let (era, day) = (since_0000_03_01.div_euclid(DAYS_400), since_0000_03_01.rem_euclid(DAYS_400));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(-1), "1969-12-31 23:59:59");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34:56");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00");
        assert_eq!(utc(1_700_000_000), "2023-11-14 22:13:20");
    }

    #[test]
    fn any_number_of_seconds_is_some_day() {
        for sec in [i64::MIN / 2, i64::MAX / 2, -62_167_219_200] {
            assert!(!utc(sec).is_empty());
        }
        assert_eq!(utc(-62_167_219_200), "0000-01-01 00:00:00");
    }
}
