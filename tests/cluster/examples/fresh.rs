//! Clients that check a cluster while its nodes change: every strict read must show the last acknowledged write of its key, and at the end nothing may be lost.
//!
//! `cargo run --release -p dynkv-tests --example fresh -- CLUSTER_FILE STOP_FILE`: works until STOP_FILE exists, then prints one line of JSON.
//! Reads ask for r = pr = 2, writes for w = pw = 2; each key has one writer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use dynkv_client::{Client, ClusterFile, Context};
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};

const BUCKET: &str = "fresh";
const SESSIONS: usize = 8;
const KEYS: usize = 64;

/// Each session begins a request this often at most.
const PACE: Duration = Duration::from_millis(10);

/// Reasons of failures that are kept.
const REASONS_MAX: usize = 5;

#[derive(Default)]
struct Tally {
    puts: u64,
    gets: u64,
    failed_puts: u64,
    failed_gets: u64,
    stale: u64,
    lost: u64,
    slowest_ms: u128,
    reasons: Vec<String>,
}

/// A key of one session.
#[derive(Default)]
struct Written {
    context: Option<Context>,
    /// The number of the last put that was acknowledged, and of the last one that was tried.
    acknowledged: u64,
    tried: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.puts += other.puts;
        self.gets += other.gets;
        self.failed_puts += other.failed_puts;
        self.failed_gets += other.failed_gets;
        self.stale += other.stale;
        self.lost += other.lost;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        self.reasons.extend(other.reasons);
        self.reasons.truncate(REASONS_MAX);
    }

    fn because(&mut self, reason: impl ToString) {
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(reason.to_string());
        }
    }
}

/// The greatest number among what was read; 0: nothing was.
fn greatest(read: &dynkv_client::Fetched) -> u64 {
    let numbers =
        read.siblings.iter().filter_map(|sibling| std::str::from_utf8(&sibling.value).ok()?.parse().ok());
    numbers.max().unwrap_or(0)
}

async fn read(client: &Client, key: &str, written: &mut Written, tally: &mut Tally) -> bool {
    let begun = Instant::now();
    let answer = client.get(BUCKET, key.to_owned()).r(2).pr(2).await;
    tally.slowest_ms = tally.slowest_ms.max(begun.elapsed().as_millis());
    match answer {
        Ok(read) => {
            tally.gets += 1;
            written.context = Some(read.context.clone());
            let found = greatest(&read);
            if found < written.acknowledged {
                tally.stale += 1;
                tally.because(format!(
                    "stale: {key} shows {found}, {} was acknowledged",
                    written.acknowledged
                ));
            }
            found >= written.acknowledged
        }
        Err(error) => {
            tally.failed_gets += 1;
            tally.because(format!("get {key}: {error}"));
            false
        }
    }
}

async fn write(client: &Client, key: &str, written: &mut Written, tally: &mut Tally) {
    written.tried += 1;
    let begun = Instant::now();
    let mut put = client.put(BUCKET, key.to_owned(), written.tried.to_string()).w(2).pw(2);
    if let Some(context) = &written.context {
        put = put.context(context);
    }
    let answer = put.await;
    tally.slowest_ms = tally.slowest_ms.max(begun.elapsed().as_millis());
    match answer {
        Ok(done) => {
            tally.puts += 1;
            written.acknowledged = written.tried;
            written.context = Some(done.context.clone());
        }
        Err(error) => {
            tally.failed_puts += 1;
            tally.because(format!("put {key}: {error}"));
        }
    }
}

async fn session(number: usize, client: Arc<Client>, stop: PathBuf) -> Tally {
    let mut tally = Tally::default();
    let mut keys: Vec<(String, Written)> =
        (0..KEYS).map(|key| (format!("s{number}k{key}"), Written::default())).collect();
    let mut pace = interval(PACE);
    let mut turn = 0;
    while turn % 128 != 0 || !stop.exists() {
        pace.tick().await;
        let (key, written) = &mut keys[turn / 2 % KEYS];
        match turn % 2 {
            0 => write(&client, key, written, &mut tally).await,
            _ => drop(read(&client, key, written, &mut tally).await),
        }
        turn += 1;
    }
    for (key, written) in &mut keys {
        if !read(&client, key, written, &mut tally).await {
            tally.lost += 1;
        }
    }
    tally
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(file), Some(stop)) = (args.next(), args.next()) else {
        eprintln!("usage: fresh CLUSTER_FILE STOP_FILE");
        std::process::exit(2);
    };
    let file = ClusterFile::load(&file).unwrap_or_else(|error| panic!("{error}"));
    let client = Arc::new(Client::connect(&file).await.unwrap_or_else(|error| panic!("{error}")));
    let mut sessions: JoinSet<Tally> =
        (0..SESSIONS).map(|number| session(number, client.clone(), stop.clone())).collect();
    let mut all = Tally::default();
    while let Some(tally) = sessions.join_next().await {
        all.add(tally.expect("a session does not panic"));
    }
    let told = serde_json::json!({
        "puts": all.puts, "gets": all.gets, "failed_puts": all.failed_puts, "failed_gets": all.failed_gets,
        "stale": all.stale, "lost": all.lost, "slowest_ms": all.slowest_ms as u64, "reasons": all.reasons,
    });
    println!("{told}");
}
