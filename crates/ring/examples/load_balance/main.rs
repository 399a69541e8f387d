//! Reproduces the comparison of section 6.2 of the Dynamo paper (its figure 8): how evenly the three strategies
//! spread the load over S = 30 nodes with N = 3 replicas, against the metadata every node must keep.
//!
//! ```sh
//! cargo run --release -p dynkv-ring --example load_balance [-- target/load_balance.svg]
//! ```
//!
//! Load-balancing efficiency is the mean load of a node over the greatest. *Uniform*: every position is equally
//! popular, so a node's load is the share of the circle it is a home of, computed exactly. *Skewed*: 100,000 keys
//! are asked for with Zipf popularity of exponent 0.8 (the hottest key has 2 % of all requests), and each request
//! goes to all homes of its key; what is left to lose there is the hottest keys' doing, no placement helps. Metadata is counted in entries: tokens for strategies 1 and 2, partitions for
//! strategy 3. Strategies 1 and 2 depend on where the random tokens fall and are averaged over many drawings.

mod draw;
mod measure;

use std::error::Error;
use std::path::PathBuf;

use comfy_table::{Cell, CellAlignment, Table, presets};
use measure::{Measurement, Strategy};

fn main() -> Result<(), Box<dyn Error>> {
    let path =
        std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/load_balance.svg"), PathBuf::from);
    let measurements = measure::all()?;
    println!("{}", table(&measurements));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    draw::svg(&path, &measurements)?;
    println!("drawn to {}", path.display());
    Ok(())
}

fn table(measurements: &[Measurement]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["strategy", "setting", "metadata (entries)", "uniform", "expected", "skewed"]);
    for m in measurements {
        let setting = match m.strategy {
            Strategy::Random | Strategy::RandomPartitions => format!("T = {}", m.parameter),
            Strategy::Equal => format!("Q = {}", m.parameter),
        };
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(m.strategy.to_string()),
            right(setting),
            right(m.metadata.to_string()),
            right(format!("{:.3}", m.uniform)),
            right(m.reference().map_or_else(String::new, |reference| reference.to_string())),
            right(format!("{:.3}", m.skewed)),
        ]);
    }
    table
}
