//! Times and choices of a client.

use std::time::Duration;

/// Times and choices of a [`Client`](crate::Client). The defaults suit most programs.
///
/// ```
/// use std::time::Duration;
/// use dynkv_client::Options;
///
/// let options = Options { timeout: Duration::from_secs(1), ..Options::default() };
/// assert_eq!(options.refresh_interval, Duration::from_secs(10));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a request may take, retries included, unless it says otherwise. Default: 5 s.
    pub timeout: Duration,
    /// How often the membership is refreshed without a cause (it is at once when a node's answer shows that it has changed).
    /// Default: 10 s.
    pub refresh_interval: Duration,
    /// Limits and times of the connections. Values must fit its `frame_bytes_max`.
    pub net: dynkv_net::Options,
    /// Where put ids come from: the operating system's randomness when absent. A seed makes them repeat from run to run,
    /// which is for simulations only: two clients with one seed would take each other's puts for retries.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: Duration::from_secs(5),
            refresh_interval: Duration::from_secs(10),
            net: dynkv_net::Options::default(),
            seed: None,
        }
    }
}
