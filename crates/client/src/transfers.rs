//! What operators ask about partitions that move, and what they limit.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dynkv_proto::{LimitTransfersReply, TransfersReply};
use dynkv_ring::NodeId;

use crate::Error;
use crate::admin::{Whom, into_future};
use crate::attempts::Repeat;
use crate::client::deadline;
use crate::inner::Inner;
use crate::upkeep::ask_one;

/// A question what a node receives and gives up, to be awaited; made by [`Client::transfers`](crate::Client::transfers). Asking changes
/// nothing.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let moving = client.transfers("n4".parse()?).await?;
/// for transfer in &moving.transfers {
///     println!("{}: {} partitions, {} bytes in a second", transfer.peer, transfer.partitions.len(), transfer.rate_bytes);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct Transfers {
    inner: Arc<Inner>,
    whom: Whom,
    timeout: Option<Duration>,
}

into_future!(Transfers -> TransfersReply);

impl Transfers {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> Transfers {
        Transfers { inner, whom: Whom::Node(node), timeout: None }
    }

    async fn run(self) -> Result<TransfersReply, Error> {
        let Transfers { inner, whom, timeout } = self;
        let request = dynkv_proto::Transfers { reserved: 0 };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}

/// An order to limit what a node receives, to be awaited; made by [`Client::limit_transfers`](crate::Client::limit_transfers).
#[derive(Clone)]
#[must_use = "an order does nothing until it is awaited"]
pub struct LimitTransfers {
    inner: Arc<Inner>,
    whom: Whom,
    limit_bytes: Option<u64>,
    timeout: Option<Duration>,
}

into_future!(LimitTransfers -> LimitTransfersReply);

impl LimitTransfers {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId, limit_bytes: Option<u64>) -> LimitTransfers {
        LimitTransfers { inner, whom: Whom::Node(node), limit_bytes, timeout: None }
    }

    async fn run(self) -> Result<LimitTransfersReply, Error> {
        let LimitTransfers { inner, whom, limit_bytes, timeout } = self;
        let request = dynkv_proto::LimitTransfers { limit_bytes };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}
