//! The figures, for programs and for people.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Popularity;
use super::run::{Measured, Settings};
use super::stats::Latency;
use crate::output;

/// What `dyn bench --json` prints; `docs/bench.schema.json` describes it.
pub(crate) fn json(settings: &Settings, cluster: Value, measured: &[Measured]) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": cluster,
        "settings": settings_json(settings),
        "phases": measured.iter().map(phase_json).collect::<Vec<_>>(),
    })
}

fn settings_json(settings: &Settings) -> Value {
    let quorum = &settings.write_quorum;
    json!({
        "bucket": settings.bucket,
        "keys": settings.keys,
        "value_bytes": settings.value_bytes.to_string(),
        "popularity": settings.popularity.map(popularity_name),
        "connections": settings.connections,
        "in_flight": settings.in_flight,
        "seconds": settings.time.as_secs_f64(),
        "warm_up_seconds": settings.warm_up.as_secs_f64(),
        "rate": settings.rate,
        "r": settings.r,
        "pr": settings.pr,
        "w": quorum.w,
        "dw": quorum.dw,
        "pw": quorum.pw,
        "seed": settings.seed,
    })
}

fn popularity_name(popularity: Popularity) -> &'static str {
    match popularity {
        Popularity::Uniform => "uniform",
        Popularity::Zipfian => "zipfian",
        Popularity::Latest => "latest",
    }
}

fn phase_json(measured: &Measured) -> Value {
    let stats = &measured.stats;
    let latencies: Map<String, Value> = stats
        .latencies()
        .map(|(operation, latency)| (operation.name().to_owned(), latency_json(latency)))
        .collect();
    json!({
        "name": measured.phase.name(),
        "seconds": measured.elapsed.as_secs_f64(),
        "ops": stats.done,
        "ops_per_s": tenth(ops_per_s(measured)),
        "latency_us": latencies,
        "cpu_us_per_op": {
            "client": us_per_op(measured.client_cpu, measured),
            "nodes": us_per_op(measured.nodes_cpu, measured),
        },
        "rss_bytes": measured.nodes_rss_bytes,
        "client_rss_bytes": measured.client_rss_bytes,
        "disk_bytes": measured.disk_bytes,
        "user_bytes": measured.user_bytes,
        "disk_bytes_per_user_byte": disk_per_user_byte(measured).map(hundredth),
        "errors": stats.errors(),
        "errors_not_done": stats.not_done,
        "errors_unknown": stats.unknown,
        "errors_not_begun": stats.not_begun,
        "first_error": stats.first_error.as_ref().map(ToString::to_string),
        "siblings": stats.siblings,
        "siblings_max": stats.siblings_max,
        "absent": stats.absent,
        "contexts_read": stats.contexts_read,
    })
}

fn latency_json(latency: &Latency) -> Value {
    json!({
        "count": latency.count(),
        "mean": latency.mean_us(),
        "p50": latency.quantile_us(0.5),
        "p99": latency.quantile_us(0.99),
        "p999": latency.quantile_us(0.999),
        "max": latency.max_us(),
    })
}

/// How long each kind of operation took, and below it what each phase cost.
pub(crate) fn table(measured: &[Measured]) -> String {
    let mut times = Vec::new();
    for measured in measured {
        for (operation, latency) in measured.stats.latencies() {
            let quantile = |share| show_us(latency.quantile_us(share));
            times.push([
                measured.phase.to_string(),
                operation.name().to_owned(),
                latency.count().to_string(),
                quantile(0.5),
                quantile(0.99),
                quantile(0.999),
                show_us(latency.max_us()),
            ]);
        }
    }
    let costs = measured.iter().map(|measured| {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let cpu = |time| or_dash(us_per_op(time, measured).map(|us| format!("{us:.1} us")));
        [
            measured.phase.to_string(),
            format!("{:.0}", ops_per_s(measured)),
            cpu(measured.client_cpu),
            cpu(measured.nodes_cpu),
            or_dash(measured.nodes_rss_bytes.map(output::bytes)),
            or_dash(disk_per_user_byte(measured).map(|ratio| format!("{ratio:.2}"))),
            measured.stats.errors().to_string(),
            measured.stats.siblings.to_string(),
        ]
    });
    let times =
        output::table(["phase", "operation", "count", "p50", "p99", "p99.9", "max"], &[2, 3, 4, 5, 6], times);
    let costs = output::table(
        [
            "phase",
            "ops/s",
            "client cpu/op",
            "nodes cpu/op",
            "nodes memory",
            "disk/user byte",
            "errors",
            "siblings",
        ],
        &[1, 2, 3, 4, 5, 6, 7],
        costs.collect(),
    );
    format!("{times}\n\n{costs}")
}

