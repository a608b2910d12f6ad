//! What to compress with: algorithm and level, their names and their numbers on disk.
//!
//! Invariant: a [`CompressionSpec`] is valid by construction, so nothing below it checks a level again.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::SpecError;

/// A compression format of btrfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// Deflate in a zlib wrapper.
    Zlib,
    /// LZO1X in segments of one block.
    Lzo,
    /// Zstandard, one frame, window of at most 128 KiB.
    Zstd,
}

impl Algorithm {
    /// All of them, in the order of their numbers on disk.
    pub const ALL: [Self; 3] = [Self::Zlib, Self::Lzo, Self::Zstd];

    /// Its name, as in `compress=zstd`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Lzo => "lzo",
            Self::Zstd => "zstd",
        }
    }

    /// Its number in the compression byte of a file extent item (0 is "none", and not an algorithm).
    #[must_use]
    pub const fn to_disk(self) -> u8 {
        match self {
            Self::Zlib => 1,
            Self::Lzo => 2,
            Self::Zstd => 3,
        }
    }

    /// The algorithm of a nonzero compression byte, if there is one.
    #[must_use]
    pub const fn from_disk(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Zlib),
            2 => Some(Self::Lzo),
            3 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its levels, or `None` if it has none.
    #[must_use]
    pub const fn levels(self) -> Option<RangeInclusive<i8>> {
        match self {
            Self::Zlib => Some(1..=9),
            Self::Lzo => None,
            Self::Zstd => Some(-15..=15),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| SpecError::UnknownAlgorithm(text.to_owned()))
    }
}

/// A level that is valid for the algorithm it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(i8);

impl Level {
    /// The number.
    #[must_use]
    pub const fn get(self) -> i8 {
        self.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Algorithm and level, as one writes them: `zstd`, `zstd:3`, `zstd:-5`, `zlib:9`, `lzo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompressionSpec {
    algorithm: Algorithm,
    level: Option<Level>,
}

/// Level of zlib and of zstd where none is given.
const DEFAULT_LEVEL: Level = Level(3);

impl CompressionSpec {
    /// LZO, which has no levels.
    pub const LZO: Self = Self { algorithm: Algorithm::Lzo, level: None };

    /// `algorithm` at its default level.
    #[must_use]
    pub const fn default_of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Lzo => Self::LZO,
            Algorithm::Zlib | Algorithm::Zstd => Self { algorithm, level: Some(DEFAULT_LEVEL) },
        }
    }

    /// zlib at `level`, 1 to 9.
    ///
    /// # Errors
    /// If `level` is out of range.
    pub fn zlib(level: i64) -> Result<Self, SpecError> {
        Self::with_level(Algorithm::Zlib, level)
    }

    /// zstd at `level`, -15 to 15; level 0 is zstd's own word for its default, 3.
    ///
    /// # Errors
    /// If `level` is out of range.
    pub fn zstd(level: i64) -> Result<Self, SpecError> {
        Self::with_level(Algorithm::Zstd, level)
    }

    /// `algorithm` at `level`.
    ///
    /// # Errors
    /// If the algorithm has no such level, or no levels at all.
    pub fn with_level(algorithm: Algorithm, level: i64) -> Result<Self, SpecError> {
        let Some(range) = algorithm.levels() else {
            return Err(SpecError::NoLevels { algorithm, text: level.to_string() });
        };
        match i8::try_from(level) {
            Ok(0) if algorithm == Algorithm::Zstd => Ok(Self::default_of(algorithm)),
            Ok(small) if range.contains(&small) => {
                Ok(Self { algorithm, level: Some(Level(small)) })
            }
            _ => Err(SpecError::LevelOutOfRange {
                algorithm,
                level,
                min: *range.start(),
                max: *range.end(),
            }),
        }
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(self) -> Algorithm {
        self.algorithm
    }

    /// The level, or `None` if the algorithm has none.
    #[must_use]
    pub const fn level(self) -> Option<Level> {
        self.level
    }
}

impl From<Algorithm> for CompressionSpec {
    fn from(algorithm: Algorithm) -> Self {
        Self::default_of(algorithm)
    }
}

impl fmt::Display for CompressionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "{}:{level}", self.algorithm),
            None => self.algorithm.fmt(f),
        }
    }
}

impl FromStr for CompressionSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let Some((name, level)) = text.split_once(':') else {
            return Ok(Self::default_of(text.parse()?));
        };
        let algorithm: Algorithm = name.parse()?;
        let Some(range) = algorithm.levels() else {
            return Err(SpecError::NoLevels { algorithm, text: level.to_owned() });
        };
        let number = level.parse::<i64>().map_err(|_| SpecError::NotANumber {
            algorithm,
            text: level.to_owned(),
            min: *range.start(),
            max: *range.end(),
        })?;
        Self::with_level(algorithm, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, printed) in [
            ("zstd", "zstd:3"),
            ("zstd:3", "zstd:3"),
            ("zstd:0", "zstd:3"),
            ("zstd:-5", "zstd:-5"),
            ("zstd:-15", "zstd:-15"),
            ("zstd:15", "zstd:15"),
            ("zlib", "zlib:3"),
            ("zlib:1", "zlib:1"),
            ("zlib:9", "zlib:9"),
            ("lzo", "lzo"),
        ] {
            let spec: CompressionSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), printed);
            assert_eq!(printed.parse::<CompressionSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn every_valid_level_round_trips() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_disk(algorithm.to_disk()), Some(algorithm));
            for level in algorithm.levels().into_iter().flatten().filter(|&level| level != 0) {
                let spec = CompressionSpec::with_level(algorithm, level.into()).unwrap();
                assert_eq!(spec.level().unwrap().get(), level);
                assert_eq!(spec.to_string().parse::<CompressionSpec>().unwrap(), spec);
            }
        }
        assert_eq!(Algorithm::from_disk(0), None);
        assert_eq!(Algorithm::from_disk(4), None);
    }

    #[test]
    fn errors_name_what_is_wrong_and_the_range() {
        for (text, words) in [
            ("", "unknown compression algorithm ``: expected zlib, lzo or zstd"),
            ("gzip", "unknown compression algorithm `gzip`: expected zlib, lzo or zstd"),
            ("ZSTD", "unknown compression algorithm `ZSTD`: expected zlib, lzo or zstd"),
            ("zstd:16", "compression level 16 of zstd is out of range: expected -15 to 15"),
            ("zstd:-16", "compression level -16 of zstd is out of range: expected -15 to 15"),
            ("zlib:0", "compression level 0 of zlib is out of range: expected 1 to 9"),
            ("zlib:300", "compression level 300 of zlib is out of range: expected 1 to 9"),
            ("zlib:", "compression level `` of zlib is not a whole number: expected 1 to 9"),
            (
                "zstd:fast",
                "compression level `fast` of zstd is not a whole number: expected -15 to 15",
            ),
            ("lzo:1", "lzo takes no compression level, but `1` was given"),
        ] {
            assert_eq!(text.parse::<CompressionSpec>().unwrap_err().to_string(), words);
        }
    }
}
