//! The calls of one stream that have no answer yet: a pure table, without I/O.
//!
//! A request's id is `generation << 32 | slot`. A slot's generation grows each time it is freed, so an answer that
//! comes after its caller has gone away finds another generation and is dropped.

use std::collections::VecDeque;

use dynkv_proto::Frame;
use tokio::sync::oneshot;

use crate::connection::CallError;
use crate::wire::Batch;

/// What a caller waits for.
pub(crate) type Reply = oneshot::Receiver<Result<Frame, CallError>>;

#[derive(Debug)]
enum State {
    Free,
    /// Nothing has left yet: may still be taken back.
    Queued(Frame, oneshot::Sender<Result<Frame, CallError>>),
    /// Handed to QUIC, wholly or in part: the peer may have acted on it.
    Sent(oneshot::Sender<Result<Frame, CallError>>),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

/// Calls of one stream.
#[derive(Debug)]
pub(crate) struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Ids to send, in order; those that were taken back meanwhile are skipped.
    queue: VecDeque<u64>,
    queued_bytes: usize,
    in_flight_max: usize,
    queue_bytes_max: usize,
    /// Why no further call is taken.
    closed: Option<String>,
}

/// Why a call is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Closed(String),
    Busy,
}

/// What became of a call that its caller gives up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// It never left.
    Unsent,
    /// The peer may have acted on it.
    Sent,
    /// It has been answered already.
    Done,
}

impl Calls {
    pub(crate) fn new(in_flight_max: usize, queue_bytes_max: usize) -> Calls {
        let (slots, free, queue) = (Vec::new(), Vec::new(), VecDeque::new());
        Calls { slots, free, queue, queued_bytes: 0, in_flight_max, queue_bytes_max, closed: None }
    }

    /// Takes a call into the queue.
    pub(crate) fn begin(&mut self, frame: Frame) -> Result<(u64, Reply), Refused> {
        if let Some(reason) = &self.closed {
            return Err(Refused::Closed(reason.clone()));
        }
        let bytes = frame.wire_len();
        if self.queued_bytes > 0 && self.queued_bytes + bytes > self.queue_bytes_max {
            return Err(Refused::Busy);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.in_flight_max => {
                self.slots.push(Slot { generation: 0, state: State::Free });
                (self.slots.len() - 1) as u32
            }
            None => return Err(Refused::Busy),
        };
        // Callers that give up leave their ids behind; a writer that is held up must not let those pile up.
        if self.queue.len() >= 2 * self.in_flight_max {
            let slots = &self.slots;
            self.queue
                .retain(|id| matches!(slot_of(slots, *id).map(|slot| &slot.state), Some(State::Queued(..))));
        }
        let (sender, reply) = oneshot::channel();
        let slot = &mut self.slots[index as usize];
        slot.state = State::Queued(frame, sender);
        let id = u64::from(slot.generation) << 32 | u64::from(index);
        self.queue.push_back(id);
        self.queued_bytes += bytes;
        Ok((id, reply))
    }

    /// Moves queued calls into `batch` until it is full. From here on they count as sent.
    pub(crate) fn take(&mut self, batch: &mut Batch) {
        while !batch.is_full() {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(slot) = slot_of_mut(&mut self.slots, id) else { continue };
            match std::mem::replace(&mut slot.state, State::Free) {
                State::Queued(frame, sender) => {
                    slot.state = State::Sent(sender);
                    self.queued_bytes -= frame.wire_len();
                    batch.push(id, frame);
                }
                other => slot.state = other,
            }
        }
    }

    /// Hands an answer to its caller, if it still waits.
    pub(crate) fn complete(&mut self, id: u64, frame: Frame) {
        // An answer to what was not sent yet is nonsense; it waits for its own.
        if let Some(Slot { state: State::Sent(_), .. }) = slot_of(&self.slots, id)
            && let Some(sender) = self.release(id)
        {
            // The caller may have gone away this very moment.
            let _ = sender.send(Ok(frame));
        }
    }

    /// Frees the slot of a caller that no longer waits.
    pub(crate) fn give_up(&mut self, id: u64) -> GivenUp {
        let outcome = match slot_of(&self.slots, id).map(|slot| &slot.state) {
            Some(State::Queued(..)) => GivenUp::Unsent,
            Some(State::Sent(_)) => GivenUp::Sent,
            Some(State::Free) | None => GivenUp::Done,
        };
        self.release(id);
        outcome
    }

    /// Takes no further call, and fails those that are still queued as not sent.
    pub(crate) fn refuse(&mut self, reason: &str, not_sent: impl Fn() -> CallError) {
        self.closed.get_or_insert_with(|| reason.to_owned());
        while let Some(id) = self.queue.pop_front() {
            if let Some(sender) = self.release(id) {
                let _ = sender.send(Err(not_sent()));
            }
        }
    }

    /// Also fails those that were sent: nothing will answer them.
    pub(crate) fn fail(
        &mut self,
        reason: &str,
        not_sent: impl Fn() -> CallError,
        lost: impl Fn() -> CallError,
    ) {
        self.refuse(reason, not_sent);
        for index in 0..self.slots.len() {
            let id = u64::from(self.slots[index].generation) << 32 | index as u64;
            if let Some(sender) = self.release(id) {
                let _ = sender.send(Err(lost()));
            }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Frees a slot and returns its caller, unless it was free.
    fn release(&mut self, id: u64) -> Option<oneshot::Sender<Result<Frame, CallError>>> {
        let slot = slot_of_mut(&mut self.slots, id)?;
        let sender = match std::mem::replace(&mut slot.state, State::Free) {
            State::Free => return None,
            State::Queued(frame, sender) => {
                self.queued_bytes -= frame.wire_len();
                sender
            }
            State::Sent(sender) => sender,
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id as u32);
        Some(sender)
    }
}

fn slot_of(slots: &[Slot], id: u64) -> Option<&Slot> {
    slots.get(id as u32 as usize).filter(|slot| u64::from(slot.generation) == id >> 32)
}

fn slot_of_mut(slots: &mut [Slot], id: u64) -> Option<&mut Slot> {
    slots.get_mut(id as u32 as usize).filter(|slot| u64::from(slot.generation) == id >> 32)
}