fn show_us(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} us") } else { format!("{:.2} ms", us / 1000.0) }
}

fn ops_per_s(measured: &Measured) -> f64 {
    measured.stats.done as f64 / measured.elapsed.as_secs_f64().max(1e-9)
}

fn us_per_op(time: Option<Duration>, measured: &Measured) -> Option<f64> {
    let done = measured.stats.done;
    time.filter(|_| done > 0).map(|time| hundredth(time.as_secs_f64() * 1e6 / done as f64))
}

/// The disks of all nodes, so three for three replicas of incompressible data.
fn disk_per_user_byte(measured: &Measured) -> Option<f64> {
    let user_bytes = measured.user_bytes.filter(|bytes| *bytes > 0)?;
    Some(measured.disk_bytes? as f64 / user_bytes as f64)
}

fn tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn hundredth(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::stats::{Operation, Stats};
    use crate::bench::values::ValueBytes;
    use crate::bench::workload::Phase;
    use crate::commands::put::WriteQuorum;

    const SCHEMA: &str = include_str!("../../../../docs/bench.schema.json");

    fn settings() -> Settings {
        Settings {
            bucket: "bench".into(),
            keys: 500,
            value_bytes: ValueBytes::Fixed(1024),
            popularity: None,
            connections: 1,
            in_flight: 64,
            time: Duration::from_millis(500),
            warm_up: Duration::ZERO,
            rate: None,
            r: None,
            pr: None,
            write_quorum: WriteQuorum { w: Some(2), dw: None, pw: None },
            seed: 1,
        }
    }

    fn measured() -> Measured {
        let mut stats = Stats::default();
        stats.done(Operation::Get, Duration::from_micros(800));
        stats.done(Operation::Put, Duration::from_micros(1200));
        Measured {
            phase: Phase::A,
            elapsed: Duration::from_millis(500),
            stats,
            client_cpu: Some(Duration::from_micros(30)),
            client_rss_bytes: Some(1 << 20),
            nodes_cpu: Some(Duration::from_micros(101)),
            nodes_rss_bytes: Some(3 << 20),
            disk_bytes: Some(3100),
            user_bytes: Some(1000),
        }
    }

    /// What is not known: another machine's nodes, or another system.
    fn measured_from_afar() -> Measured {
        Measured {
            stats: Stats::default(),
            client_cpu: None,
            client_rss_bytes: None,
            nodes_cpu: None,
            nodes_rss_bytes: None,
            disk_bytes: None,
            user_bytes: None,
            ..measured()
        }
    }

    fn check(report: &Value) -> Result<(), String> {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        let name = "mem:///bench.schema.json";
        compiler.add_resource(name, serde_json::from_str(SCHEMA).unwrap()).unwrap();
        let schema = compiler.compile(name, &mut schemas).unwrap();
        schemas.validate(report, schema).map_err(|error| error.to_string())
    }

    #[test]
    fn reports_follow_the_schema() {
        let cluster = || json!({"name": "bench", "nodes": 3, "replicas": 3, "throw_away": true});
        let report = json(&settings(), cluster(), &[measured(), measured_from_afar()]);
        check(&report).unwrap();
        let phase = &report["phases"][0];
        assert_eq!(phase["ops_per_s"], 4.0);
        assert_eq!(phase["cpu_us_per_op"], json!({"client": 15.0, "nodes": 50.5}));
        assert_eq!(phase["disk_bytes_per_user_byte"], 3.1);
        assert_eq!(phase["latency_us"]["get"]["count"], 1);

        // The schema names what must be there.
        for member in ["name", "ops_per_s", "cpu_us_per_op", "latency_us", "errors", "siblings", "rss_bytes"]
        {
            let mut broken = report.clone();
            broken["phases"][0].as_object_mut().unwrap().remove(member);
            assert!(check(&broken).is_err(), "{member}");
        }
        let mut broken = report.clone();
        broken["phases"][0]["latency_us"]["get"]["p99"] = "slow".into();
        assert!(check(&broken).is_err());
    }

    #[test]
    fn the_table_has_a_row_for_each_operation_and_each_phase() {
        let table = table(&[measured(), measured_from_afar()]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 7, "{table}");
        assert!(lines[1].starts_with("a      get") && lines[2].contains("1.20 ms"), "{table}");
        assert!(lines[5].contains("50.5 us") && lines[5].contains("3.10"), "{table}");
        assert!(lines[6].contains(" - "), "{table}");
    }
}
