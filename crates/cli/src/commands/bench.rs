//! `dyn bench`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dynkv_client::proto::check_bucket_name;
use dynkv_client::{Client, ClusterFile};
use serde_json::json;

use crate::bench::cluster::ThrowAway;
use crate::bench::run::{Bench as Runner, LocalNodes, Measured, Settings};
use crate::bench::values::{ValueBytes, ValueBytesError};
use crate::bench::workload::{Phase, UnknownPhase};
use crate::bench::{Popularity, chart, report};
use crate::commands::put::WriteQuorum;
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::files::{self, Access};
use crate::output;
use crate::signals::Stop;

/// Each key costs about 150 bytes of memory here, up to a million; more keys are fine but take long to load.
const KEYS_MAX: u64 = 1_000_000_000;
/// So much of a phase's time again is spent on warming up, unless told otherwise.
const WARM_UP_SHARE: f64 = 0.1;

/// Measure a cluster
///
/// Writes keys to a bucket of their own, reads and overwrites them in phases shaped like those of YCSB, and tells how fast that
/// was and what it cost. With --dev it starts a cluster of three processes for it, and removes it afterwards; otherwise it uses
/// the cluster of --cluster, and the keys stay in the bucket.
///
/// Phases: load (every key is written once), a (half gets, half puts), b (95 % gets, 5 % puts), c (gets), d (95 % gets of what
/// was written last, 5 % new keys), e (95 % listings of up to 100 keys of one partition, 5 % new keys), f (half gets, half get-then-put with the
/// context of the get). A put in the other phases carries the context that this client knows from its last write of the key.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Start a throw-away cluster on this machine and measure that one
    #[arg(long)]
    dev: bool,
    /// With --dev: how many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// With --dev: the folder for its data, best on the disk that is to be measured [default: the one for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Which phases, in which order
    #[arg(
        long,
        value_name = "PHASE,...",
        value_delimiter = ',',
        default_value = "load,a,c",
        value_parser = parse_phase
    )]
    phases: Vec<Phase>,
    /// How many keys; 100k and 1M are understood
    #[arg(long, value_name = "N", default_value = "100k", value_parser = parse_keys)]
    keys: u64,
    /// Bytes of each value: N, uniform:MIN-MAX or lognormal:MEDIAN:SIGMA
    #[arg(long, value_name = "BYTES", default_value = "1024", value_parser = parse_value_bytes)]
    value_bytes: ValueBytes,
    /// Which keys are used more than others [default: zipfian, and latest in phase d]
    #[arg(long, value_name = "WHICH")]
    popularity: Option<Popularity>,
    /// How many connections: clients, each with its own socket
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// How many operations are under way at a time, on each connection
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,
    /// Seconds each phase lasts; the load takes as long as it takes
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = parse_seconds)]
    seconds: Duration,
    /// Seconds that each phase runs before it is measured [default: a tenth of --seconds]
    #[arg(long, value_name = "SECONDS", value_parser = parse_warm_up)]
    warm_up: Option<Duration>,
    /// Operations per second, whether or not earlier ones have been answered (open loop); a latency counts from when the
    /// operation was due. Without it each begins as soon as one has ended (closed loop), as the load always does
    #[arg(long, value_name = "OPS", value_parser = parse_rate)]
    rate: Option<f64>,
    /// The bucket to use
    #[arg(long, value_name = "BUCKET", default_value = "bench")]
    bucket: String,
    /// Repeats the choice of operations, keys and values
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Process ids of the nodes, if they are on this machine: their CPU time and memory are told, too (--dev knows its own)
    #[arg(long, value_name = "PID,...", value_delimiter = ',', conflicts_with = "dev")]
    pids: Vec<u32>,
    /// Draw the latencies by percentile into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// How many replicas must answer a get [default: the bucket's]
    #[arg(short, value_name = "N", help_heading = "Quorum")]
    r: Option<u8>,
    /// How many of those must be home replicas [default: the bucket's]
    #[arg(long, value_name = "N", help_heading = "Quorum")]
    pr: Option<u8>,
    #[command(flatten)]
    quorum: WriteQuorum,
    #[command(flatten)]
    connection: Connection,
}

