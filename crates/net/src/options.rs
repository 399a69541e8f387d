//! Limits and times of an endpoint.

use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, TransportConfig, VarInt};

use dynkv_proto::FRAME_PREFIX_BYTES;

/// What a stream may send ahead of its reader, in bytes; two of them are what a connection may.
///
/// A frame need not fit: its reader takes bytes out as they come. It bounds the memory that a peer can make us
/// hold in quinn, and is enough for 10 Gbit/s at 6 ms.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Streams per connection, one for each [`Class`](crate::Class).
const STREAMS: u32 = 2;

/// Limits and times of an [`Endpoint`](crate::Endpoint). The defaults suit nodes and clients alike.
///
/// ```
/// use dynkv_net::Options;
///
/// let options = Options { connect_timeout_ms: 500, ..Options::default() };
/// assert_eq!(options.idle_timeout_ms, 3000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The longest frame sent or accepted, in bytes on the wire. Default: 64 MiB.
    pub frame_bytes_max: usize,
    /// The most requests of one class in flight on one connection. The calling side refuses more with
    /// [`CallError::Busy`](crate::CallError::Busy), the serving side answers more with an overload failure. Default: 1024.
    pub in_flight_max: usize,
    /// The most bytes queued for writing, for each class of one connection. At this bound the calling side refuses
    /// calls and the serving side stops reading requests. A single longer frame is let through. Default: 64 MiB.
    pub queue_bytes_max: usize,
    /// The most connections served at once; more are refused. Default: 4096.
    pub connections_max: usize,
    /// A peer is taken for dead after this long without a sign of life, in milliseconds. Default: 3000.
    pub idle_timeout_ms: u32,
    /// How often the connecting side asks a silent peer for a sign of life, in milliseconds. Default: 1000.
    pub keep_alive_ms: u32,
    /// How long an attempt to connect may take, in milliseconds. Default: 2000.
    pub connect_timeout_ms: u32,
    /// How long [`close`](crate::Endpoint::close) waits for answers under way, in milliseconds. Default: 500.
    pub drain_timeout_ms: u32,
    /// Seeds QUIC's own random decisions (skipped packet numbers, the order of transport parameters), so that a
    /// simulation repeats itself. Keys do not depend on it. Default: `None`, from the system's random source.
    pub quic_seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            frame_bytes_max: 64 * 1024 * 1024,
            in_flight_max: 1024,
            queue_bytes_max: 64 * 1024 * 1024,
            connections_max: 4096,
            idle_timeout_ms: 3000,
            keep_alive_ms: 1000,
            connect_timeout_ms: 2000,
            drain_timeout_ms: 500,
            quic_seed: None,
        }
    }
}

impl Options {
    /// What is wrong with these options, if anything.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        // A frame's length is a u32; and a failure, at the least, must fit.
        let frames = FRAME_PREFIX_BYTES + 1024..=u32::MAX as usize;
        match self {
            o if !frames.contains(&o.frame_bytes_max) => {
                Some("frame_bytes_max must be from 1044 to 4294967295")
            }
            o if o.in_flight_max == 0 || u32::try_from(o.in_flight_max).is_err() => {
                Some("in_flight_max must be from 1 to 4294967295")
            }
            o if o.connections_max == 0 => Some("connections_max must be at least 1"),
            o if o.connect_timeout_ms == 0 => Some("connect_timeout_ms must be at least 1"),
            o if o.keep_alive_ms == 0 || o.keep_alive_ms >= o.idle_timeout_ms => {
                Some("keep_alive_ms must be at least 1 and less than idle_timeout_ms")
            }
            _ => None,
        }
    }

    /// Configuration of the socket as a whole.
    pub(crate) fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::default();
        config.rng_seed(self.quic_seed.map(|seed| {
            let mut wide = [0; 32];
            wide[..8].copy_from_slice(&seed.to_be_bytes());
            wide
        }));
        config
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms.into())
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms.into())
    }

    pub(crate) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms.into())
    }

    /// Transport of the side that accepts connections and streams.
    pub(crate) fn serving(&self) -> Arc<TransportConfig> {
        let mut transport = self.transport();
        transport.max_concurrent_bidi_streams(STREAMS.into());
        Arc::new(transport)
    }

    /// Transport of the side that connects: it alone keeps the connection alive, which keeps both sides informed.
    pub(crate) fn connecting(&self) -> Arc<TransportConfig> {
        let mut transport = self.transport();
        transport.max_concurrent_bidi_streams(0u32.into());
        transport.keep_alive_interval(Some(Duration::from_millis(self.keep_alive_ms.into())));
        Arc::new(transport)
    }

    fn transport(&self) -> TransportConfig {
        // One acknowledgement for 25 packets instead of 2 saves 15 to 20 % of a call's CPU.
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(25));

        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_uni_streams(0u32.into())
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(self.idle_timeout_ms))))
            .stream_receive_window(STREAM_WINDOW_BYTES.into())
            // As many as all streams together, so that one whose reader has stopped cannot starve the other.
            .receive_window((STREAMS * STREAM_WINDOW_BYTES).into())
            .send_window(u64::from(STREAMS * STREAM_WINDOW_BYTES))
            // quinn's 333 ms make a first lost packet cost a second; the first answer replaces the guess.
            .initial_rtt(Duration::from_millis(100))
            .ack_frequency_config(Some(acks));
        transport
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong() {
        let default = Options::default();
        assert_eq!(default.problem(), None);
        for bad in [
            Options { frame_bytes_max: 10, ..default.clone() },
            Options { in_flight_max: 0, ..default.clone() },
            Options { connections_max: 0, ..default.clone() },
            Options { connect_timeout_ms: 0, ..default.clone() },
            Options { keep_alive_ms: 0, ..default.clone() },
            Options { keep_alive_ms: default.idle_timeout_ms, ..default.clone() },
        ] {
            assert!(bad.problem().is_some(), "{bad:?}");
        }
    }
}
