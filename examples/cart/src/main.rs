//! Two clients, one cart: see the README.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{error, io};

use clap::Parser;
use dynkv_client::{Client, ClusterFile};

/// Two clients add to one shopping cart at once; siblings appear, are merged, and nothing is lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// The cluster's file; without it, the one of `dyn dev`.
    #[arg(long, env = "DYN_CLUSTER", value_name = "FILE")]
    cluster: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn error::Error>> {
    let file = ClusterFile::load(arguments.cluster.unwrap_or_else(ClusterFile::default_path))?;
    // Two connections of their own: two devices that know nothing of each other.
    let (phone, laptop) = tokio::try_join!(Client::connect(&file), Client::connect(&file))?;
    println!("Two clients are connected to the {file}.\n");
    dynkv_example_cart::tell(&phone, &laptop, &mut io::stdout()).await?;
    tokio::join!(phone.close(), laptop.close());
    Ok(())
}