impl Bench {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        check_bucket_name(&self.bucket)?;
        block_on(async {
            let mut stop = Stop::listen()?;
            // Whichever way this ends, what was started is dropped with it.
            tokio::select! {
                ended = self.measure() => ended,
                signal = stop.recv() => {
                    output::note(format_args!("dyn: stopped on {signal}: nothing was measured"));
                    Ok(Exit::Interrupted)
                }
            }
        })
    }

    async fn measure(&self) -> Result<Exit, CliError> {
        let (mut throw_away, file) = if self.dev {
            let cluster = ThrowAway::start(self.nodes, self.dir.as_deref(), &self.connection).await?;
            let file = cluster.file().clone();
            (Some(cluster), file)
        } else {
            (None, self.connection.file()?)
        };
        let clients = self.connect(&file).await?;
        let cluster = {
            let view = clients[0].view();
            let membership = view.membership();
            json!({
                "name": clients[0].cluster(),
                "nodes": membership.members().len(),
                "replicas": membership.replicas(),
                "throw_away": self.dev,
            })
        };
        let nodes = match &throw_away {
            Some(cluster) => cluster.local_nodes(),
            None => LocalNodes { pids: self.pids.clone(), data: None },
        };
        let settings = self.settings();
        let mut runner = Runner::new(settings.clone(), clients.clone(), nodes).await?;
        if runner.was_empty() && self.phases.first() != Some(&Phase::Load) {
            return Err(CliError::Usage(format!(
                "bucket {} is empty: begin with the phase load, for example --phases load,{}",
                self.bucket, self.phases[0]
            )));
        }

        let mut measured = Vec::new();
        for phase in &self.phases {
            let result = runner.phase(*phase).await;
            if let Some(cluster) = &mut throw_away {
                cluster.check()?;
            }
            measured.push(result?);
        }
        for client in &clients {
            client.close().await;
        }
        drop(throw_away);
        self.report(&settings, cluster, &measured)
    }

    async fn connect(&self, file: &ClusterFile) -> Result<Vec<Client>, CliError> {
        let mut clients = Vec::with_capacity(self.connections.into());
        for _ in 0..self.connections {
            clients.push(self.connection.client_of(file).await?);
        }
        Ok(clients)
    }

    fn settings(&self) -> Settings {
        Settings {
            bucket: self.bucket.clone(),
            keys: self.keys,
            value_bytes: self.value_bytes,
            popularity: self.popularity,
            connections: self.connections,
            in_flight: self.in_flight,
            time: self.seconds,
            warm_up: self.warm_up.unwrap_or_else(|| self.seconds.mul_f64(WARM_UP_SHARE)),
            rate: self.rate,
            r: self.r,
            pr: self.pr,
            write_quorum: self.quorum,
            seed: self.seed,
        }
    }

    fn report(
        &self,
        settings: &Settings,
        cluster: serde_json::Value,
        measured: &[Measured],
    ) -> Result<Exit, CliError> {
        if let Some(path) = &self.svg {
            let svg = chart::svg(measured).map_err(|error| {
                CliError::Refused(format!("the picture cannot be drawn ({error}): leave out --svg"))
            })?;
            files::write(path, svg.as_bytes(), Access::Public)?;
        }
        if self.json {
            output::json(&report::json(settings, cluster, measured))?;
        } else {
            output::line(report::table(measured))?;
        }
        for Measured { phase, stats, .. } in measured {
            if let Some(error) = &stats.first_error {
                output::note(format_args!(
                    "phase {phase}: {} failed, the first one thus: {}",
                    output::count(stats.errors(), "operation"),
                    output::one_line(&error.to_string())
                ));
            }
            if stats.not_begun > 0 {
                output::note(format_args!(
                    "phase {phase}: {} of the rate could not even begin: the cluster is slower than --rate, or --in-flight too small",
                    output::count(stats.not_begun, "operation")
                ));
            }
            if stats.absent > 0 {
                output::note(format_args!(
                    "phase {phase}: {} found nothing: load as many keys as --keys first",
                    output::count(stats.absent, "get")
                ));
            }
        }
        Ok(Exit::Ok)
    }
}

