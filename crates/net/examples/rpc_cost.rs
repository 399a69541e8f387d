//! What a call costs: CPU of both ends together and calls per second over loopback, 100 B there and 1 KiB back, each
//! end on a thread and current-thread runtime of its own.
//!
//! ```text
//! cargo run --release -p dynkv-net --example rpc_cost
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynkv_net::certs::{CertificateAuthority, Validity};
use dynkv_net::{Class, Endpoint, Expect, Identity, Options, PeerName, Responder, Role};
use dynkv_proto::{Frame, Metrics};
use tokio::task::JoinSet;

const REQUEST_BYTES: usize = 100;
const REPLY_BYTES: usize = 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let ca = CertificateAuthority::create("bench")?;
    let identity = |name: PeerName| -> Result<Identity, Box<dyn Error>> {
        let issued = ca.issue(&name, Validity::default())?;
        Ok(Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem)?)
    };
    let node_name = PeerName::node("bench", "n1".parse()?)?;
    let node_identity = identity(node_name)?;
    let (tell, told) = tokio::sync::oneshot::channel();
    let serving = std::thread::spawn(move || -> Result<(), String> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(async {
            let addr = "127.0.0.1:0".parse().map_err(|_| "no address")?;
            let node = Endpoint::bind(addr, node_identity, Options::default()).map_err(|e| e.to_string())?;
            tell.send(node.clone()).map_err(|_| "the client has gone")?;
            let reply = Frame::new(&Metrics { reserved: 0 }, Bytes::from(vec![7; REPLY_BYTES]));
            let handler =
                move |_: &Arc<PeerName>, _: Frame, responder: Responder| responder.send(reply.clone());
            node.serve(Arc::new(handler)).await;
            Ok(())
        })
    });
    let node = told.await?;
    let client_name = PeerName::client("bench", "load", Role::Reader)?;
    let client = Endpoint::client(identity(client_name)?, Options::default())?;
    let connection = client.connect(node.local_addr(), Expect::AnyNode).await?;
    let request = Frame::new(&Metrics { reserved: 0 }, Bytes::from(vec![5; REQUEST_BYTES]));

    println!("in flight   CPU us/call   calls/s");
    for (in_flight, calls) in [(1, 30_000), (4, 100_000), (16, 200_000), (64, 400_000), (256, 400_000)] {
        let (cpu, begun) = (cpu_time()?, Instant::now());
        let mut workers = JoinSet::new();
        for _ in 0..in_flight {
            let (connection, request) = (connection.clone(), request.clone());
            workers.spawn(async move {
                for _ in 0..calls / in_flight {
                    connection.call(Class::Foreground, request.clone(), Duration::from_secs(5)).await?;
                }
                Ok::<(), dynkv_net::CallError>(())
            });
        }
        while let Some(done) = workers.join_next().await {
            done??;
        }
        let cpu = cpu_time()? - cpu;
        let micros = cpu.as_secs_f64() * 1e6 / f64::from(calls);
        let per_second = f64::from(calls) / begun.elapsed().as_secs_f64();
        println!("{in_flight:9}   {micros:11.1}   {per_second:7.0}");
    }
    client.close().await;
    node.close().await;
    serving.join().map_err(|_| "the node panicked")??;
    Ok(())
}

/// User and system time of this process, from Linux' `/proc`, in ticks of 10 ms.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no process name in /proc/self/stat")?;
    let ticks =
        after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
