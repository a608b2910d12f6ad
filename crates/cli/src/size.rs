//! Sizes, as typed and as shown.

use std::fmt;
use std::str::FromStr;

/// Bytes, typed with K, M, G or T for powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size such as 4096, 64K, 512M, 10G or 1T");
        let short = text.strip_suffix("iB").unwrap_or(text);
        let unit = short
            .chars()
            .next_back()
            .and_then(|last| UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(&last)));
        let (number, shift) = match unit {
            Some((_, shift)) => (&short[..short.len() - 1], shift),
            None => (text, 0),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        // No file is longer.
        let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("`{text}` is too large: less than 8 EiB are possible"))
    }
}

impl fmt::Display for Size {
    /// Three or four digits and a unit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.into_iter().rev().find(|(_, shift)| self.0 >= 1 << shift);
        let Some((name, shift)) = unit else { return write!(f, "{} B", self.0) };
        let hundredths = (u128::from(self.0) * 100) >> shift;
        let (whole, part) = (hundredths / 100, hundredths % 100);
        match whole {
            0..10 => write!(f, "{whole}.{part:02} {name}iB"),
            10..100 => write!(f, "{whole}.{} {name}iB", part / 10),
            _ => write!(f, "{whole} {name}iB"),
        }
    }
}

/// How many times smaller what is stored is than what came in; 1 if nothing is stored.
pub(crate) fn ratio(bytes_in: u64, stored: u64) -> f64 {
    if stored == 0 { 1.0 } else { bytes_in as f64 / stored as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let ok = |text: &str| text.parse::<Size>().unwrap().0;
        assert_eq!(ok("0"), 0);
        assert_eq!(ok("4096"), 4096);
        assert_eq!(ok("64K"), 64 << 10);
        assert_eq!(ok("64k"), 64 << 10);
        assert_eq!(ok("512M"), 512 << 20);
        assert_eq!(ok("10GiB"), 10 << 30);
        assert_eq!(ok("15T"), 15 << 40);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "K", "iB", "-1", "+1", "1.5G", "1KK", "1X", "12iB", "\u{fc}", "1\u{fc}", "0x10"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert!("99999999999999999999".parse::<Size>().is_err());
        assert!("99999999T".parse::<Size>().is_err());
        let said = u64::MAX.to_string().parse::<Size>().unwrap_err();
        assert!(said.contains("too large") && said.contains("8 EiB"), "{said}");
        assert!(
            (1_u64 << 63).to_string().parse::<Size>().is_err()
                && "8388607T".parse::<Size>().is_ok()
        );
    }

    #[test]
    fn sizes_are_shown_shortly() {
        assert_eq!(Size(0).to_string(), "0 B");
        assert_eq!(Size(1023).to_string(), "1023 B");
        assert_eq!(Size(1024).to_string(), "1.00 KiB");
        assert_eq!(Size(1536 << 20).to_string(), "1.50 GiB");
        assert_eq!(Size(345 << 20).to_string(), "345 MiB");
        assert_eq!(Size(u64::MAX).to_string(), "16777215 TiB");
    }
}