fn parse_phase(text: &str) -> Result<Phase, UnknownPhase> {
    text.trim().parse()
}

fn parse_value_bytes(text: &str) -> Result<ValueBytes, ValueBytesError> {
    text.parse()
}

/// Reads `500`, `100k` or `1M`.
fn parse_keys(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1000),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let keys = digits.parse::<u64>().ok().and_then(|keys| keys.checked_mul(factor));
    match keys {
        Some(keys @ 1..=KEYS_MAX) => Ok(keys),
        _ => Err(format!("write a number from 1 to {KEYS_MAX}, for example 500, 100k or 1M")),
    }
}

fn parse_number(text: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("write a number from {} to {}", range.start(), range.end())),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    parse_number(text.strip_suffix('s').unwrap_or(text), 0.01..=86_400.0).map(Duration::from_secs_f64)
}

fn parse_warm_up(text: &str) -> Result<Duration, String> {
    parse_number(text.strip_suffix('s').unwrap_or(text), 0.0..=86_400.0).map(Duration::from_secs_f64)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    parse_number(text, 0.001..=10_000_000.0)
}

#[cfg(test)]
mod tests {
    use clap::{Parser, error::ErrorKind};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn parse(line: &str) -> Result<Bench, clap::Error> {
        Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace())).map(|line| line.bench)
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let settings = parse("--dev").unwrap().settings();
        assert_eq!((settings.keys, settings.value_bytes), (100_000, ValueBytes::Fixed(1024)));
        assert_eq!((settings.connections, settings.in_flight, settings.rate), (1, 64, None));
        assert_eq!(settings.time, Duration::from_secs(15));
        assert_eq!(settings.warm_up, Duration::from_millis(1500));
        assert_eq!(parse("").unwrap().phases, [Phase::Load, Phase::A, Phase::C]);
    }

    #[test]
    fn everything_can_be_set() {
        let bench = parse(
            "--phases load,f --keys 2M --value-bytes uniform:1-9 --popularity uniform --connections 2 --in-flight 8 \
             --seconds 0.5 --warm-up 0 --rate 2500.5 -r 1 --pr 1 -w 3 --dw 2 --pw 1 --bucket b --seed 7 --pids 4,5",
        )
        .unwrap();
        assert_eq!((&bench.phases[..], &bench.pids[..]), (&[Phase::Load, Phase::F][..], &[4, 5][..]));
        let settings = bench.settings();
        assert_eq!((settings.keys, settings.rate, settings.seed), (2_000_000, Some(2500.5), 7));
        assert_eq!((settings.time, settings.warm_up), (Duration::from_millis(500), Duration::ZERO));
        assert_eq!((settings.r, settings.write_quorum.dw), (Some(1), Some(2)));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "--phases load,g",
            "--keys 0",
            "--keys 1000000001",
            "--keys 99999999999999999999k",
            "--keys k",
            "--value-bytes many",
            "--seconds 0",
            "--seconds NaN",
            "--seconds -1",
            "--rate 0",
            "--rate inf",
            "--in-flight 0",
            "--connections 0",
            "--popularity fair",
        ] {
            let kind = parse(line).unwrap_err().kind();
            assert!(
                matches!(
                    kind,
                    ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::UnknownArgument
                ),
                "{line}: {kind:?}"
            );
        }
        assert_eq!(parse("--dev --pids 1").unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }
}
