//! Pausing a process, as `SIGSTOP`, a suspended virtual machine or a very long garbage collection would.
//!
//! All nodes share one runtime, so a process cannot be stopped whole. What is held are its QUIC drivers, timers of theirs
//! included, and its disk: nothing comes in, goes out, is minted, written or acknowledged, and afterwards everything that has
//! waited happens at once. Timeouts of the node's own that run out during a pause are noticed at once instead of at
//! its end; what they lead to is held like everything else.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use dynkv_net::socket::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

/// Lets a process run, or not.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    shut: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds everything behind the gate.
    pub fn shut(&self) {
        self.state().shut = true;
    }

    /// Lets everything behind the gate go on.
    pub fn open(&self) {
        let waiting = {
            let mut state = self.state();
            state.shut = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether the gate is shut; the task is woken when it opens.
    fn holds(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        if state.shut && !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        state.shut
    }

    /// Waits until the gate is open.
    pub async fn passed(&self) {
        poll_fn(|cx| if self.holds(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

/// quinn's runtime behind a gate.
pub struct GatedRuntime(pub Gate);

impl fmt::Debug for GatedRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatedRuntime").finish_non_exhaustive()
    }
}

impl Runtime for GatedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, mut driver: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let gate = self.0.clone();
        let held = poll_fn(move |cx| if gate.holds(cx) { Poll::Pending } else { driver.as_mut().poll(cx) });
        TokioRuntime.spawn(Box::pin(held));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shut_gate_holds_a_driver_and_lets_it_go_on() {
        let gate = Gate::default();
        let runtime = GatedRuntime(gate.clone());
        let steps = Arc::new(AtomicU32::new(0));
        let counter = steps.clone();
        runtime.spawn(Box::pin(async move {
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }));
        let after_ms = async |ms| {
            tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            steps.load(Ordering::SeqCst)
        };
        assert!(after_ms(100).await >= 90);
        gate.shut();
        let before = steps.load(Ordering::SeqCst);
        assert_eq!(after_ms(100).await, before);
        gate.open();
        assert!(after_ms(100).await >= before + 90);
    }
}
