//! Rounds of settlement under another history than a member's own, which it must refuse in both phases. While membership is fixed no client
//! sees whether it does (docs/architecture.md, "Settlement"), so it is asked directly.

use std::time::Duration;

use bytes::Bytes;
use dynkv_net::{Class, Connection, Expect};
use dynkv_proto::{Digest, Failure, FailureCode, Frame, Message, Round, SettleDecide, SettlePrepare, kinds};

use crate::{checker::Violation, world::World};

const PROMISE: &str = "a member answers rounds of its own history only";

const TIMEOUT: Duration = Duration::from_secs(2);

/// Above any round of the nodes' own.
const COUNTER: u64 = 1_000_000;

/// Asks a member to promise and to decide rounds of its own history and of another one.
///
/// # Errors
/// What it agreed to, or refused, although it should not have.
pub fn of_another_history(seed: u64) -> Result<(), Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O is memory only");
    let outcome = runtime.block_on(ask(seed));
    runtime.shutdown_background();
    outcome
}

async fn ask(seed: u64) -> Result<(), Violation> {
    let mut world = World::new(seed, 3);
    world.found(8, 3, 0).await;
    // Until everybody has heard of all disks.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let client = world.client(TIMEOUT).await;
    let own = client.refresh().await.expect("a founded cluster answers").digest();
    let other = Digest(own.0 ^ 1);
    let stranger = world.stranger();
    let host = &world.hosts[seed as usize % 3];
    let member = stranger.connect(host.address, Expect::Node(host.id)).await.expect("it listens");
    let prepare = |counter, view| SettlePrepare {
        partition: 0,
        round: Round(COUNTER + counter, 1),
        view,
        decided: Round::default(),
        keys: Vec::new(),
    };
    let decide = |counter, view| SettleDecide { partition: 0, round: Round(COUNTER + counter, 1), view };
    let answers = [
        ("promises a round of another history", is_refused(&member, &prepare(1, other)).await),
        ("refuses a round of its own history", !is_refused(&member, &prepare(2, own)).await),
        ("decides a round of another history", is_refused(&member, &decide(2, other)).await),
        ("refuses to decide a round of its own history", !is_refused(&member, &decide(2, own)).await),
    ];
    match answers.into_iter().find(|(_, right)| !right) {
        Some((what, _)) => {
            Err(Violation { promise: PROMISE, key: None, what: format!("{} {what}", host.id) })
        }
        None => Ok(()),
    }
}

/// Whether `member` refuses it for the history's sake.
async fn is_refused<M: Message>(member: &Connection, request: &M) -> bool {
    let frame = Frame::new(request, Bytes::new());
    let answer = member.call(Class::Background, frame, TIMEOUT).await.expect("nothing is lost here");
    answer.kind == kinds::FAILURE
        && answer.message::<Failure>().is_ok_and(|failure| failure.code == FailureCode::Stale)
}
