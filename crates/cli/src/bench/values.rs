//! What is written: random bytes, which no store compresses.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, LogNormal};
use thiserror::Error;

/// Values are cut from a buffer of random bytes at least this long: filling each by itself would cost as much as sending it.
const POOL_BYTES: usize = 4 << 20;

/// How long values are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ValueBytes {
    Fixed(u32),
    /// From `min` to `max`, both included.
    Uniform {
        min: u32,
        max: u32,
    },
    /// Half are shorter than `median`; `sigma` is the deviation of the natural logarithm.
    LogNormal {
        median: u32,
        sigma: f64,
    },
}

/// No description of values.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no size of values: write BYTES, uniform:MIN-MAX or lognormal:MEDIAN:SIGMA, for example lognormal:1024:0.8"
)]
pub(crate) struct ValueBytesError(String);

impl ValueBytes {
    /// The most that is ever drawn, where there is such a length.
    fn max(self) -> Option<u32> {
        match self {
            ValueBytes::Fixed(bytes) => Some(bytes),
            ValueBytes::Uniform { max, .. } => Some(max),
            ValueBytes::LogNormal { .. } => None,
        }
    }
}

impl FromStr for ValueBytes {
    type Err = ValueBytesError;

    fn from_str(text: &str) -> Result<ValueBytes, ValueBytesError> {
        let parsed = if let Some(range) = text.strip_prefix("uniform:") {
            range.split_once('-').and_then(|(min, max)| {
                let (min, max) = (min.parse().ok()?, max.parse().ok()?);
                (min <= max).then_some(ValueBytes::Uniform { min, max })
            })
        } else if let Some(shape) = text.strip_prefix("lognormal:") {
            shape.split_once(':').and_then(|(median, sigma)| {
                let (median, sigma) = (median.parse().ok()?, sigma.parse::<f64>().ok()?);
                (median > 0 && (0.0..=10.0).contains(&sigma))
                    .then_some(ValueBytes::LogNormal { median, sigma })
            })
        } else {
            text.parse().ok().map(ValueBytes::Fixed)
        };
        parsed.ok_or_else(|| ValueBytesError(text.to_owned()))
    }
}

/// As it is written on the command line.
impl fmt::Display for ValueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueBytes::Fixed(bytes) => write!(f, "{bytes}"),
            ValueBytes::Uniform { min, max } => write!(f, "uniform:{min}-{max}"),
            ValueBytes::LogNormal { median, sigma } => write!(f, "lognormal:{median}:{sigma}"),
        }
    }
}

/// A value would be longer than the bucket takes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "values of {bytes} bytes are over the bucket's limit of {limit}: ask for smaller ones, or raise its value_bytes_max with `dyn bucket set`"
)]
pub(crate) struct OverLimit {
    bytes: u32,
    limit: u32,
}

/// Makes values.
#[derive(Debug)]
pub(crate) struct Values {
    pool: Bytes,
    bytes: ValueBytes,
    /// What the bucket takes; a distribution without an end is cut off here.
    limit: u32,
}

impl Values {
    pub(crate) fn new(bytes: ValueBytes, limit: u32, rng: &mut impl Rng) -> Result<Values, OverLimit> {
        let longest = bytes.max().unwrap_or(limit);
        if longest > limit {
            return Err(OverLimit { bytes: longest, limit });
        }
        let mut pool = vec![0; POOL_BYTES.max(longest as usize * 2)];
        rng.fill_bytes(&mut pool);
        Ok(Values { pool: pool.into(), bytes, limit })
    }

    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Bytes {
        let bytes = match self.bytes {
            ValueBytes::Fixed(bytes) => bytes,
            ValueBytes::Uniform { min, max } => rng.random_range(min..=max),
            ValueBytes::LogNormal { median, sigma } => {
                let shape = LogNormal::new(f64::from(median).ln(), sigma);
                // The conversion saturates.
                (shape.expect("sigma is finite and not negative").sample(rng) as u32).clamp(1, self.limit)
            }
        } as usize;
        let begin = rng.random_range(0..=self.pool.len() - bytes);
        self.pool.slice(begin..begin + bytes)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn lengths(text: &str, limit: u32) -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(3);
        let values = Values::new(text.parse().unwrap(), limit, &mut rng).unwrap();
        let mut lengths: Vec<usize> = (0..2001).map(|_| values.draw(&mut rng).len()).collect();
        lengths.sort_unstable();
        lengths
    }

    #[test]
    fn lengths_are_as_described() {
        let fixed = lengths("1024", 1 << 20);
        assert_eq!((fixed[0], fixed[2000]), (1024, 1024));
        assert_eq!(lengths("0", 1)[2000], 0);
        let uniform = lengths("uniform:10-20", 20);
        assert_eq!((uniform[0], uniform[2000]), (10, 20));
        let skewed = lengths("lognormal:1000:1", 4000);
        assert!((900..1100).contains(&skewed[1000]), "median {}", skewed[1000]);
        // A deviation of one: 16 % lie below 1000/e.
        let low = skewed.partition_point(|bytes| *bytes < 368) as f64 / 2001.0;
        assert!((0.12..0.20).contains(&low), "{low}");
        assert_eq!(skewed[2000], 4000);
        assert_eq!(lengths("lognormal:1000:0", 4000)[0], lengths("lognormal:1000:0", 4000)[2000]);
    }

    #[test]
    fn values_differ_and_repeat_with_the_seed() {
        let draw = |seed| {
            let mut rng = SmallRng::seed_from_u64(seed);
            let values = Values::new(ValueBytes::Fixed(64), 64, &mut rng).unwrap();
            [values.draw(&mut rng), values.draw(&mut rng)]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(1)[0], draw(1)[1]);
    }

    #[test]
    fn descriptions() {
        for text in ["1024", "uniform:1-2", "lognormal:1024:0.5"] {
            assert_eq!(text.parse::<ValueBytes>().unwrap().to_string(), text);
        }
        for text in
            ["", "1k", "-1", "uniform:2-1", "uniform:2", "lognormal:0:1", "lognormal:1:-1", "lognormal:1:NaN"]
        {
            assert!(text.parse::<ValueBytes>().is_err(), "{text}");
        }
        let mut rng = SmallRng::seed_from_u64(3);
        let error = Values::new(ValueBytes::Fixed(11), 10, &mut rng).unwrap_err();
        assert_eq!(error, OverLimit { bytes: 11, limit: 10 });
    }
}
