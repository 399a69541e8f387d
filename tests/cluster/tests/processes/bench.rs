//! `dyn bench --dev`: one command measures a clean machine and leaves nothing behind.

use dynkv_tests::process::{command, run};
use serde_json::Value;

use crate::DYN;

#[test]
fn a_throw_away_cluster_is_measured_phase_by_phase() {
    let home = tempfile::tempdir().unwrap();
    let args = ["bench", "--dev", "--json", "--seconds", "0.5", "--keys", "300", "--dir"];
    let ran = run(command(DYN, home.path()).args(args).arg(home.path()));
    let report: Value = serde_json::from_str(&ran.ok()).unwrap();
    let phases = report["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["load", "a", "c"]);
    for (phase, operations) in phases.iter().zip([&["put"][..], &["get", "put"], &["get"]]) {
        let positive = |value: &Value, what: &str| {
            assert!(value.as_f64().is_some_and(|number| number > 0.0), "{what} in {phase:#}");
        };
        positive(&phase["ops_per_s"], "ops_per_s");
        positive(&phase["cpu_us_per_op"]["client"], "cpu_us_per_op.client");
        positive(&phase["cpu_us_per_op"]["nodes"], "cpu_us_per_op.nodes");
        positive(&phase["rss_bytes"], "rss_bytes");
        positive(&phase["disk_bytes_per_user_byte"], "disk_bytes_per_user_byte");
        for operation in operations {
            for figure in ["p50", "p99", "p999", "max"] {
                positive(&phase["latency_us"][operation][figure], figure);
            }
        }
        assert_eq!((phase["errors"].as_u64(), phase["siblings"].as_u64()), (Some(0), Some(0)), "{phase:#}");
    }
    let left: Vec<_> = home.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("bench")), "{left:?}");
}
