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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const IN_FLIGHT_MAX: usize = 4;
    const QUEUE_BYTES_MAX: usize = 400;

    fn frame(body_bytes: usize, mark: u16) -> Frame {
        Frame { kind: mark, header: Bytes::new(), body: Bytes::from(vec![0; body_bytes]) }
    }

    fn not_sent() -> CallError {
        CallError::Busy { remote: SocketAddr::from(([127, 0, 0, 1], 1)) }
    }

    fn lost() -> CallError {
        CallError::Lost { remote: SocketAddr::from(([127, 0, 0, 1], 1)), reason: String::new() }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin {
            body_bytes: usize,
        },
        Take,
        /// Answers the call begun so many calls ago, which may be over.
        Complete {
            back: usize,
        },
        CompleteUnknown {
            id: u64,
        },
        GiveUp {
            back: usize,
        },
        Refuse,
        Fail,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..300usize).prop_map(|body_bytes| Step::Begin { body_bytes }),
            4 => Just(Step::Take),
            4 => (0..8usize).prop_map(|back| Step::Complete { back }),
            1 => any::<u64>().prop_map(|id| Step::CompleteUnknown { id }),
            3 => (0..8usize).prop_map(|back| Step::GiveUp { back }),
            1 => Just(Step::Refuse),
            1 => Just(Step::Fail),
        ]
    }

    /// What a call should be, in the order begun.
    struct Expected {
        id: u64,
        bytes: usize,
        sent: bool,
        reply: Reply,
    }

    /// The call begun `back` calls ago: its number and id. Ids of calls that are over must do nothing.
    fn pick(begun: &[u64], back: usize) -> Option<(usize, u64)> {
        let number = begun.len().checked_sub(back + 1)?;
        Some((number, begun[number]))
    }

    fn check(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut calls = Calls::new(IN_FLIGHT_MAX, QUEUE_BYTES_MAX);
        let mut open: BTreeMap<usize, Expected> = BTreeMap::new();
        let (mut begun, mut closed) = (Vec::new(), false);
        for step in steps {
            let queued_bytes: usize = open.values().filter(|call| !call.sent).map(|call| call.bytes).sum();
            prop_assert_eq!(calls.queued_bytes, queued_bytes);
            prop_assert!(calls.queue.len() <= 2 * IN_FLIGHT_MAX);
            match step {
                Step::Begin { body_bytes } => {
                    let frame = frame(body_bytes, begun.len() as u16);
                    let bytes = frame.wire_len();
                    let fits = queued_bytes == 0 || queued_bytes + bytes <= QUEUE_BYTES_MAX;
                    match calls.begin(frame) {
                        Ok((id, reply)) => {
                            prop_assert!(!closed && fits && open.len() < IN_FLIGHT_MAX);
                            prop_assert!(!begun.contains(&id), "an id was given twice");
                            open.insert(begun.len(), Expected { id, bytes, sent: false, reply });
                            begun.push(id);
                        }
                        Err(Refused::Closed(reason)) => prop_assert!(closed && reason == "over"),
                        Err(Refused::Busy) => prop_assert!(!closed && (!fits || open.len() == IN_FLIGHT_MAX)),
                    }
                }
                Step::Take => {
                    let mut batch = Batch::default();
                    calls.take(&mut batch);
                    // What is taken is exactly what was queued, in order.
                    let mut wire = Vec::new();
                    batch.chunks().iter().for_each(|chunk| wire.extend_from_slice(chunk));
                    let mut wire = bytes::BytesMut::from(&wire[..]);
                    for (number, call) in open.iter_mut().filter(|(_, call)| !call.sent) {
                        let (id, frame) = Frame::read(&mut wire, 10_000).unwrap().unwrap();
                        prop_assert_eq!((id, frame.kind), (call.id, *number as u16));
                        call.sent = true;
                    }
                    prop_assert!(wire.is_empty());
                }
                Step::Complete { back } => {
                    let Some((number, id)) = pick(&begun, back) else { continue };
                    calls.complete(id, frame(1, number as u16));
                    if open.get(&number).is_some_and(|call| call.sent) {
                        let mut call = open.remove(&number).expect("just seen");
                        prop_assert_eq!(call.reply.try_recv().unwrap().unwrap().kind, number as u16);
                    }
                }
                Step::CompleteUnknown { id } if !begun.contains(&id) => {
                    calls.complete(id, frame(1, u16::MAX));
                }
                Step::CompleteUnknown { .. } => {}
                Step::GiveUp { back } => {
                    let Some((number, id)) = pick(&begun, back) else { continue };
                    let expected = match open.remove(&number) {
                        None => GivenUp::Done,
                        Some(call) if call.sent => GivenUp::Sent,
                        Some(_) => GivenUp::Unsent,
                    };
                    prop_assert_eq!(calls.give_up(id), expected);
                }
                Step::Refuse | Step::Fail => {
                    closed = true;
                    let all = matches!(step, Step::Fail);
                    if all {
                        calls.fail("over", not_sent, lost);
                    } else {
                        calls.refuse("over", not_sent);
                    }
                    for (number, mut call) in std::mem::take(&mut open) {
                        match call.sent {
                            false => prop_assert_eq!(call.reply.try_recv().unwrap(), Err(not_sent())),
                            true if all => prop_assert_eq!(call.reply.try_recv().unwrap(), Err(lost())),
                            true => {
                                open.insert(number, call);
                            }
                        }
                    }
                }
            }
            // Nobody else was answered.
            for call in open.values_mut() {
                prop_assert_eq!(call.reply.try_recv(), Err(oneshot::error::TryRecvError::Empty));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn each_call_ends_once_and_as_it_should(steps in prop::collection::vec(step(), 0..200)) {
            check(steps)?;
        }
    }

    #[test]
    fn callers_that_give_up_leave_nothing_behind_a_stalled_writer() {
        let mut calls = Calls::new(IN_FLIGHT_MAX, QUEUE_BYTES_MAX);
        for _ in 0..10_000 {
            let (id, _reply) = calls.begin(frame(100, 0)).unwrap();
            assert_eq!(calls.give_up(id), GivenUp::Unsent);
        }
        assert!(calls.queue.len() <= 2 * IN_FLIGHT_MAX && calls.slots.len() == 1 && calls.queued_bytes == 0);
    }
}
